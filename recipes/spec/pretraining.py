"""Pre-training (phases 1 to 4) and long-context extension (LCE): tokens, lengths, mixtures and learning rates."""

from dataclasses import dataclass, replace
from typing import Any

from recipes.spec import mixtures
from recipes.spec.mixtures import Mixture
from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.parallelism import parallelism
from recipes.spec.recipe import (
    OPTIMIZER,
    PRECISION,
    SEED,
    CommonRecipe,
    DocumentMasking,
    Kind,
    MergeMethod,
    OptimizerState,
    Status,
)
from recipes.spec.schedules import ExponentialDecay, LinearDecay, PowerSchedule, Schedule
from recipes.spec.sizes import Size
from recipes.spec.tree import COMPUTED, Rule


@dataclass(frozen=True)
class StageMerge:
    """The merge that ends a stage: of its own checkpoint, with ``weight``, and of the one that it began with."""

    method: Sourced[MergeMethod]
    weight: Sourced[float]


@dataclass(frozen=True)
class PretrainStage:
    """One row of the table below; ``rope_theta`` is by size, and ``tiny`` uses the 8b's."""

    name: str
    title: str
    kind: Kind
    status: Status
    sizes: Sourced[tuple[str, ...]]
    tokens: Sourced[int]
    sequence_length: Sourced[int]
    mixture: Mixture
    schedule: Schedule
    optimizer_state: Sourced[OptimizerState]
    rope_theta: dict[str, Sourced[float]]
    merge: StageMerge | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(CommonRecipe):
    """A resolved stage of pre-training or long-context extension.

    Attributes:
        tokens: length of the stage.
        global_batch_size: in sequences.
        steps: optimizer steps.
        checkpoint_every_tokens, validate_every_tokens: intervals in tokens.
        mixture: percent of tokens by component.
        split: weights of the training, validation and test parts of each data file, as Megatron takes them.
        validation_batches: global batches per validation.
        document_masking: none, attention reaches over the document boundaries within a sequence.
        merge: after the stage; None where there is none.
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
    def checkpoint_every_steps(self) -> int:
        """``checkpoint_every_tokens`` in optimizer steps, at least one."""
        return max(1, round(self.checkpoint_every_tokens.value / self.tokens_per_batch.value))

    @property
    def validate_every_steps(self) -> int:
        """``validate_every_tokens`` in optimizer steps, at least one."""
        return max(1, round(self.validate_every_tokens.value / self.tokens_per_batch.value))


SIZES_OF_EVERY_STAGE: Sourced[tuple[str, ...]] = derived(
    ("3b", "8b", "30b"), "every published size went through it"
)

TOKENS_PER_BATCH = assumed(
    1024 * 4096,
    "the power scheduler paper's search setting, 1,024 sequences of 4,096 tokens; the same in every stage",
)
CHECKPOINT_EVERY_TOKENS = assumed(
    20 * 10**9, "about 4,800 steps, so that a failure costs minutes to hours"
)
VALIDATE_EVERY_TOKENS = assumed(10 * 10**9, "twice per checkpoint")
SPLIT = assumed("998,1,1", "a thousandth held out is ample at this scale; not published")
VALIDATION_BATCHES = assumed(32, "134M tokens, about 1% of the interval between validations")
DOCUMENT_MASKING: Sourced[DocumentMasking] = assumed(
    "none",
    "Megatron's default, and context parallelism splits a sequence without knowing its documents; not published",
)

CARRY: Sourced[OptimizerState] = assumed(
    "carry", "the learning rate continues where the parent's ended; not published"
)
FRESH_START: Sourced[OptimizerState] = assumed("fresh", "there is no parent")
FRESH_LCE: Sourced[OptimizerState] = assumed(
    "fresh",
    "the learning rate starts anew at 1e-4, and a merge has changed the weights under old moments",
)

_ROPE_4K = assumed(1e4, "Granite 3.0's value at 4,096 tokens; not published for 4.1")
_ROPE_32K = assumed(
    1e6, "between the 4K value and the released one, as the length grows eightfold; not published"
)
ROPE_THETA_4K = {"3b": _ROPE_4K, "8b": _ROPE_4K, "30b": _ROPE_4K}
ROPE_THETA_32K = {"3b": _ROPE_32K, "8b": _ROPE_32K, "30b": _ROPE_32K}
ROPE_THETA_128K = {
    "3b": published(1e7, "C", "released_rope_theta.3b"),
    "8b": assumed(
        5e6, "between the 32K value and the released one; Granite 3.1 2B's at this length"
    ),
    "30b": assumed(
        1e7, "between the 32K value and the released one; Granite 3.1 8B's at this length"
    ),
}
ROPE_THETA_512K = {
    "8b": published(1e7, "C", "released_rope_theta.8b"),
    "30b": published(5e7, "C", "released_rope_theta.30b"),
}
# SFT and RL keep the theta of the released model
ROPE_THETA_RELEASED = {"3b": ROPE_THETA_128K["3b"], **ROPE_THETA_512K}


def _power(warmup_tokens: Sourced[int], start_tokens: Sourced[int]) -> PowerSchedule:
    return PowerSchedule(
        a=published(4.0, "P", "power_scheduler.a"),
        b=published(-0.51, "P", "power_scheduler.b"),
        lr_max=published(0.02, "P", "power_scheduler.lr_max"),
        batch=derived(TOKENS_PER_BATCH.value // 4096, "tokens_per_batch / 4096"),
        warmup_tokens=warmup_tokens,
        start_tokens=start_tokens,
        token_factor=derived(1, "a full-size run"),
    )


PHASE1 = PretrainStage(
    name="phase1",
    title="general pre-training",
    kind="pretrain",
    status="ready",
    sizes=SIZES_OF_EVERY_STAGE,
    tokens=published(10 * 10**12, "W", "pretraining.phases.0.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.0.sequence_length"),
    mixture=mixtures.PHASE1,
    schedule=_power(
        warmup_tokens=assumed(
            10**9, "the power scheduler paper's search setting, like the batch; not published"
        ),
        start_tokens=derived(0, "the first stage"),
    ),
    optimizer_state=FRESH_START,
    rope_theta=ROPE_THETA_4K,
)

PHASE2_SCHEDULE = _power(
    warmup_tokens=assumed(0, "phase 1's schedule continues; not published"),
    start_tokens=derived(PHASE1.tokens.value, "phase 1's tokens"),
)

PHASE2 = PretrainStage(
    name="phase2",
    title="math and code pre-training",
    kind="pretrain",
    status="ready",
    sizes=SIZES_OF_EVERY_STAGE,
    tokens=published(2 * 10**12, "W", "pretraining.phases.1.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.1.sequence_length"),
    mixture=mixtures.PHASE2,
    schedule=PHASE2_SCHEDULE,
    optimizer_state=CARRY,
    rope_theta=ROPE_THETA_4K,
)

PHASE3_LR_END = assumed(
    1e-4, "the level at which the long-context extension starts again; not published"
)


def _end_of_phase2(batch: Sourced[int]) -> Sourced[float]:
    schedule = replace(PHASE2_SCHEDULE, batch=batch)
    return derived(
        schedule.lr(PHASE2.tokens.value), f"{batch.value:,} x 4 x (12e12)^-0.51, where phase 2 ends"
    )


PHASE3 = PretrainStage(
    name="phase3",
    title="high-quality annealing",
    kind="pretrain",
    status="ready",
    sizes=SIZES_OF_EVERY_STAGE,
    tokens=published(2 * 10**12, "W", "pretraining.phases.2.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.2.sequence_length"),
    mixture=mixtures.PHASE3,
    schedule=ExponentialDecay(
        lr_start=_end_of_phase2(PHASE2_SCHEDULE.batch),
        lr_end=PHASE3_LR_END,
        tokens=COMPUTED,
    ),
    optimizer_state=CARRY,
    rope_theta=ROPE_THETA_4K,
)

PHASE4 = PretrainStage(
    name="phase4",
    title="annealing, refinement",
    kind="pretrain",
    status="ready",
    sizes=SIZES_OF_EVERY_STAGE,
    tokens=published(500 * 10**9, "W", "pretraining.phases.3.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.3.sequence_length"),
    mixture=mixtures.PHASE4,
    schedule=LinearDecay(
        lr_start=derived(PHASE3_LR_END.value, "where phase 3 ends"),
        lr_end=derived(0.0, "pretraining.phases.3.lr_schedule: linear decay to zero"),
        tokens=COMPUTED,
        warmup_tokens=assumed(0, "phase 3's learning rate continues; not published"),
    ),
    optimizer_state=CARRY,
    rope_theta=ROPE_THETA_4K,
)

_LCE_RATE = "pretraining.phases.4.lr_schedule: exponential decay from 1e-4 to 0, read as each stage's own curve"
_LCE_SCHEDULE = ExponentialDecay(
    lr_start=derived(1e-4, _LCE_RATE),
    lr_end=derived(0.0, _LCE_RATE),
    tokens=COMPUTED,
)
MERGE = StageMerge(
    method=assumed(
        "linear",
        "that each stage ends with a merge is published, not how; a weighted mean is the plainest",
    ),
    weight=assumed(
        0.7,
        "most of what the stage has learned; `granite41 merge --sweep` compares others; not published",
    ),
)
_LCE_TOKENS = (
    "not published; the three stages share 500B, Granite 3.1's and the 15T total less phases 1 to 4"
)

LCE_32K = PretrainStage(
    name="lce_32k",
    title="long-context extension to 32K",
    kind="long_context",
    status="ready",
    sizes=published(("3b", "8b", "30b"), "W", "pretraining.phases.4.stages.0.sizes"),
    tokens=assumed(250 * 10**9, _LCE_TOKENS),
    sequence_length=published(32768, "W", "pretraining.phases.4.stages.0.sequence_length"),
    mixture=mixtures.PHASE4,
    schedule=_LCE_SCHEDULE,
    optimizer_state=FRESH_LCE,
    rope_theta=ROPE_THETA_32K,
    merge=MERGE,
)

LCE_128K = PretrainStage(
    name="lce_128k",
    title="long-context extension to 128K",
    kind="long_context",
    status="ready",
    sizes=published(("3b", "8b", "30b"), "W", "pretraining.phases.4.stages.1.sizes"),
    tokens=assumed(150 * 10**9, _LCE_TOKENS),
    sequence_length=published(131072, "W", "pretraining.phases.4.stages.1.sequence_length"),
    mixture=mixtures.PHASE4,
    schedule=_LCE_SCHEDULE,
    optimizer_state=FRESH_LCE,
    rope_theta=ROPE_THETA_128K,
    merge=MERGE,
)

LCE_512K = PretrainStage(
    name="lce_512k",
    title="long-context extension to 512K",
    kind="long_context",
    status="ready",
    sizes=published(("8b", "30b"), "W", "pretraining.phases.4.stages.2.sizes"),
    tokens=assumed(100 * 10**9, _LCE_TOKENS),
    sequence_length=published(524288, "W", "pretraining.phases.4.stages.2.sequence_length"),
    mixture=mixtures.LCE_512K,
    schedule=_LCE_SCHEDULE,
    optimizer_state=FRESH_LCE,
    rope_theta=ROPE_THETA_512K,
    merge=MERGE,
)

PRETRAIN_STAGES = (PHASE1, PHASE2, PHASE3, PHASE4, LCE_32K, LCE_128K, LCE_512K)

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


def _power_batch(recipe: PretrainRecipe) -> Sourced[int]:
    return derived(max(1, recipe.tokens_per_batch.value // 4096), "tokens_per_batch / 4096")


# a full-size power schedule's beta follows the batch, and so does phase 3 where that ends; tiny keeps production's
POWER_BATCH = Rule[Any]("schedule.batch", ("tokens_per_batch", "global_batch_size"), _power_batch)
POWER_END = Rule[Any](
    "schedule.lr_start",
    ("tokens_per_batch", "global_batch_size"),
    lambda recipe: _end_of_phase2(_power_batch(recipe)),
)

DECAY_TOKENS = Rule[Any](
    "schedule.tokens",
    ("tokens",),
    lambda recipe: derived(recipe.tokens.value, "the whole stage: tokens"),
)


def build(stage: PretrainStage, model: Size, parent: str | None) -> PretrainRecipe:
    """Return the recipe of ``stage`` at full scale, before its rules are applied."""
    return PretrainRecipe(
        stage=stage.name,
        size=model.name,
        title=stage.title,
        kind=stage.kind,
        status=stage.status,
        parent=parent,
        tokens=stage.tokens,
        sequence_length=stage.sequence_length,
        tokens_per_batch=TOKENS_PER_BATCH,
        global_batch_size=COMPUTED,
        steps=COMPUTED,
        model=model,
        rope_theta=stage.rope_theta["8b" if model.name == "tiny" else model.name],
        schedule=stage.schedule,
        mixture=stage.mixture,
        hidden_lr_divisor=COMPUTED,
        optimizer=OPTIMIZER,
        optimizer_state=stage.optimizer_state,
        parallelism=parallelism(model.name, stage.name, stage.sequence_length.value),
        precision=PRECISION,
        seed=SEED,
        checkpoint_every_tokens=CHECKPOINT_EVERY_TOKENS,
        validate_every_tokens=VALIDATE_EVERY_TOKENS,
        split=SPLIT,
        validation_batches=VALIDATION_BATCHES,
        document_masking=DOCUMENT_MASKING,
        merge=stage.merge,
    )
