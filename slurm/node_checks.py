"""Checks of a node of each partition, in the environment that a job has there."""

import shlex
from collections.abc import Iterator, Sequence

from recipes.common.check_result import CheckResult
from recipes.runs.task import Task
from slurm.batch_script import environment_lines
from slurm.cluster import Cluster, Partition
from slurm.jobs import SlurmJob
from slurm.shell import Shell, last_line

# a partition without a free node is not waited for
_PATIENCE_SECONDS = 60
_REQUIRED = ("nemo", "megatron.core", "nemo_run", "lightning", "transformers", "lm_eval", "typer")
_LOAD = 'granite41_load() { module load "$1" || { echo "module load $1 failed" >&2; exit 2; }; }'
_FIND_MODULES = f"""\
import importlib.util, platform, sys
missing = []
for name in {_REQUIRED}:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        missing.append(name)
if missing:
    sys.exit(f"{{sys.executable}} lacks {{', '.join(missing)}}")
print(f"{{platform.node()}}: Python {{platform.python_version()}} with the requirements")
"""


def check_nodes(cluster: Cluster) -> list[CheckResult]:
    """Start a job of seconds in each partition, which tries modules and interpreter.

    A partition without a node that is free within a minute passes, and says that none was tried.

    Raises:
        UserError: the login node cannot be reached.
    """
    return [
        check for key, partition in cluster.partitions() for check in _try(cluster, key, partition)
    ]


def _try(cluster: Cluster, key: str, partition: Partition) -> Iterator[CheckResult]:
    is_cpu = key == "cpu_partition"
    job = SlurmJob(Task(key, (), needs_gpu=not is_cpu), partition, nodes=1, processes_per_node=1)
    shell = Shell(cluster)
    options = _srun_options(cluster, partition)
    environment = [_LOAD, *environment_lines(job, cluster)]

    # modules are loaded outside of the container
    if cluster.container and cluster.modules:
        expected = f"loads {', '.join(cluster.modules)}"
        yield _run(shell, f"{key}.modules", options, environment, expected)

    if cluster.container:
        options = [*options, f"--container-image={cluster.container.image}"]
        environment = []
    python = f"{shlex.quote(cluster.python)} -c {shlex.quote(_FIND_MODULES)}"
    expected = f"{cluster.python} with requirements.txt"
    yield _run(shell, f"{key}.node", options, [*environment, python], expected)


def _srun_options(cluster: Cluster, partition: Partition) -> list[str]:
    options = {
        "account": cluster.account,
        "partition": partition.partition,
        "gres": partition.gres,
        "qos": partition.qos,
        "constraint": partition.constraint,
    }
    words = [f"--{name}={value}" for name, value in options.items() if value]
    return [*words, *cluster.srun_args]


def _run(
    shell: Shell,
    name: str,
    options: Sequence[str],
    lines: Sequence[str],
    expected: str,
) -> CheckResult:
    limits = [f"--immediate={_PATIENCE_SECONDS}", "--time=5", "--nodes=1", "--ntasks=1"]
    done = shell.run(["srun", "--quiet", *limits, *options, "bash", "-c", "\n".join(lines)])
    errors = done.stderr.decode(errors="replace")
    if done.returncode == 0:
        return CheckResult(name, True, last_line(done.stdout, "no problem"), expected)
    if "Unable to allocate resources" in errors and "busy" in errors:
        found = f"no node was free within {_PATIENCE_SECONDS} s, so none was tried"
        return CheckResult(name, True, found, expected)

    # Slurm adds its own lines about the failed step
    own = [line for line in errors.splitlines() if not line.startswith(("srun:", "slurmstepd:"))]
    reason = last_line("\n".join(own)) if own else last_line(done.stdout, last_line(errors))
    return CheckResult(name, False, reason, expected)
