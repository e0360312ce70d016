"""Learning-rate schedules of the plain layer as NeMo schedulers, and muP's hidden matrices."""

from typing import Any

import torch
from nemo.lightning.pytorch.optim import LRSchedulerModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from recipes.registry.resolve import resolve_pretraining
from recipes.spec.schedules import Schedule


def is_hidden_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether muP divides this parameter's learning rate by the width multiplier.

    Hidden matrices are those whose two sides grow with the width: the linear layers, neither the
    embedding nor the norms.
    """
    return parameter.dim() == 2 and "embedding" not in name and "output_layer" not in name


class TokenSchedule(LRScheduler):
    """Set a parameter group's rate to ``schedule.lr(tokens seen)`` times the group's multiplier.

    NeMo keeps the ``lr_mult`` of Megatron's parameter groups under the name ``pre_lr_mult``.

    Only the number of steps is kept in a checkpoint. The rate always comes from the schedule of the
    stage that runs, never from a checkpoint of another stage; so do the optimizer's other settings.
    """

    _SETTINGS = ("betas", "eps", "weight_decay")

    def __init__(self, optimizer: Optimizer, schedule: Schedule, tokens_per_step: int) -> None:
        self.schedule = schedule
        self.tokens_per_step = tokens_per_step
        self._settings = [
            {name: group[name] for name in self._SETTINGS} for group in optimizer.param_groups
        ]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each parameter group for the step after ``last_epoch`` steps."""
        rate = self.schedule.lr(self.last_epoch * self.tokens_per_step)
        return [rate * group["pre_lr_mult"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the saved number of steps, at this schedule's rate."""
        self.last_epoch = state_dict["last_epoch"]
        self.apply()

    def apply(self) -> None:
        """Set every parameter group to this stage's rate and settings, not a checkpoint's."""
        for group, rate, settings in zip(
            self.optimizer.param_groups, self.get_lr(), self._settings, strict=True
        ):
            group.update(settings, lr=rate)


class StageScheduler(LRSchedulerModule):
    """The schedule of a stage.

    It is built from stage, size and overrides, which NeMo can write into a checkpoint.
    """

    def __init__(self, stage: str, size: str, overrides: list[str] | None = None) -> None:
        super().__init__()
        self.recipe = resolve_pretraining(stage, size, overrides or [])

    def scheduler(self, model: Any, optimizer: Optimizer) -> dict[str, Any]:
        """Return what Lightning expects of ``configure_optimizers``."""
        tokens_per_step = self.recipe.sequence_length.value * self.recipe.global_batch_size.value
        schedule = TokenSchedule(optimizer, self.recipe.schedule, tokens_per_step)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1},
            "monitor": "val_loss",
        }
