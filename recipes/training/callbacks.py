"""What a stage tells while it trains (a progress line and ``metrics/steps.jsonl``), and what it
saves.
"""

import json
import os
import pickle
import queue
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from nemo.lightning.io.mixin import IOMixin
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils.get_rank import is_global_rank_zero

from recipes.common.files import write_text

# what ends a stage after its step, and what the same signal does the second time
STOPPING: dict[int, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
# seconds since the epoch, which a Slurm job sets: time to stop, before its time limit
STOP_AT = "GRANITE41_STOP_AT"
# a launcher and Slurm each pass on the signal that both received
REPEATED_SECONDS = 2.0


class StageProgress(pl.Callback, IOMixin):
    """Print a line every few steps and write one JSON line a step and a validation.

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
        loop.skip_val_on_restart = loop.val_loop.restarting = False
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if is_global_rank_zero():
            path = Path(self.metrics)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [
                line
                for line in _whole_lines(path)
                if _is_done(json.loads(line), trainer.global_step)
            ]
            write_text(path, "".join(kept))
            self._file = path.open("a")
            at = f"continues after step {trainer.global_step}" if trainer.global_step else "starts"
            print(
                f"{self.stage}: {at}, {trainer.max_steps} steps of {self.tokens_per_step:,} tokens",
                flush=True,
            )

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the rates of this step, and have the stage's last step validated whatever the
        interval.
        """
        self._step_started = time.monotonic()
        rates = {
            group["pre_lr_mult"] == 1.0: group["lr"] for group in trainer.optimizers[0].param_groups
        }
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
            left = (
                (time.monotonic() - self._started)
                / (step - self._first_step)
                * (trainer.max_steps - step)
            )
            print(
                f"{self.stage}: step {step}/{trainer.max_steps}  tokens "
                f"{step * self.tokens_per_step:,}  loss {loss:.3f}  lr {self._lr:.3g}  "
                f"{speed:,.0f} tokens/s  {left / 60:.1f} min left",
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
                f"{self.stage}: step {trainer.global_step}/{trainer.max_steps}  validation loss "
                f"{loss:.3f}",
                flush=True,
            )

    def on_train_end(self, *args: Any) -> None:
        """Close the metrics file."""
        if self._file:
            self._file.close()

    def _write(self, **values: Any) -> None:
        if self._file:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()


class _Answers:
    """What the process that writes a checkpoint tells the one that waits for it, which has forked
    it: in shared memory.

    Megatron starts a process to hold a queue for it, which takes 3 s to import torch and outlives a
    killed training.
    """

    def __init__(self) -> None:
        self._memory = os.fdopen(os.memfd_create("answers"), "r+b", buffering=0)

    def put(self, answer: Any) -> None:
        """Tell it; one at a time."""
        self._memory.write(pickle.dumps(answer))

    def get_nowait(self) -> Any:
        """Return what was told.

        Raises:
            queue.Empty: nothing was.
        """
        self._memory.seek(0)
        content = self._memory.read()
        self._memory.seek(0)
        self._memory.truncate()
        if not content:
            raise queue.Empty
        # from this process's own child
        return pickle.loads(content)  # noqa: S301


class StageCheckpoint(ModelCheckpoint):
    """NeMo's checkpoint callback, which also saves the stage's end, and the step that runs when a
    signal comes.

    SIGTERM or SIGINT to any rank ends all of them after the same step, with exit status 128 + the
    signal's number; the same signal again ends the process at once. A job's time limit that is near
    does what SIGTERM does. Before the first step, signals do what they do without this. In the last
    step, the stage goes on to its end.
    """

    def __init__(self, *args: Any, stage: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage = stage
        self._signal, self._received = 0, 0.0

    def setup(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Remove what a kill left: checkpoints half written, and one more than are kept."""
        super().setup(trainer, *args, **kwargs)
        filesystem_async._results_queue = _Answers()
        if is_global_rank_zero():
            whole = sorted(Path(str(self.dirpath)).glob("step=*/weights/metadata.json"))
            for path in whole[: -self.save_top_k]:
                shutil.rmtree(path.parents[1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in the place of Lightning, which would end one rank alone and save
        nothing.
        """
        super().on_train_start(trainer, pl_module)
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            for signum in STOPPING:
                signal.signal(signum, self._receive)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save at the interval, or because of a signal that any rank received. The stage's last
        step waits.
        """
        if trainer.global_step == trainer.max_steps:
            return
        super().on_train_batch_end(trainer, *args)
        late = time.time() >= float(os.environ.get(STOP_AT, "inf"))
        if late and not self._signal:
            self._signal = signal.SIGTERM
        received = torch.tensor(self._signal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        if received:
            self._save(trainer)
            name = "the job's time limit" if late else signal.Signals(received.item()).name
            if is_global_rank_zero():
                print(
                    f"{self.stage}: stopped after step {trainer.global_step} by {name}, checkpoint "
                    "saved; the same command continues",
                    flush=True,
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
            self._signal, self._received = signum, time.monotonic()
        elif time.monotonic() - self._received > REPEATED_SECONDS:
            signal.signal(signum, STOPPING[signum])
            signal.raise_signal(signum)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that was cut short by a kill is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def _is_done(line: dict[str, Any], step: int) -> bool:
    """Whether a stage that continues after ``step`` will not do again what this line of its metrics
    tells.
    """
    return line["step"] < step or (line["step"] == step and "val_loss" not in line)


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
