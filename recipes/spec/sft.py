"""Types of supervised fine-tuning (SFT)."""

from dataclasses import dataclass

from recipes.spec.origin import Sourced
from recipes.spec.recipe import ALIGNMENT_LR_DIVISOR, CommonRecipe, Optimizer
from recipes.spec.schedules import LinearDecay
from recipes.spec.sizes import Size
from recipes.spec.stage import Stage
from recipes.spec.tree import COMPUTED


@dataclass(frozen=True, kw_only=True)
class SftStage(Stage):
    """The table of an SFT stage; its attributes are those of :class:`SftRecipe`."""

    samples: Sourced[int]
    epochs: Sourced[int]
    steps: Sourced[int]
    global_batch_size: Sourced[int]
    schedule: LinearDecay
    warmup_fraction: Sourced[float]
    optimizer: Optimizer
    checkpoint_every_steps: Sourced[int]
    validate_every_steps: Sourced[int]
    validation_share: Sourced[float]

    tokens: Sourced[int] = COMPUTED
    hidden_lr_divisor: Sourced[float] = ALIGNMENT_LR_DIVISOR

    def build(self, size: Size, parent: str | None) -> "SftRecipe":
        """Return the recipe as the published size has it, before any rule is applied."""
        return SftRecipe(**self.values(SftRecipe, size, parent))


@dataclass(frozen=True, kw_only=True)
class SftRecipe(CommonRecipe):
    """A resolved SFT stage.

    Attributes:
        samples: conversations; about two are packed into each sequence.
        epochs: passes over the samples.
        steps: optimizer steps.
        global_batch_size: in packed sequences.
        tokens: steps x global_batch_size x sequence_length.
        warmup_fraction: share of the steps over which the learning rate rises linearly.
        checkpoint_every_steps, validate_every_steps: intervals in optimizer steps.
        validation_share: share of the packed sequences that are held out.
    """

    samples: Sourced[int]
    epochs: Sourced[int]
    steps: Sourced[int]
    global_batch_size: Sourced[int]
    tokens: Sourced[int]
    warmup_fraction: Sourced[float]
    schedule: LinearDecay
    checkpoint_every_steps: Sourced[int]
    validate_every_steps: Sourced[int]
    validation_share: Sourced[float]
