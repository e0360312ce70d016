"""Phase 2, mathematics and code: 2T tokens further along phase 1's power schedule."""

from recipes.phase1_general import PHASE1
from recipes.spec import tiny
from recipes.spec.mixtures import published_mixture
from recipes.spec.origin import assumed, derived, published
from recipes.spec.pretraining import (
    CARRY,
    POWER_BATCH,
    ROPE_THETA_4K,
    RULES,
    TOKENS_PER_BATCH,
    PretrainStage,
    power_schedule,
)
from recipes.spec.stage import EVERY_PUBLISHED_SIZE

SCHEDULE = power_schedule(
    warmup_tokens=assumed(0, "phase 1's schedule continues; not published"),
    start_tokens=derived(PHASE1.tokens.value, "phase 1's tokens"),
)

PHASE2 = PretrainStage(
    name="phase2",
    title="math and code pre-training",
    kind="pretrain",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    # the checkpoint it starts from
    follows="phase1",
    optimizer_state=CARRY,
    # length and batch, in tokens
    tokens=published(2 * 10**12, "W", "pretraining.phases.1.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.1.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_4K,
    # percent of the tokens
    mixture=published_mixture(
        "pretraining.phases.1.mixture",
        {
            "math": 35.0,
            "code": 30.0,
            "common_crawl_hq": 12.0,
            "synthetic": 9.0,
            "technical": 10.0,
            "multilingual": 3.0,
            "domain": 1.0,
        },
    ),
    schedule=SCHEDULE,
    # at the end
    merge=None,
    rules=(*RULES, POWER_BATCH),
    tiny=tiny.PRETRAIN,
)
