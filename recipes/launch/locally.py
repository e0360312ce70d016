"""The chain on this machine: one nemo-run experiment with dependencies, which ends at its first failure."""

import contextvars
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import nemo_run as run

from recipes.common.errors import UserError
from recipes.launch import preloaded
from recipes.runs.stage_manifest import read_manifest
from recipes.runs.task import Task

# what takes long to import for the tasks of a chain
_SLOW = (
    "recipes.training.pretraining",
    "recipes.merging.merge",
    "transformers.models.granite.modeling_granite",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
)


class _Chain(run.Experiment):
    """An experiment that ends with the first task that fails; nemo-run 0.11.1 starts local ones after it too."""

    run_folder: Path

    def _wait_for_jobs(self, jobs: list[Any]) -> None:
        """Wait for tasks that run side by side, and raise where one did not succeed."""
        interrupted = False

        def cancel() -> None:
            for job in jobs:
                self.cancel(job.id)

        def interrupt(signum: int, frame: object) -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                # the tasks are in sessions of their own and hear no Ctrl-C; by a thread, as what it waits for may be a
                # lock that the interrupted code holds
                threading.Thread(target=contextvars.copy_context().run, args=(cancel,)).start()

        # torchx sets handlers of its own when an experiment is made
        before = {
            signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM)
        }
        super()._wait_for_jobs(jobs)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if interrupted:
            raise KeyboardInterrupt
        failed = [job for job in jobs if job.state.name != "SUCCEEDED"]
        if failed:
            manifests = [read_manifest(self.run_folder / job.id) for job in failed]
            reasons = [(manifest and manifest.error) or "see above" for manifest in manifests]
            told = " and ".join(
                f"{job.id} failed ({reason})" for job, reason in zip(failed, reasons, strict=True)
            )
            raise UserError(
                f"{told}; what comes after it was not started, the same command continues the run"
            )


def run_local(chain: Sequence[Task], run_folder: Path) -> None:
    """Run ``chain`` through nemo-run's local executor, with the tasks' output on the terminal.

    Without a GPU the tasks are forked from a process that has NeMo loaded; with one each is a process of its own.

    Raises:
        UserError: a task failed; those that would have come after it are not started.
        KeyboardInterrupt: the user stopped the chain.
    """
    run.config.set_nemorun_home(str((run_folder / "nemo_run").resolve()))
    # torchrun lies beside this Python, also where the virtual environment is not activated
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with (
        _server() as address,
        _Chain(run_folder.name, log_level="WARNING", clean_mode=True) as experiment,
    ):
        experiment.run_folder = run_folder
        for task in chain:
            script = run.Script(
                path="recipes.cli", args=list(task.arguments), entrypoint=sys.executable, m=True
            )
            executor = run.LocalExecutor(
                ntasks_per_node=task.processes, env_vars={"PATH": path, **address}
            )
            if task.processes > 1:
                executor.launcher = "torchrun"
            experiment.add(
                script,
                executor=executor,
                name=task.name,
                tail_logs=True,
                dependencies=list(task.after),
            )
        experiment.run()


def _server() -> AbstractContextManager[dict[str, str]]:
    import torch

    return nullcontext({}) if torch.cuda.is_available() else preloaded.server(_SLOW)
