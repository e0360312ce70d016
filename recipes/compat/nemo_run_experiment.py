"""nemo-run 0.11.1, nemo_run/run/experiment.py: a local chain ends at its first failure or a signal.

``Experiment._wait_for_jobs`` swallows failures, so that tasks start after one that failed, and it
knows nothing of signals to tasks in sessions of their own. ``Runner.wait`` of torchx, through
nemo_run/run/torchx_backend/runner.py, looks at a task every two seconds, which a chain of short
tasks spends waiting.
"""

import contextvars
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import nemo_run as run

from recipes.compat.patching import replace, require_versions

PATCHED_BY = "recipes/compat/nemo_run_experiment.py"
WRITTEN_FOR = {"nemo-run": "0.11.1"}
POLL_SECONDS = 0.2


class LocalExperiment(run.Experiment):
    """An experiment of local tasks that ends with the first one that fails.

    Attributes:
        on_start: receives the name of each task that was started.
        on_success: receives the names of tasks that ran side by side and have succeeded.
        on_failure: receives the names of tasks that failed side by side, and raises.
    """

    on_start: Callable[[str], None]
    on_success: Callable[[Sequence[str]], None]
    on_failure: Callable[[Sequence[str]], None]

    def _wait_for_jobs(self, jobs: list[Any]) -> None:
        """Wait for tasks that run side by side.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM, after the tasks have ended.
            Exception: what ``on_failure`` raises.
        """
        for job in jobs:
            self.on_start(job.id)
        interrupted = threading.Event()

        def cancel() -> None:
            for job in jobs:
                self.cancel(job.id)

        def interrupt(signum: int, frame: object) -> None:
            if interrupted.is_set():
                return
            interrupted.set()
            # the tasks are in sessions of their own and get no Ctrl-C; in a thread, as the
            # interrupted code may hold a lock that cancelling waits for
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(cancel,)).start()

        # torchx sets handlers of its own when an experiment is made
        signals = (signal.SIGINT, signal.SIGTERM)
        handlers = {signum: signal.signal(signum, interrupt) for signum in signals}
        super()._wait_for_jobs(jobs)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)

        if interrupted.is_set():
            raise KeyboardInterrupt
        self.on_success([job.id for job in jobs if job.state.name == "SUCCEEDED"])
        failed = [job.id for job in jobs if job.state.name != "SUCCEEDED"]
        if failed:
            self.on_failure(failed)


def local_experiment(name: str) -> LocalExperiment:
    """Return an experiment that prints nothing by itself.

    Raises:
        RuntimeError: another nemo-run than the one that this is written for.
    """
    require_versions(WRITTEN_FOR, PATCHED_BY)
    experiment = LocalExperiment(name, log_level="WARNING", clean_mode=True)
    runner = experiment._runner
    wait = runner.wait

    def wait_often(handle: str, **options: Any) -> Any:
        return wait(handle, wait_interval=POLL_SECONDS)

    replace(runner, "wait", wait_often, PATCHED_BY)
    return experiment
