"""Training callbacks: progress, ``metrics/steps.jsonl``, checkpoints at an interval or a signal."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo.lightning.io.mixin import IOMixin
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils.get_rank import is_global_rank_zero

from recipes.compat import megatron_checkpoint
from recipes.training.step_log import StepLog, learning_rates
from recipes.training.stop_request import StopRequest


class StageProgress(pl.Callback, IOMixin):
    """Writes the lines of :class:`StepLog` for each step and each validation."""

    def __init__(self, stage: str, tokens_per_step: int, metrics: str) -> None:
        self.stage = stage
        self.tokens_per_step = tokens_per_step
        self.metrics = metrics

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

        self._lines = StepLog(
            self.stage, trainer.max_steps, self.tokens_per_step, Path(self.metrics)
        )
        self._lines.open(trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the rates of this step; have the stage's last step validated at any interval."""
        self._step_started = time.monotonic()
        self._rates = learning_rates(trainer.optimizers[0].param_groups)
        if trainer.global_step == trainer.max_steps - 1:
            trainer.val_check_batch = trainer.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the step that is done."""
        self._lines.step(
            trainer.global_step,
            loss=float(trainer.callback_metrics["reduced_train_loss"]),
            seconds=time.monotonic() - self._step_started,
            rates=self._rates,
        )

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the validation loss."""
        if not trainer.sanity_checking:
            self._lines.validation(trainer.global_step, float(trainer.callback_metrics["val_loss"]))

    def on_train_end(self, *args: Any) -> None:
        """Close the metrics file."""
        self._lines.close()


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
        self._stop = StopRequest()

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
        self._stop.listen()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save at the interval, or for a signal that any rank received; not in the last step."""
        if trainer.global_step == trainer.max_steps:
            return
        super().on_train_batch_end(trainer, *args)

        # all ranks stop after the same step, whichever one received the signal
        signum = self._stop.agreed()
        if signum:
            self._save(trainer)
            self._stop.log_stop(self.stage, trainer.global_step, signum)
            raise SystemExit(128 + signum)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the stage, which has been validated by now."""
        super().on_train_end(trainer, pl_module)
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
