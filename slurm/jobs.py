"""The tasks of a chain as Slurm jobs: partition, nodes and processes of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.common.errors import UserError
from recipes.runs.task import Task
from slurm.cluster import Cluster, Partition


@dataclass(frozen=True)
class SlurmJob:
    """A task, and what it requests of which partition.

    Attributes:
        task: the command, and the tasks that it waits for.
        partition: where it runs.
        nodes: number of nodes.
        processes_per_node: that torchrun starts on each node.
    """

    task: Task
    partition: Partition
    nodes: int
    processes_per_node: int

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def __str__(self) -> str:
        size = f"{self.nodes} x {self.processes_per_node} on {self.partition.partition}"
        after = f" after {', '.join(self.task.after)}" if self.task.after else ""
        return f"{self.name}: {size}{after}"


def build_jobs(chain: Sequence[Task], cluster: Cluster) -> list[SlurmJob]:
    """Return a job for each task: training on as many nodes as its processes need, others on one.

    Raises:
        UserError: a number of processes that does not fill its nodes.
    """
    compute = cluster.compute
    # without a partition of their own, CPU tasks share a node of the other, and take no GPU
    cpu_partition = cluster.cpu_partition or Partition(
        compute.partition,
        compute.time_limit,
        qos=compute.qos,
        constraint=compute.constraint,
    )
    return [_build_job(task, compute.gpus_per_node, cpu_partition, cluster) for task in chain]


def _build_job(
    task: Task,
    gpus_per_node: int,
    cpu_partition: Partition,
    cluster: Cluster,
) -> SlurmJob:
    per_node = min(task.processes, gpus_per_node)
    if task.processes % per_node:
        raise UserError(
            f"{task.name}: {task.processes} processes do not fill nodes of {per_node} GPUs; "
            f"choose a multiple with --devices"
        )
    partition = cpu_partition
    if task.stage_folder:
        partition = cluster.compute
    elif task.serves_rollouts:
        partition = cluster.rollout_servers or cluster.compute
    elif task.needs_gpu:
        partition = cluster.evaluate or cluster.compute
    return SlurmJob(task, partition, task.processes // per_node, per_node)
