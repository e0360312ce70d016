"""One command of a chain."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One command of the chain: ``arguments`` follow ``granite41``, ``processes`` of it are started by torchrun.

    It starts when the tasks that ``after`` names have succeeded.
    """

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    processes: int = 1
    # whether it runs the model, which real sizes need a GPU for
    needs_gpu: bool = False
    # the folder of the stage that it trains, whose manifest says how that ended
    stage_folder: Path | None = None
    # jobs of an array on a cluster, each with one shard of the work
    array: int = 1

    def __str__(self) -> str:
        processes = (
            f"torchrun --nproc-per-node {self.processes} -m recipes.cli"
            if self.processes > 1
            else "granite41"
        )
        after = f" (after {', '.join(self.after)})" if self.after else ""
        return f"{self.name}{after}: {processes} {shlex.join(self.arguments)}"
