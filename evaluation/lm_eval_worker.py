"""The runner's side of lm-eval's process: starts it, sends jobs, restarts it after a crash."""

import logging
import multiprocessing
from pathlib import Path
from typing import Any

from evaluation.backends import Backend
from evaluation.lm_eval_process import LmEvalJob, serve
from evaluation.lm_eval_result import LmEvalResult
from recipes.common.errors import UserError

log = logging.getLogger(__name__)

_LOAD_SECONDS = 3600  # a 30B model from a slow disk


class UnitFailed(Exception):
    """A unit has no result; the argument is the reason, half a sentence."""


class LmEvalWorker:
    """lm-eval's process, restarted after a job that crashed it; a context that ends it.

    Args:
        backend: loads the model.
        tokenizer: the model's folder.
        log: receives everything that lm-eval prints.
    """

    def __init__(self, backend: Backend, tokenizer: Path, log: Path) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._log = log
        self._process: Any = None
        self._connection: Any = None

    def __enter__(self) -> "LmEvalWorker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def start(self) -> None:
        """Start the process and wait until it has loaded the model.

        Raises:
            UserError: the model cannot be loaded.
        """
        # a fork, so that a process that has lm-eval loaded needs no second import of it
        context = multiprocessing.get_context("fork")
        self._connection, child_end = context.Pipe()
        arguments = (child_end, self._connection, self._backend, self._tokenizer, self._log)
        self._process = context.Process(target=serve, args=arguments)
        self._process.start()
        # or the end of the process would not close the pipe
        child_end.close()

        kind, value = self._receive(_LOAD_SECONDS)
        if kind == "server":
            raise self._stopped("the first request", value)
        if kind != "ready":
            raise UserError(
                f"{self._backend.name} cannot start ({value}); {self._log} has all of it"
            )
        if value:
            log.warning("%s; units that need them will have no result", value)

    def run(self, job: LmEvalJob, seconds: float) -> LmEvalResult:
        """Score a job.

        Raises:
            UnitFailed: it failed, took more than ``seconds``, or ended its process.
            UserError: the model cannot be loaded, its server stopped answering, or the disk is
                full.
        """
        if self._process is None:
            self.start()
        self._connection.send(job)
        kind, value = self._receive(seconds)
        if kind == "done":
            return value
        if kind == "server":
            raise self._stopped(job.name, value)
        if kind == "full":
            raise UserError(
                f"{self._log.parent}: no space left on the device in {job.name}, finished units "
                f"are kept; free some and run again"
            )
        raise UnitFailed(value)

    def _stopped(self, name: str, reason: str) -> UserError:
        return UserError(
            f"{self._backend.arguments['base_url']}: stopped answering in {name} ({reason}); "
            f"finished units are kept, the same command continues when the server answers"
        )

    def _receive(self, seconds: float) -> tuple[str, Any]:
        """Return the process's answer; ``("failed", reason)`` where it hangs or has ended."""
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
            reason = f"took more than {seconds:,.0f} s"
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            # multiprocessing's exit code is negative for a signal
            reason = f"lm-eval ended with {code}"
            if code < 0:
                reason = f"lm-eval's process was killed by signal {-code}"
        self._end()
        return "failed", reason

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None
