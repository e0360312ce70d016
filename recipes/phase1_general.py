"""Phase 1, general pre-training: 10T tokens on the power schedule, from random weights."""

from recipes.spec import tiny
from recipes.spec.mixtures import published_mixture
from recipes.spec.origin import assumed, derived, published
from recipes.spec.pretraining import (
    POWER_BATCH,
    ROPE_THETA_4K,
    RULES,
    TOKENS_PER_BATCH,
    PretrainStage,
    power_schedule,
)
from recipes.spec.stage import EVERY_PUBLISHED_SIZE

PHASE1 = PretrainStage(
    name="phase1",
    title="general pre-training",
    kind="pretrain",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    # the checkpoint it starts from
    follows=None,
    optimizer_state=assumed("fresh", "there is no parent"),
    # length and batch, in tokens
    tokens=published(10 * 10**12, "W", "pretraining.phases.0.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.0.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_4K,
    # percent of the tokens
    mixture=published_mixture(
        "pretraining.phases.0.mixture",
        {
            "common_crawl": 59.0,
            "code": 20.0,
            "math": 7.0,
            "technical": 10.5,
            "multilingual": 2.0,
            "domain": 1.5,
        },
    ),
    schedule=power_schedule(
        warmup_tokens=assumed(
            10**9, "the power scheduler paper's search setting, like the batch; not published"
        ),
        start_tokens=derived(0, "the first stage"),
    ),
    # at the end
    merge=None,
    rules=(*RULES, POWER_BATCH),
    tiny=tiny.PRETRAIN_WITH_WARMUP,
)
