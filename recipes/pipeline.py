"""The chain as one nemo-run experiment: every task is a ``granite41`` command that can also be run by hand."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.spec import UserError
from recipes.training.run import model_parallel_size, ready_recipe

if TYPE_CHECKING:
    import nemo_run as run


@dataclass(frozen=True)
class Task:
    """One command of the chain: ``arguments`` follow ``granite41``, ``processes`` of it are started by torchrun."""

    name: str
    arguments: tuple[str, ...]
    processes: int = 1

    def __str__(self) -> str:
        processes = f"torchrun --nproc-per-node {self.processes} -m recipes.cli" if self.processes > 1 else "granite41"
        return f"{self.name}: {processes} {shlex.join(self.arguments)}"


def tasks(
    stage: str, size: str, run_folder: Path, data: Path | None, devices: int | None, overrides: Sequence[str]
) -> list[Task]:
    """Return the tasks of one stage: prepare data (tiny only), train, export, generate from the export.

    Args:
        devices: processes to train with, a GPU each; as many as hold the model once when None.

    Raises:
        UserError: an unknown stage, size or override; a recipe that is still to come; a size that does not prepare
            its own data, and none given.
    """
    recipe = ready_recipe(stage, size, overrides)
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
    processes = devices or model_parallel_size(recipe)
    chain.append(Task(stage, ("train", stage, "--size", size, *where, *overrides), processes))
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
    # torchrun lies beside this Python, also where the virtual environment is not activated
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for task in chain:
        # nemo-run 0.11.1 starts the next local task of an experiment whatever became of the one before
        with run.Experiment(f"{run_folder.name}_{task.name}", clean_mode=True) as experiment:
            script = run.Script(path="recipes.cli", args=list(task.arguments), entrypoint=sys.executable, m=True)
            executor = run.LocalExecutor(ntasks_per_node=task.processes, env_vars={"PATH": path})
            if task.processes > 1:
                executor.launcher = "torchrun"
            experiment.add(script, executor=executor, name=task.name, tail_logs=True)
            experiment.run()
            # leaving the experiment waits for the task, which runs in a session of its own and hears no Ctrl-C
            interrupted = _cancel_on_interrupt(experiment, task.name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if interrupted:
            raise KeyboardInterrupt
        state = experiment.jobs[0].state.name
        if state != "SUCCEEDED":
            raise UserError(f"{task.name} ended as {state}, see above; the same command continues the run")


def _cancel_on_interrupt(experiment: "run.Experiment", name: str) -> list[int]:
    """Stop a task on SIGINT or SIGTERM; return a list that then holds the signal."""
    received: list[int] = []

    def cancel(signum: int, frame: object) -> None:
        received.append(signum)
        experiment.cancel(name)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, cancel)
    return received
