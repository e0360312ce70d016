"""Training callbacks: progress, ``metrics/steps.jsonl``, checkpoints at an interval or a signal."""

import json
import logging
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from nemo.lightning.io.mixin import IOMixin
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils.get_rank import is_global_rank_zero

from recipes.common.environment import STOP_AT
from recipes.common.progress import Progress, duration
from recipes.compat import megatron_checkpoint
from recipes.training.metrics import open_metrics

log = logging.getLogger(__name__)

# a signal that stops a stage after its step -> what it does when it comes again
STOP_SIGNALS: dict[int, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
# a launcher and Slurm each pass on the signal that both received
REPEATED_SECONDS = 2.0


class StageProgress(pl.Callback, IOMixin):
    """Logs a line every few steps and writes a JSON line for each step and each validation.

    A step's line holds ``step`` (1 is the first), ``tokens`` seen in the stage, ``loss`` (nats per
    token, mean over the global batch), ``lr`` (base rate that the optimizer applied in this step),
    ``lr_hidden`` (that of the hidden matrices) and ``tokens_per_second``; a validation's line holds
    ``step`` and ``val_loss``. After a resume the lines of what is done again are dropped, so the
    file never holds a step or a validation twice.
    """

    def __init__(self, stage: str, tokens_per_step: int, metrics: str, print_every: int) -> None:
        self.stage = stage
        self.tokens_per_step = tokens_per_step
        self.metrics = metrics
        self.print_every = print_every
        self._file: TextIO | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the metrics file, without what will be done again, and set the first step's rate."""
        for config in trainer.lr_scheduler_configs:
            # an optimizer that was carried over from another stage brought that stage's rate
            config.scheduler.apply()

        # a checkpoint is saved before the validation of its step: NeMo would leave that out, and
        # Lightning count the batches of the validation before it as done
        loop = trainer.fit_loop.epoch_loop
        loop.skip_val_on_restart = False
        loop.val_loop.restarting = False

        self._progress = Progress(total=trainer.max_steps - trainer.global_step)
        if not is_global_rank_zero():
            return
        self._file = open_metrics(Path(self.metrics), trainer.global_step)
        start = "starts"
        if trainer.global_step:
            start = f"continues after step {trainer.global_step}"
        log.info(
            "%s: %s, %d steps of %s tokens",
            self.stage,
            start,
            trainer.max_steps,
            f"{self.tokens_per_step:,}",
        )

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the rates of this step; have the stage's last step validated at any interval."""
        self._step_started = time.monotonic()
        self._lr, self._lr_hidden = _learning_rates(trainer.optimizers[0].param_groups)
        if trainer.global_step == trainer.max_steps - 1:
            trainer.val_check_batch = trainer.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the step that is done."""
        step = trainer.global_step
        tokens = step * self.tokens_per_step
        loss = float(trainer.callback_metrics["reduced_train_loss"])
        tokens_per_second = self.tokens_per_step / (time.monotonic() - self._step_started)
        self._write(
            step=step,
            tokens=tokens,
            loss=loss,
            lr=self._lr,
            lr_hidden=self._lr_hidden,
            tokens_per_second=round(tokens_per_second, 1),
        )
        self._progress.advance(1)
        is_shown = step % self.print_every == 0 or step == trainer.max_steps
        if self._file and is_shown:
            log.info(
                "%s: step %d/%d  tokens %s  loss %.3f  lr %.3g  %s tokens/s  %s left",
                self.stage,
                step,
                trainer.max_steps,
                f"{tokens:,}",
                loss,
                self._lr,
                f"{tokens_per_second:,.0f}",
                duration(self._progress.seconds_left),
            )

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the validation loss."""
        if trainer.sanity_checking:
            return
        step = trainer.global_step
        loss = float(trainer.callback_metrics["val_loss"])
        self._write(step=step, val_loss=loss)
        if self._file:
            log.info(
                "%s: step %d/%d  validation loss %.3f", self.stage, step, trainer.max_steps, loss
            )

    def on_train_end(self, *args: Any) -> None:
        """Close the metrics file."""
        if self._file:
            self._file.close()

    def _write(self, **values: Any) -> None:
        if self._file:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()


class StageCheckpoint(ModelCheckpoint):
    """NeMo's checkpoint callback, which also saves at the stage's end and when a signal comes.

    SIGTERM or SIGINT to any rank ends all of them after the same step, with exit status 128 + the
    signal's number; the same signal again ends the process at once. A job's time limit that is near
    does what SIGTERM does. Before the first step, signals do what they do without this. In the last
    step, the stage continues to its end.
    """

    def __init__(self, *args: Any, stage: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage = stage
        self._signal = 0
        self._received_at = 0.0

    def setup(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Remove what a kill left: checkpoints half written, and one more than are kept."""
        super().setup(trainer, *args, **kwargs)
        megatron_checkpoint.install()
        if is_global_rank_zero():
            whole = sorted(Path(str(self.dirpath)).glob("step=*/weights/metadata.json"))
            for path in whole[: -self.save_top_k]:
                shutil.rmtree(path.parents[1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's signal handlers, which would end one rank alone and save nothing."""
        super().on_train_start(trainer, pl_module)
        # a signal that came before this one's handlers
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                signal.signal(signum, self._receive)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save at the interval, or for a signal that any rank received; not in the last step."""
        if trainer.global_step == trainer.max_steps:
            return
        super().on_train_batch_end(trainer, *args)

        # all ranks stop after the same step, whichever one received the signal
        is_late = time.time() >= float(os.environ.get(STOP_AT, "inf"))
        if is_late and not self._signal:
            self._signal = signal.SIGTERM
        received = torch.tensor(self._signal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        if not received:
            return

        self._save(trainer)
        if is_global_rank_zero():
            reason = signal.Signals(received.item()).name
            if is_late:
                reason = "the job's time limit"
            log.info(
                "%s: stopped after step %d by %s, checkpoint saved; the same command continues",
                self.stage,
                trainer.global_step,
                reason,
            )
        raise SystemExit(128 + received.item())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the stage, which has been validated by now."""
        super().on_train_end(trainer, pl_module)
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal = signum
            self._received_at = time.monotonic()
        elif time.monotonic() - self._received_at > REPEATED_SECONDS:
            signal.signal(signum, STOP_SIGNALS[signum])
            signal.raise_signal(signum)


def _learning_rates(param_groups: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the base rate and that of the hidden matrices, whose group has a multiplier below 1.

    A rank without one of the two kinds has no group for it.
    """
    base = [group["lr"] for group in param_groups if group["pre_lr_mult"] == 1.0]
    hidden = [group["lr"] for group in param_groups if group["pre_lr_mult"] != 1.0]
    lr = base[0] if base else 0.0
    return lr, hidden[0] if hidden else lr
