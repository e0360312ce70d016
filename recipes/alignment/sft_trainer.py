"""NeMo-Aligner's trainer of supervised fine-tuning, within a stage of this project."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from nemo_aligner.algorithms.supervised import SupervisedTrainer
from nemo_aligner.utils.train_script_utils import CustomLoggerWrapper
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from recipes.alignment.checkpoint import Training
from recipes.compat import nemo_aligner
from recipes.spec.sft import SftRecipe
from recipes.training.step_log import StepLog, learning_rates
from recipes.training.stop_request import StopRequest

nemo_aligner.install()


class StageTrainer(SupervisedTrainer):
    """Trains a stage from the step that it has reached to its end, or until it is stopped.

    One pass of Aligner's loop is the whole stage: the epochs are in the order of the sequences.
    Aligner validates before it saves, so that a step with a checkpoint has been validated.

    Attributes:
        step: steps done.
        stopped_by: the signal that stopped the stage; 0 for none.
    """

    def __init__(
        self,
        recipe: SftRecipe,
        training: Training,
        loaders: tuple[DataLoader, DataLoader],
        save: Callable[[Training, int, dict[str, int]], None],
        lines: StepLog,
        loggers: list[Logger],
    ) -> None:
        """Prepare to train.

        Args:
            recipe: of the stage.
            training: at the stage's start.
            loaders: of training batches, and of what is held out.
            save: writes a checkpoint, as :meth:`CheckpointWriter.save`.
            lines: of the metrics file.
            loggers: TensorBoard's and others.
        """
        config = {
            "max_epochs": 1,
            "max_steps": recipe.steps.value,
            "val_check_interval": recipe.validate_every_steps.value,
            "save_interval": recipe.checkpoint_every_steps.value,
            "limit_val_batches": 1.0,
            # Megatron's optimizer clips
            "gradient_clip_val": None,
        }
        self._stop = StopTimer()
        super().__init__(
            cfg=OmegaConf.create(config),
            model=training.model,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            train_dataloader=loaders[0],
            val_dataloader=loaders[1],
            test_dataloader=None,
            logger=CustomLoggerWrapper(loggers),
            ckpt_callback=None,
            run_timer=self._stop,
        )
        self._recipe = recipe
        self._training = training
        self._save = save
        self._lines = lines

    @property
    def stopped_by(self) -> int:
        """The signal that stopped the stage before its end; 0 for none."""
        return self._stop.signum if self.step < self.max_steps else 0

    def fit(self) -> None:
        """Train."""
        self._lines.open(self.step, is_validated=True)
        self.train_dataloader.batch_sampler.done = self.step
        super().fit()
        self._lines.close()
        if self.stopped_by:
            self._stop.log_stop(self._recipe.stage, self.step, self._stop.signum)

    def train_single_step(self, batch: Any) -> tuple[float, dict[str, float]]:
        """Do a step, and write its line."""
        started = time.monotonic()
        rates = learning_rates(self.optimizer.param_groups)
        loss, metrics = super().train_single_step(batch)
        del metrics["loss_sum"]
        metrics["grad_norm"] = self.optimizer.grad_norm
        self._lines.step(
            self.step + 1,
            loss=loss,
            seconds=time.monotonic() - started,
            rates=rates,
            trained_tokens=int(metrics["trained_tokens"]),
            grad_norm=metrics["grad_norm"],
        )
        return loss, metrics

    @torch.no_grad()
    def run_validation(self) -> tuple[float, dict[str, float]]:
        """Return the mean loss of all trained tokens that are held out, and write it.

        Aligner's takes the mean of the batches' means. It validates a stage that is stopped, too,
        which has no time for it.
        """
        is_due = self.step % self.val_check_interval == 0 or self.step == self.max_steps
        if not is_due:
            return math.nan, {}
        loss_sum = 0.0
        tokens = 0.0
        for batch in self.val_dataloader:
            _, metrics = self.validation_step(batch)
            loss_sum += metrics["loss_sum"]
            tokens += metrics["trained_tokens"]
        loss = loss_sum / tokens
        self._lines.validation(self.step, loss)
        return loss, {"loss": loss}

    def save(self, extra_candidates: Any = None, is_train_end: bool = False) -> None:
        """Save a checkpoint, with counters as whole numbers."""
        self._save(self._training, self.step, self.state_dict())

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the steps that a checkpoint has done."""
        self.step = state_dict["step"]
        self.consumed_samples = state_dict["consumed_samples"]


class StopTimer(StopRequest):
    """A stop request as Aligner's loop asks for one: by whether the time is over.

    Attributes:
        signum: the signal that stopped the stage; 0 for none.
    """

    signum = 0

    def start_time(self) -> None:
        """Receive signals from now on."""
        self.listen()

    def is_finished(self) -> bool:
        """Whether the stage stops after this step."""
        self.signum = self.agreed()
        return bool(self.signum)
