"""A chain on this machine: one nemo-run experiment with dependencies, which ends at a failure."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import nemo_run as run

from recipes.common.environment import LOG_FILE
from recipes.common.errors import UserError
from recipes.compat.nemo_run_experiment import LocalExperiment, local_experiment
from recipes.launch import preloaded
from recipes.launch.display import ChainDisplay
from recipes.runs.stage_manifest import read_manifest
from recipes.runs.task import Task

LOGS = "logs"
# what takes long to import for the tasks of a chain
PRELOADED = (
    "recipes.training.pretraining",
    "recipes.merging.merge",
    "transformers.models.granite.modeling_granite",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
)
# of a failed task's output, for the terminal
_LAST_LINES = 20


def run_local(
    chain: Sequence[Task],
    run_folder: Path,
    seconds: Mapping[str, float],
    verbose: bool = False,
) -> None:
    """Run ``chain`` through nemo-run's local executor.

    Each task's progress goes to ``RUN/logs/TASK.log``, all of its output to nemo-run's own logs.
    Without a GPU the tasks are forked from a process that has NeMo loaded; with one each is a
    process of its own.

    Args:
        seconds: name of a task -> how long it is expected to take, for the time that is left.
        verbose: show all that the tasks print.

    Raises:
        UserError: a task failed; those that would have come after it are not started.
        KeyboardInterrupt: the user stopped the chain.
    """
    run.config.set_nemorun_home(str((run_folder / "nemo_run").resolve()))
    logs = (run_folder / LOGS).resolve()
    display = ChainDisplay(chain, seconds, logs)

    def fail(names: Sequence[str]) -> None:
        for name in names:
            _print_last_lines(run_folder, name)
        raise UserError(_failure(run_folder, names))

    with _fork_server(logs) as address, local_experiment(run_folder.name) as experiment:
        experiment.on_start = display.start
        experiment.on_success = display.finish
        experiment.on_failure = fail
        for task in chain:
            variables = {LOG_FILE: str(logs / f"{task.name}.log"), **address}
            _add(experiment, task, variables, verbose)
        with display:
            experiment.run()


def _add(
    experiment: LocalExperiment, task: Task, variables: Mapping[str, str], verbose: bool
) -> None:
    # torchrun lies beside this Python, also where the virtual environment is not activated
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    executor = run.LocalExecutor(
        ntasks_per_node=task.processes,
        env_vars={"PATH": path, **variables},
    )
    if task.processes > 1:
        executor.launcher = "torchrun"
    script = run.Script(
        path="recipes.cli",
        args=list(task.arguments),
        entrypoint=sys.executable,
        m=True,
    )
    experiment.add(
        script,
        executor=executor,
        name=task.name,
        tail_logs=verbose,
        dependencies=list(task.after),
    )


def _fork_server(logs: Path) -> AbstractContextManager[dict[str, str]]:
    import torch

    if torch.cuda.is_available():
        return nullcontext({})
    return preloaded.server(PRELOADED, logs / "imports.log")


def _failure(run_folder: Path, names: Sequence[str]) -> str:
    reasons = []
    for name in names:
        manifest = read_manifest(run_folder / name)
        reason = (manifest and manifest.error) or "see above"
        reasons.append(f"{name} failed ({reason})")
    return (
        f"{' and '.join(reasons)}; what comes after it was not started, "
        f"the same command continues the run"
    )


def _print_last_lines(run_folder: Path, name: str) -> None:
    """Print the end of what a failed task has printed, and where the rest is."""
    pattern = f"nemo_run/experiments/*/*/{name}/nemo_run/*/*/0/combined.log"
    logs = sorted(run_folder.glob(pattern), key=os.path.getmtime)
    if not logs:
        return
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"---- {name}: the last lines of {logs[-1]}", file=sys.stderr)
    for line in lines[-_LAST_LINES:]:
        print(line, file=sys.stderr)
