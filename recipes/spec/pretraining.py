"""Types, values and rules that the stages of pre-training and long-context extension share."""

from dataclasses import dataclass
from typing import Any

from recipes.spec.mixtures import Mixture
from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.recipe import (
    OPTIMIZER,
    CommonRecipe,
    DocumentMasking,
    MergeMethod,
    Optimizer,
    OptimizerState,
)
from recipes.spec.schedules import PowerSchedule, Schedule
from recipes.spec.sizes import Size
from recipes.spec.stage import Stage
from recipes.spec.tree import COMPUTED, Rule


@dataclass(frozen=True)
class StageMerge:
    """The merge at the end of a stage.

    Attributes:
        method: how the stage's checkpoint and the one that it started from are merged.
        weight: of the stage's own checkpoint.
    """

    method: Sourced[MergeMethod]
    weight: Sourced[float]


TOKENS_PER_BATCH = assumed(
    1024 * 4096,
    "the power scheduler paper's search setting, 1,024 sequences of 4,096 tokens; the same in "
    "every stage",
)
CHECKPOINT_EVERY_TOKENS = assumed(
    20 * 10**9, "about 4,800 steps, so that a failure costs minutes to hours"
)
VALIDATE_EVERY_TOKENS = assumed(10 * 10**9, "twice per checkpoint")
SPLIT = assumed("998,1,1", "a thousandth held out is ample at this scale; not published")
VALIDATION_BATCHES = assumed(32, "134M tokens, about 1% of the interval between validations")
DOCUMENT_MASKING: Sourced[DocumentMasking] = assumed(
    "none",
    "Megatron's default, and context parallelism splits a sequence without knowing its documents; "
    "not published",
)

CARRY: Sourced[OptimizerState] = assumed(
    "carry", "the learning rate continues where the parent's ended; not published"
)

_ROPE_4K = assumed(1e4, "Granite 3.0's value at 4,096 tokens; not published for 4.1")
ROPE_THETA_4K = {"3b": _ROPE_4K, "8b": _ROPE_4K, "30b": _ROPE_4K}


@dataclass(frozen=True, kw_only=True)
class PretrainStage(Stage):
    """The table of a stage of pre-training or long-context extension.

    The attributes are those of :class:`PretrainRecipe`; the ones with a default are the same in
    every stage.
    """

    tokens: Sourced[int]
    tokens_per_batch: Sourced[int]
    schedule: Schedule
    mixture: Mixture
    merge: StageMerge | None

    global_batch_size: Sourced[int] = COMPUTED
    steps: Sourced[int] = COMPUTED
    hidden_lr_divisor: Sourced[float] = COMPUTED
    optimizer: Optimizer = OPTIMIZER
    checkpoint_every_tokens: Sourced[int] = CHECKPOINT_EVERY_TOKENS
    validate_every_tokens: Sourced[int] = VALIDATE_EVERY_TOKENS
    split: Sourced[str] = SPLIT
    validation_batches: Sourced[int] = VALIDATION_BATCHES
    document_masking: Sourced[DocumentMasking] = DOCUMENT_MASKING

    def build(self, size: Size, parent: str | None) -> "PretrainRecipe":
        """Return the recipe as the published size has it, before any rule is applied."""
        return PretrainRecipe(**self.values(PretrainRecipe, size, parent))


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(CommonRecipe):
    """A resolved stage of pre-training or long-context extension.

    Attributes:
        tokens: length of the stage.
        global_batch_size: in sequences.
        steps: optimizer steps.
        mixture: percent of tokens by component.
        checkpoint_every_tokens, validate_every_tokens: intervals in tokens.
        split: weights of the training, validation and test parts of each data file, as Megatron
            takes them.
        validation_batches: global batches per validation.
        document_masking: none, attention reaches over the document boundaries within a sequence.
        merge: at the end of the stage; None where there is none.
    """

    tokens: Sourced[int]
    tokens_per_batch: Sourced[int]
    global_batch_size: Sourced[int]
    steps: Sourced[int]
    schedule: Schedule
    mixture: Mixture
    checkpoint_every_tokens: Sourced[int]
    validate_every_tokens: Sourced[int]
    split: Sourced[str]
    validation_batches: Sourced[int]
    document_masking: Sourced[DocumentMasking]
    merge: StageMerge | None

    @property
    def mixture_percent(self) -> dict[str, float]:
        """Component -> its percent of the tokens."""
        return {name: percent.value for name, percent in self.mixture.items()}

    @property
    def checkpoint_every_steps(self) -> int:
        """``checkpoint_every_tokens`` in optimizer steps, at least one."""
        return max(1, round(self.checkpoint_every_tokens.value / self.tokens_per_batch.value))

    @property
    def validate_every_steps(self) -> int:
        """``validate_every_tokens`` in optimizer steps, at least one."""
        return max(1, round(self.validate_every_tokens.value / self.tokens_per_batch.value))


def stage_merge(recipe: CommonRecipe) -> StageMerge | None:
    """Return the merge at the end of a stage of any kind; None where there is none."""
    return recipe.merge if isinstance(recipe, PretrainRecipe) else None


def power_schedule(warmup_tokens: Sourced[int], start_tokens: Sourced[int]) -> PowerSchedule:
    """Return the power scheduler paper's schedule at the shared batch."""
    return PowerSchedule(
        a=published(4.0, "P", "power_scheduler.a"),
        b=published(-0.51, "P", "power_scheduler.b"),
        lr_max=published(0.02, "P", "power_scheduler.lr_max"),
        batch=derived(TOKENS_PER_BATCH.value // 4096, "tokens_per_batch / 4096"),
        warmup_tokens=warmup_tokens,
        start_tokens=start_tokens,
        token_factor=derived(1, "a full-size run"),
    )


def power_batch(recipe: PretrainRecipe) -> Sourced[int]:
    """Return the power schedule's beta, the batch in sequences of 4,096 tokens."""
    return derived(max(1, recipe.tokens_per_batch.value // 4096), "tokens_per_batch / 4096")


# every stage's
RULES: tuple[Rule[Any], ...] = (
    Rule(
        "hidden_lr_divisor",
        ("model.hidden_size", "model.mup_base_width"),
        lambda recipe: derived(
            recipe.model.width_multiplier,
            "muP: hidden_size / mup_base_width (power scheduler paper, arXiv 2408.13359)",
        ),
    ),
    Rule(
        "global_batch_size",
        ("tokens_per_batch", "sequence_length"),
        lambda recipe: derived(
            max(1, recipe.tokens_per_batch.value // recipe.sequence_length.value),
            "tokens_per_batch / sequence_length",
        ),
    ),
    Rule(
        "tokens_per_batch",
        ("global_batch_size", "sequence_length"),
        lambda recipe: derived(
            recipe.global_batch_size.value * recipe.sequence_length.value,
            "global_batch_size x sequence_length",
        ),
    ),
    Rule(
        "steps",
        ("tokens", "tokens_per_batch"),
        lambda recipe: derived(
            max(1, round(recipe.tokens.value / recipe.tokens_per_batch.value)),
            "tokens / tokens_per_batch, rounded",
        ),
    ),
)

# a power schedule's: its beta is the batch, and tiny keeps the full size's curve
POWER_BATCH = Rule[Any](
    "schedule.batch",
    ("tokens_per_batch", "global_batch_size"),
    power_batch,
    published_sizes_only=True,
)

# a decay's
DECAY_TOKENS = Rule[Any](
    "schedule.tokens",
    ("tokens",),
    lambda recipe: derived(recipe.tokens.value, "the whole stage: tokens"),
)
