"""One command of a chain."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One command of a chain, which starts when the tasks before it have succeeded.

    Attributes:
        name: unique in the chain.
        arguments: the command line after ``granite41``.
        after: names of the tasks that it waits for.
        processes: of the command; torchrun starts several.
        needs_gpu: whether it runs the model, which real sizes need a GPU for.
        stage_folder: of the stage that it trains, whose manifest says how that ended.
        units_folder: of the evaluation that it makes, whose finished units are not repeated; of a
            rollout server, of the weights that it is sent. What is new in it is progress.
        array: jobs of an array on a cluster, each with one shard of the work.
        after_start: it starts when those that it waits for have started, not when they have ended.
        is_server: it gets its node's inner address as ``--host``.
        serves_rollouts: whether it runs beside a trainer, in the partition of rollout servers.
    """

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    processes: int = 1
    needs_gpu: bool = False
    stage_folder: Path | None = None
    units_folder: Path | None = None
    array: int = 1
    after_start: bool = False
    is_server: bool = False
    serves_rollouts: bool = False

    def __str__(self) -> str:
        launcher = "granite41"
        if self.processes > 1:
            launcher = f"torchrun --nproc-per-node {self.processes} -m recipes.cli"
        after = f" (after {', '.join(self.after)})" if self.after else ""
        return f"{self.name}{after}: {launcher} {shlex.join(self.arguments)}"
