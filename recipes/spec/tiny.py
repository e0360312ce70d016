"""The size `tiny`: every stage scaled down, so that the whole chain runs on a CPU in minutes.

These factors, and the model's dimensions, are all that sets a tiny stage apart from a full-size
one.
"""

from dataclasses import replace
from typing import Any, TypeVar

from recipes.spec.origin import Sourced, assumed, derived
from recipes.spec.pretraining import TOKENS_PER_BATCH, PretrainRecipe
from recipes.spec.recipe import CommonRecipe, Precision
from recipes.spec.rl import RlRecipe
from recipes.spec.schedules import PowerSchedule, Schedule
from recipes.spec.sft import SftRecipe
from recipes.spec.stage import Scaling
from recipes.spec.tree import COMPUTED, Rule

AnyRecipe = TypeVar("AnyRecipe", bound=CommonRecipe)

SEQUENCE_FACTOR = assumed(
    16, "4,096 tokens become 256, and 512K become 32,768, which one CPU still holds"
)
TOKEN_FACTOR = assumed(8_000_000, "phase 1's 10T tokens become 1.25M, two minutes on a CPU")
BATCH_FACTOR = assumed(
    32, "phase 1's batch becomes 32 sequences, 8,192 tokens: 153 steps, enough to learn"
)
SFT_BATCH_FACTOR = assumed(128, "SFT's batch becomes 2 sequences, of which a CPU takes many")
SFT_STEP_FACTOR = assumed(88, "SFT's 25K steps become 284, a minute on a CPU")
SFT_SAMPLES = assumed(900, "made-up conversations, about 140 sequences")
SFT_EPOCHS = assumed(4, "so few conversations are to be seen more often")
SFT_LEARNING_RATE = assumed(
    6e-3, "a model of 0.3M parameters learns nothing at the full size's 5e-6 in 284 steps"
)
SFT_VALIDATION_SHARE = assumed(0.05, "of some hundred sequences a few")
RL_BATCH_FACTOR = assumed(16, "RL's batch becomes 64 samples: 4 prompts x 16")
RL_STEP_FACTOR = assumed(12, "RL's 1,242 steps become 103, a second each on a CPU")
RL_LEARNING_RATE = assumed(
    1e-3, "a model of 0.3M parameters learns nothing at the full size's 5e-7 in some dozen steps"
)
WARMUP_FRACTION = assumed(0.1, "phase 1 has 153 steps, too few to show the full size's 0.01%")
INTERVALS = assumed(10, "shows interruption and resumption in the longer stages")
TOKENS_PER_MICRO_BATCH = assumed(
    8192, "32 sequences of 256 tokens: a few hundred MB of logits and activations"
)
SPLIT = assumed(
    "950,50,0",
    "files are small, and a twentieth still holds documents enough; nothing reads a test split",
)
VALIDATION_TOKENS = assumed(
    32_768, "four batches, or one of the longest sequences: seconds on a CPU"
)
PRECISION: Sourced[Precision] = assumed(
    "32", "fp32: CPUs are slow at bf16, and exact comparisons stay possible"
)


def _divided(full: Sourced[int], factor: int) -> Sourced[int]:
    return derived(max(1, round(full.value / factor)), f"full size's {full.value:,} / {factor:,}")


def _common(full: AnyRecipe) -> AnyRecipe:
    return replace(
        full,
        sequence_length=_divided(full.sequence_length, SEQUENCE_FACTOR.value),
        rope_theta=derived(full.rope_theta.value, f"the {full.model.published_size}'s"),
        precision=PRECISION,
    )


def _schedule(full: Schedule) -> Schedule:
    """Return the full-size curve over tiny's tokens: only a warm-up is longer."""
    if not isinstance(full, PowerSchedule):
        return full
    return replace(
        full,
        batch=derived(full.batch.value, "the full size's, so that tiny follows its curve"),
        warmup_tokens=COMPUTED if full.warmup_tokens.value else full.warmup_tokens,
        start_tokens=derived(
            full.start_tokens.value // TOKEN_FACTOR.value,
            f"full size's {full.start_tokens.value:,} / {TOKEN_FACTOR.value:,}",
        ),
        token_factor=TOKEN_FACTOR,
    )


def _scale_pretraining(full: PretrainRecipe) -> PretrainRecipe:
    # a batch has fewer sequences, and each of them fewer tokens
    batch_factor = SEQUENCE_FACTOR.value * BATCH_FACTOR.value
    return replace(
        _common(full),
        tokens=_divided(full.tokens, TOKEN_FACTOR.value),
        tokens_per_batch=_divided(full.tokens_per_batch, batch_factor),
        schedule=_schedule(full.schedule),
        checkpoint_every_tokens=COMPUTED,
        validate_every_tokens=COMPUTED,
        split=SPLIT,
        validation_batches=COMPUTED,
    )


def _scale_sft(full: SftRecipe) -> SftRecipe:
    return replace(
        _common(full),
        samples=SFT_SAMPLES,
        epochs=SFT_EPOCHS,
        steps=_divided(full.steps, SFT_STEP_FACTOR.value),
        global_batch_size=_divided(full.global_batch_size, SFT_BATCH_FACTOR.value),
        schedule=replace(full.schedule, lr_start=SFT_LEARNING_RATE),
        validation_share=SFT_VALIDATION_SHARE,
        checkpoint_every_steps=COMPUTED,
        validate_every_steps=COMPUTED,
    )


def _scale_rl(full: RlRecipe) -> RlRecipe:
    """Scale an RL stage down; the group size stays."""
    prompts_factor = RL_BATCH_FACTOR.value * RL_STEP_FACTOR.value
    # steps that follow from prompts and batch are computed from tiny's own
    steps = full.steps
    if steps is not COMPUTED:
        divided = max(1, round(steps.value / RL_STEP_FACTOR.value))
        steps = assumed(divided, f"full size's {steps.value} / {RL_STEP_FACTOR.value}")
    return replace(
        _common(full),
        prompts=_divided(full.prompts, prompts_factor),
        train_batch_size=_divided(full.train_batch_size, RL_BATCH_FACTOR.value),
        schedule=replace(full.schedule, learning_rate=RL_LEARNING_RATE),
        steps=steps,
        checkpoint_every_steps=COMPUTED,
    )


def _micro_batch(batch: str) -> Rule[Any]:
    def compute(recipe: Any) -> Sourced[int]:
        # what fits into memory, but never more than the batch has
        sequences = TOKENS_PER_MICRO_BATCH.value // recipe.sequence_length.value
        return derived(
            max(1, min(getattr(recipe, batch).value, sequences)),
            f"{TOKENS_PER_MICRO_BATCH.value:,} tokens / sequence_length, at most {batch}",
        )

    return Rule("parallelism.micro_batch_size", (batch, "sequence_length"), compute)


# intervals of a short stage: a tenth of it, so that resumption can be seen
def _every_tokens(path: str) -> Rule[Any]:
    return Rule(
        path,
        ("tokens",),
        lambda recipe: derived(
            max(recipe.tokens_per_batch.value, recipe.tokens.value // INTERVALS.value),
            f"tokens / {INTERVALS.value}, at least one batch",
        ),
    )


def _every_steps(path: str) -> Rule[Any]:
    return Rule(
        path,
        ("steps",),
        lambda recipe: derived(
            max(1, recipe.steps.value // INTERVALS.value),
            f"steps / {INTERVALS.value}, at least one",
        ),
    )


def _tokens_per_batch(recipe: PretrainRecipe) -> Sourced[int]:
    length = recipe.sequence_length.value
    scaled = _divided(TOKENS_PER_BATCH, SEQUENCE_FACTOR.value * BATCH_FACTOR.value)
    why = "global_batch_size x sequence_length"
    # the longest stage: even a single sequence exceeds the scaled batch
    if length > scaled.value:
        why += f": one sequence is more than {scaled.why} = {scaled.value:,}"
    return derived(recipe.global_batch_size.value * length, why)


# of a stage with a warm-up
WARMUP = Rule[Any](
    "schedule.warmup_tokens",
    ("tokens",),
    lambda recipe: derived(
        round(WARMUP_FRACTION.value * recipe.tokens.value),
        f"tokens x {WARMUP_FRACTION.value}: {WARMUP_FRACTION.why}",
    ),
)
VALIDATION_BATCHES = Rule[Any](
    "validation_batches",
    ("tokens_per_batch", "global_batch_size", "sequence_length"),
    lambda recipe: derived(
        max(1, VALIDATION_TOKENS.value // recipe.tokens_per_batch.value),
        f"{VALIDATION_TOKENS.value:,} tokens, at least one batch: {VALIDATION_TOKENS.why}",
    ),
)

# how each kind of stage is scaled, and the rules that then fill in its computed values
PRETRAIN = Scaling(
    _scale_pretraining,
    (
        VALIDATION_BATCHES,
        Rule("tokens_per_batch", ("global_batch_size", "sequence_length"), _tokens_per_batch),
        _micro_batch("global_batch_size"),
        _every_tokens("checkpoint_every_tokens"),
        _every_tokens("validate_every_tokens"),
    ),
)
PRETRAIN_WITH_WARMUP = Scaling(_scale_pretraining, (WARMUP, *PRETRAIN.rules))
SFT = Scaling(
    _scale_sft,
    (
        _micro_batch("global_batch_size"),
        _every_steps("checkpoint_every_steps"),
        _every_steps("validate_every_steps"),
    ),
)
RL = Scaling(
    _scale_rl,
    (
        _micro_batch("train_batch_size"),
        _every_steps("checkpoint_every_steps"),
    ),
)
