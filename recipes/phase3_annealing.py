"""Phase 3, high-quality annealing: 2T tokens, an exponential decay from where phase 2 ends."""

from dataclasses import replace
from typing import Any

from recipes import phase2_math_code
from recipes.spec import tiny
from recipes.spec.mixtures import published_mixture
from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.pretraining import (
    CARRY,
    DECAY_TOKENS,
    ROPE_THETA_4K,
    RULES,
    TOKENS_PER_BATCH,
    PretrainStage,
    power_batch,
)
from recipes.spec.schedules import ExponentialDecay
from recipes.spec.stage import EVERY_PUBLISHED_SIZE
from recipes.spec.tree import COMPUTED, Rule

LR_END = assumed(1e-4, "the level at which the long-context extension starts again; not published")


def end_of_phase2(batch: Sourced[int]) -> Sourced[float]:
    """Return phase 2's last learning rate at a batch in sequences of 4,096 tokens."""
    schedule = replace(phase2_math_code.SCHEDULE, batch=batch)
    return derived(
        schedule.lr(phase2_math_code.PHASE2.tokens.value),
        f"{batch.value:,} x 4 x (12e12)^-0.51, where phase 2 ends",
    )


START_AT_END_OF_PHASE2 = Rule[Any](
    "schedule.lr_start",
    ("tokens_per_batch", "global_batch_size"),
    lambda recipe: end_of_phase2(power_batch(recipe)),
    published_sizes_only=True,
)

PHASE3 = PretrainStage(
    name="phase3",
    title="high-quality annealing",
    kind="pretrain",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    # the checkpoint it starts from
    follows="phase2",
    optimizer_state=CARRY,
    # length and batch, in tokens
    tokens=published(2 * 10**12, "W", "pretraining.phases.2.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.2.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_4K,
    # percent of the tokens
    mixture=published_mixture(
        "pretraining.phases.2.mixture",
        {
            "common_crawl_hq": 16.67,
            "math": 16.67,
            "code": 16.67,
            "synthetic": 8.5,
            "technical": 12.5,
            "multilingual": 4.5,
            "long_cot": 12.5,
            "language_instruction": 7.5,
            "code_instruction": 4.5,
        },
    ),
    schedule=ExponentialDecay(
        lr_start=end_of_phase2(phase2_math_code.SCHEDULE.batch),
        lr_end=LR_END,
        tokens=COMPUTED,
    ),
    # at the end
    merge=None,
    rules=(*RULES, DECAY_TOKENS, START_AT_END_OF_PHASE2),
    tiny=tiny.PRETRAIN,
)
