"""A signal or a time limit that ends a stage after its step, on all ranks alike."""

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch

from recipes.common.environment import STOP_AT
from recipes.training.full_disk import is_first_rank

log = logging.getLogger(__name__)

# a signal that stops a stage after its step -> what it does when it comes again
STOP_SIGNALS: dict[int, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
# a launcher and Slurm each pass on the signal that both received
REPEATED_SECONDS = 2.0


class StopRequest:
    """SIGTERM or SIGINT to any rank, or a job's time limit that is near.

    The same signal again ends the process at once.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._received_at = 0.0
        self._is_late = False

    def listen(self) -> None:
        """Receive signals from now on; before, they do what they do without this."""
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                signal.signal(signum, self._receive)

    def agreed(self) -> int:
        """Return the signal that any rank has received, the same on all of them; 0 for none.

        A time limit that is near does what SIGTERM does.
        """
        self._is_late = time.time() >= float(os.environ.get(STOP_AT, "inf"))
        if self._is_late and not self._signal:
            self._signal = signal.SIGTERM
        received = torch.tensor(self._signal, device=torch.cuda.current_device())
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received.item())

    def log_stop(self, stage: str, step: int, signum: int) -> None:
        """Log that a stage was stopped after a step, whose checkpoint is saved."""
        reason = signal.Signals(signum).name
        if self._is_late:
            reason = "the job's time limit"
        if is_first_rank():
            log.info(
                "%s: stopped after step %d by %s, checkpoint saved; the same command continues",
                stage,
                step,
                reason,
            )

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal = signum
            self._received_at = time.monotonic()
        elif time.monotonic() - self._received_at > REPEATED_SECONDS:
            signal.signal(signum, STOP_SIGNALS[signum])
            signal.raise_signal(signum)
