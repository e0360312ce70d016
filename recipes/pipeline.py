"""The chain as one nemo-run experiment: every task is a ``granite41`` command that can also be run by hand."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.spec import UserError, resolve_pretraining


@dataclass(frozen=True)
class Task:
    """One command of the chain; ``arguments`` follow ``granite41``."""

    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: granite41 {shlex.join(self.arguments)}"


def tasks(stage: str, size: str, run_folder: Path, data: Path | None, overrides: Sequence[str]) -> list[Task]:
    """Return the tasks of one stage: prepare data (tiny only), train, export, generate from the export.

    Raises:
        UserError: an unknown stage, size or override; no data for a size that does not prepare its own.
    """
    recipe = resolve_pretraining(stage, size, overrides)
    chain = []
    if data is None:
        if size != "tiny":
            raise UserError(f"size {size} needs prepared data: name its folder with --data")
        data = run_folder / "data"
        chain.append(
            Task("data", ("data", "tiny", "--output", str(data), f"--vocab-size={recipe.model.vocab_size.value}"))
        )
    folder = run_folder / stage
    where = ("--run-dir", str(run_folder), "--data", str(data))
    chain.append(Task(stage, ("train", stage, "--size", size, *where, *overrides)))
    if not (folder / "hf").exists():
        chain.append(Task(f"{stage}-export", ("export", "--checkpoint", str(folder), "--output", str(folder / "hf"))))
    chain.append(Task(f"{stage}-generate", ("generate", str(folder / "hf"))))
    chain.append(Task("report", ("report", "--run-dir", str(run_folder))))
    return chain


def run_local(chain: Sequence[Task], run_folder: Path) -> None:
    """Run ``chain`` one task after the other through nemo-run's local executor, with their output on the terminal.

    Raises:
        UserError: a task failed; the ones after it are not started.
    """
    import nemo_run as run

    run.config.set_nemorun_home(str((run_folder / "nemo_run").resolve()))
    for task in chain:
        # nemo-run 0.11.1 starts the next local task of an experiment whatever became of the one before
        with run.Experiment(f"{run_folder.name}_{task.name}", clean_mode=True) as experiment:
            script = run.Script(path="recipes.cli", args=list(task.arguments), entrypoint=sys.executable, m=True)
            experiment.add(script, executor=run.LocalExecutor(), name=task.name, tail_logs=True)
            experiment.run()
        state = experiment.jobs[0].state.name
        if state != "SUCCEEDED":
            raise UserError(f"{task.name} ended as {state}, see above; the same command continues the run")
