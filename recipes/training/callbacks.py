"""What a stage tells while it trains: a progress line and ``metrics/steps.jsonl``."""

import json
import time
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
from nemo.lightning.io.mixin import IOMixin
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils.get_rank import is_global_rank_zero


class StageProgress(pl.Callback, IOMixin):
    """Print a line every few steps and write one JSON line a step and a validation.

    A step's line holds ``step`` (1 is the first), ``tokens`` seen in the stage, ``loss`` (nats per token, mean over the
    global batch), ``lr`` (base rate that the optimizer applied in this step), ``lr_hidden`` (that of the hidden
    matrices) and ``tokens_per_second``; a validation's line holds ``step`` and ``val_loss``. After a resume the lines
    of steps that are done again are dropped, so the file never holds a step twice.
    """

    def __init__(self, stage: str, tokens_per_step: int, metrics: str, print_every: int) -> None:
        self.stage = stage
        self.tokens_per_step = tokens_per_step
        self.metrics = metrics
        self.print_every = print_every
        self._file: TextIO | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the metrics file, without the steps that will be done again, and set the first step's rate."""
        for config in trainer.lr_scheduler_configs:
            # an optimizer that was carried over from another stage brought that stage's rate
            config.scheduler.apply()
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if is_global_rank_zero():
            path = Path(self.metrics)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= trainer.global_step]
            path.write_text("".join(kept))
            self._file = path.open("a")
            at = f"continues after step {trainer.global_step}" if trainer.global_step else "starts"
            print(f"{self.stage}: {at}, {trainer.max_steps} steps of {self.tokens_per_step:,} tokens", flush=True)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the rates of this step, and have the stage's last step validated whatever the interval."""
        self._step_started = time.monotonic()
        rates = {group["pre_lr_mult"] == 1.0: group["lr"] for group in trainer.optimizers[0].param_groups}
        self._lr = rates.get(True, 0.0)
        self._lr_hidden = rates.get(False, self._lr)
        if trainer.global_step == trainer.max_steps - 1:
            trainer.val_check_batch = trainer.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the step that is done."""
        step = trainer.global_step
        loss = float(trainer.callback_metrics["reduced_train_loss"])
        speed = self.tokens_per_step / (time.monotonic() - self._step_started)
        self._write(
            step=step,
            tokens=step * self.tokens_per_step,
            loss=loss,
            lr=self._lr,
            lr_hidden=self._lr_hidden,
            tokens_per_second=round(speed, 1),
        )
        if self._file and (step % self.print_every == 0 or step == trainer.max_steps):
            left = (time.monotonic() - self._started) / (step - self._first_step) * (trainer.max_steps - step)
            print(
                f"{self.stage}: step {step}/{trainer.max_steps}  tokens {step * self.tokens_per_step:,}"
                f"  loss {loss:.3f}  lr {self._lr:.3g}  {speed:,.0f} tokens/s  {left / 60:.1f} min left",
                flush=True,
            )

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Write the validation loss."""
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val_loss"])
        self._write(step=trainer.global_step, val_loss=loss)
        if self._file:
            print(
                f"{self.stage}: step {trainer.global_step}/{trainer.max_steps}  validation loss {loss:.3f}", flush=True
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
    """NeMo's checkpoint callback, which leaves a stage's last steps unsaved when they do not fill an interval."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the stage."""
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that was cut short by a kill is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
