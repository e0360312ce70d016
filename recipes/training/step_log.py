"""The lines of a stage's steps: in ``metrics/steps.jsonl``, and every few steps in the log."""

import json
import logging
from pathlib import Path
from typing import TextIO

from recipes.common.progress import Progress, duration
from recipes.training.full_disk import is_first_rank
from recipes.training.metrics import open_metrics

log = logging.getLogger(__name__)


class StepLog:
    """Writes the metrics of a stage that trains; on other ranks than the first, nothing.

    A step's line holds ``step`` (1 is the first), ``tokens`` seen in the stage, ``loss`` (nats per
    token, mean over the global batch), ``lr`` (base rate that the optimizer applied in this step),
    ``lr_hidden`` (that of the hidden matrices), ``tokens_per_second``, and what a kind of stage has
    besides; a validation's line holds ``step`` and ``val_loss``.

    Args:
        stage: its name.
        steps: of the whole stage.
        tokens_per_step: read in a step; None where steps differ.
        metrics: path of the file.
    """

    def __init__(self, stage: str, steps: int, tokens_per_step: int | None, metrics: Path) -> None:
        self._stage = stage
        self._steps = steps
        self._tokens_per_step = tokens_per_step
        self._metrics = metrics
        self._file: TextIO | None = None

    def open(self, done: int, *, is_validated: bool = False) -> None:
        """Open the file to continue after ``done`` steps, without the lines of what is done again.

        So the file never holds a step or a validation twice.

        Args:
            done: steps.
            is_validated: whether a validation after the last of them was done before it was saved.
        """
        self._progress = Progress(total=self._steps - done)
        if not is_first_rank():
            return
        self._file = open_metrics(self._metrics, done, is_validated=is_validated)
        start = "starts"
        if done:
            start = f"continues after step {done}"
        size = f" of {self._tokens_per_step:,} tokens" if self._tokens_per_step else ""
        log.info("%s: %s, %d steps%s", self._stage, start, self._steps, size)

    def step(
        self,
        step: int,
        loss: float,
        seconds: float,
        rates: tuple[float, float],
        read: tuple[int, int] | None = None,
        note: str = "",
        **more: float,
    ) -> None:
        """Write the step that is done.

        Args:
            step: its number, from 1.
            loss: in nats per token.
            seconds: that it took.
            rates: of :func:`learning_rates`.
            read: tokens seen in the stage and in this step, where steps differ.
            note: for the log.
            more: further values of the line.
        """
        self._progress.advance(1)
        if self._tokens_per_step:
            read = (step * self._tokens_per_step, self._tokens_per_step)
        tokens, tokens_in_step = read or (0, 0)
        tokens_per_second = tokens_in_step / seconds
        lr, lr_hidden = rates
        self._write(
            step=step,
            tokens=tokens,
            loss=loss,
            lr=lr,
            lr_hidden=lr_hidden,
            tokens_per_second=round(tokens_per_second, 1),
            **more,
        )
        print_every = max(1, min(self._steps // 50, 100))
        if self._file and (step % print_every == 0 or step == self._steps):
            log.info(
                "%s: step %d/%d  tokens %s  loss %.3f%s  lr %.3g  %s tokens/s  %s left",
                self._stage,
                step,
                self._steps,
                f"{tokens:,}",
                loss,
                note,
                lr,
                f"{tokens_per_second:,.0f}",
                duration(self._progress.seconds_left),
            )

    def validation(self, step: int, loss: float) -> None:
        """Write the validation loss after a step, in nats per token."""
        self._write(step=step, val_loss=loss)
        if self._file:
            log.info("%s: step %d/%d  validation loss %.3f", self._stage, step, self._steps, loss)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, **values: float) -> None:
        if self._file:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()


def learning_rates(param_groups: list[dict]) -> tuple[float, float]:
    """Return the base rate and that of the hidden matrices, whose group has a multiplier below 1.

    A rank without one of the two kinds has no group for it.
    """
    base = [group["lr"] for group in param_groups if group["pre_lr_mult"] == 1.0]
    hidden = [group["lr"] for group in param_groups if group["pre_lr_mult"] != 1.0]
    lr = base[0] if base else 0.0
    return lr, hidden[0] if hidden else lr
