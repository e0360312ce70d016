"""The chain as one nemo-run experiment: every task is a ``granite41`` command that can also be run by hand."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.spec import SIZES, STAGES, UserError, resolve_pretraining, sizes_of
from recipes.spec.resolve import require_known

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


def stages_of(stages: str, size: str) -> list[str]:
    """Return the stages that ``A`` or ``A..B`` names, in the order of the run, as far as ``size`` has them.

    Raises:
        UserError: an unknown stage, one that the size does not go through, or a range from a later to an earlier one.
    """
    first, dots, last = stages.partition("..")
    for name in (first, last) if dots else (first,):
        require_known("stage", name, STAGES)
        if size not in sizes_of(name):
            raise UserError(f"{name}: {size} does not go through it, only {', '.join(sizes_of(name))}; leave it out")
    chain = [name for name in STAGES if size in sizes_of(name)]
    begin, end = chain.index(first), chain.index(last if dots else first)
    if begin > end:
        raise UserError(f"{stages}: {first} comes after {last}; name the earlier stage first")
    return chain[begin : end + 1]


def tasks(
    stages: str,
    size: str,
    run_folder: Path,
    data: Path | None,
    devices: int | None,
    overrides: Sequence[str],
    init: str | None = None,
) -> list[Task]:
    """Return the tasks of a chain: prepare data (tiny only); train, export and report each stage; generate at the end.

    Args:
        stages: ``A`` or ``A..B``.
        devices: processes to train with, a GPU each; as many as hold the model once when None.
        overrides: for every stage of the chain.
        init: what the first stage begins with in place of its parent: a NeMo checkpoint, a finished stage's folder, or
            ``hf:NAME`` or ``hf:FOLDER``, which is imported first.

    Raises:
        UserError: an unknown stage, size or override; a stage of another kind; a size that does not prepare its own
            data, and none given.
    """
    require_known("size", size, SIZES)
    names = stages_of(stages, size)
    recipes = {name: resolve_pretraining(name, size, overrides) for name in names}
    chain = []
    if data is None:
        if size != "tiny":
            raise UserError(f"size {size} needs prepared data: name its folder with --data")
        data, vocab_size = run_folder / "data", recipes[names[0]].model.vocab_size.value
        chain.append(Task("data", ("data", "tiny", "--output", str(data), f"--vocab-size={vocab_size}")))
    if init and init.startswith("hf:"):
        imported = run_folder / "init"
        if not imported.exists():
            chain.append(Task("init", ("import", "--hf", init.removeprefix("hf:"), "--output", str(imported))))
        init = str(imported)
    for name, recipe in recipes.items():
        folder = run_folder / name
        where = ("--run-dir", str(run_folder), "--data", str(data))
        begin = ("--init", init) if init and name == names[0] else ()
        processes = devices or recipe.parallelism.gpus_per_replica
        chain.append(Task(name, ("train", name, "--size", size, *where, *begin, *overrides), processes))
        if not (folder / "hf").exists():
            words = ("export", "--checkpoint", str(folder), "--output", str(folder / "hf"))
            chain.append(Task(f"{name}-export", words))
        chain.append(Task(f"{name}-report", ("report", "--run-dir", str(run_folder))))
    chain.append(Task("generate", ("generate", str(run_folder / names[-1] / "hf"))))
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
