"""Long-context extension to 32K, 128K and 512K tokens: a longer sequence and a larger theta each.

The learning rate decays anew from 1e-4 to zero in every stage, with fresh optimizer moments. A
merge ends the stage.
"""

from recipes.phase4_refinement import PHASE4
from recipes.spec import tiny
from recipes.spec.mixtures import published_mixture
from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.pretraining import (
    DECAY_TOKENS,
    RULES,
    TOKENS_PER_BATCH,
    PretrainStage,
    StageMerge,
)
from recipes.spec.recipe import OptimizerState
from recipes.spec.schedules import ExponentialDecay
from recipes.spec.tree import COMPUTED

# theta by published size
_THETA_32K = assumed(
    1e6, "between the 4K value and the released one, as the length grows eightfold; not published"
)
ROPE_THETA_32K = {"3b": _THETA_32K, "8b": _THETA_32K, "30b": _THETA_32K}
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
# of the last stage of each size; alignment keeps it
ROPE_THETA_RELEASED = {"3b": ROPE_THETA_128K["3b"], **ROPE_THETA_512K}

_RATE = (
    "pretraining.phases.4.lr_schedule: exponential decay from 1e-4 to 0, read as each stage's own "
    "curve"
)
SCHEDULE = ExponentialDecay(
    lr_start=derived(1e-4, _RATE),
    lr_end=derived(0.0, _RATE),
    tokens=COMPUTED,
)
FRESH: Sourced[OptimizerState] = assumed(
    "fresh",
    "the learning rate starts anew at 1e-4, and a merge has changed the weights under old moments",
)
MERGE = StageMerge(
    method=assumed(
        "linear",
        "that each stage ends with a merge is published, not how; a weighted mean is the plainest",
    ),
    weight=assumed(
        0.7,
        "most of what the stage has learned; `granite41 merge --sweep` compares others; not "
        "published",
    ),
)
_TOKENS = (
    "not published; the three stages share 500B, Granite 3.1's and the 15T total less phases 1 to 4"
)

LCE_32K = PretrainStage(
    name="lce_32k",
    title="long-context extension to 32K",
    kind="long_context",
    status="ready",
    sizes=published(("3b", "8b", "30b"), "W", "pretraining.phases.4.stages.0.sizes"),
    # the checkpoint it starts from
    follows="phase4",
    optimizer_state=FRESH,
    # length and batch, in tokens
    tokens=assumed(250 * 10**9, _TOKENS),
    sequence_length=published(32768, "W", "pretraining.phases.4.stages.0.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_32K,
    # percent of the tokens
    mixture=PHASE4.mixture,
    schedule=SCHEDULE,
    # at the end
    merge=MERGE,
    rules=(*RULES, DECAY_TOKENS),
    tiny=tiny.PRETRAIN,
)

LCE_128K = PretrainStage(
    name="lce_128k",
    title="long-context extension to 128K",
    kind="long_context",
    status="ready",
    sizes=published(("3b", "8b", "30b"), "W", "pretraining.phases.4.stages.1.sizes"),
    # the checkpoint it starts from
    follows="lce_32k",
    optimizer_state=FRESH,
    # length and batch, in tokens
    tokens=assumed(150 * 10**9, _TOKENS),
    sequence_length=published(131072, "W", "pretraining.phases.4.stages.1.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_128K,
    # percent of the tokens
    mixture=PHASE4.mixture,
    schedule=SCHEDULE,
    # at the end
    merge=MERGE,
    rules=(*RULES, DECAY_TOKENS),
    tiny=tiny.PRETRAIN,
)

LCE_512K = PretrainStage(
    name="lce_512k",
    title="long-context extension to 512K",
    kind="long_context",
    status="ready",
    sizes=published(("8b", "30b"), "W", "pretraining.phases.4.stages.2.sizes"),
    # the checkpoint it starts from
    follows="lce_128k",
    optimizer_state=FRESH,
    # length and batch, in tokens
    tokens=assumed(100 * 10**9, _TOKENS),
    sequence_length=published(524288, "W", "pretraining.phases.4.stages.2.sequence_length"),
    tokens_per_batch=TOKENS_PER_BATCH,
    rope_theta=ROPE_THETA_512K,
    # percent of the tokens
    mixture=published_mixture(
        "pretraining.phases.4.stages.2.mixture",
        {
            "books": 80.0,
            "code_repositories": 20.0,
        },
    ),
    schedule=SCHEDULE,
    # at the end
    merge=MERGE,
    rules=(*RULES, DECAY_TOKENS),
    tiny=tiny.PRETRAIN,
)
