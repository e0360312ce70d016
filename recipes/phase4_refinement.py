"""Phase 4, refinement: 0.5T tokens, a linear decay from where phase 3 ends to zero."""

from recipes.phase3_annealing import LR_END
from recipes.spec import tiny
from recipes.spec.mixtures import published_mixture
from recipes.spec.origin import assumed, derived, published
from recipes.spec.pretraining import (
    CARRY,
    DECAY_TOKENS,
    ROPE_THETA_4K,
    RULES,
    TOKENS_PER_BATCH,
    PretrainStage,
)
from recipes.spec.schedules import LinearDecay
from recipes.spec.stage import EVERY_PUBLISHED_SIZE
from recipes.spec.tree import COMPUTED

PHASE4 = PretrainStage(
    name="phase4",
    title="annealing, refinement",
    kind="pretrain",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    # the checkpoint it starts from
    follows="phase3",
    optimizer_state=CARRY,
    # length and batch, in tokens
    tokens=published(500 * 10**9, "W", "pretraining.phases.3.tokens"),
    sequence_length=published(4096, "W", "pretraining.phases.3.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_4K,
    # percent of the tokens
    mixture=published_mixture(
        "pretraining.phases.3.mixture",
        {
            "common_crawl_hq": 40.0,
            "code": 20.0,
            "math": 20.0,
            "long_cot": 6.0,
            "code_instruction": 5.0,
            "language_instruction": 9.0,
        },
    ),
    schedule=LinearDecay(
        lr_start=derived(LR_END.value, "where phase 3 ends"),
        lr_end=derived(0.0, "pretraining.phases.3.lr_schedule: linear decay to zero"),
        tokens=COMPUTED,
        warmup_tokens=assumed(0, "phase 3's learning rate continues; not published"),
    ),
    # at the end
    merge=None,
    rules=(*RULES, DECAY_TOKENS),
    tiny=tiny.PRETRAIN,
)
