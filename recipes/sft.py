"""Supervised fine-tuning (SFT): 4.1M conversations, three times, packed into 16K tokens."""

from typing import Any

from recipes.lce import ROPE_THETA_RELEASED
from recipes.spec import tiny
from recipes.spec.origin import assumed, derived, published
from recipes.spec.recipe import OPTIMIZER, Optimizer
from recipes.spec.schedules import LinearDecay
from recipes.spec.sft import SftStage
from recipes.spec.stage import EVERY_PUBLISHED_SIZE
from recipes.spec.tree import COMPUTED, Rule

# the schedule's tokens follow from steps and batch
RULES: tuple[Rule[Any], ...] = (
    Rule(
        "tokens",
        (),
        lambda recipe: derived(
            recipe.steps.value * recipe.global_batch_size.value * recipe.sequence_length.value,
            "steps x global_batch_size x sequence_length",
        ),
    ),
    Rule(
        "schedule.tokens",
        (),
        lambda recipe: derived(recipe.tokens.value, "the whole stage: tokens"),
    ),
    Rule(
        "schedule.warmup_tokens",
        (),
        lambda recipe: derived(
            round(recipe.warmup_fraction.value * recipe.tokens.value), "warmup_fraction x tokens"
        ),
    ),
)

_FALLBACK = "fallback: granite.build, Granite 4.0 350M recipe; not published for 4.1"

SFT = SftStage(
    name="sft",
    title="supervised fine-tuning",
    kind="sft",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    # the checkpoint it starts from
    follows="lce_512k",
    optimizer_state=assumed("fresh", "new data and a new learning rate; not published"),
    # length and batch: samples are conversations, the batch is in packed sequences
    samples=published(4_100_000, "W", "sft.samples"),
    epochs=published(3, "W", "sft.epochs"),
    steps=derived(
        25_000,
        "sft.decay: linear over about 25K steps; 3 x 4.1M samples, about two packed in a sequence",
    ),
    sequence_length=published(16384, "W", "sft.sequence_length"),
    global_batch_size=published(256, "W", "sft.global_batch_size"),
    rope_theta=ROPE_THETA_RELEASED,
    # linear warm-up and decay
    schedule=LinearDecay(
        lr_start=published(5e-6, "W", "sft.learning_rate"),
        lr_end=assumed(0.0, "a linear decay without a stated end; zero is usual"),
        tokens=COMPUTED,
        warmup_tokens=COMPUTED,
    ),
    warmup_fraction=published(0.03, "W", "sft.warmup_fraction"),
    optimizer=Optimizer(
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.eps,
        weight_decay=assumed(0.0, _FALLBACK),
        gradient_clip=assumed(1.0, _FALLBACK),
    ),
    # intervals in steps
    checkpoint_every_steps=assumed(1000, "25 checkpoints over the stage"),
    validate_every_steps=assumed(500, "twice per checkpoint"),
    validation_share=assumed(
        0.001, "about 2,100 of 2.1M packed sequences, eight batches; not published"
    ),
    gpus=derived(64, "sft.hardware: 16 nodes x 4 GB200"),
    rules=RULES,
    tiny=tiny.SFT,
)
