"""Supervised fine-tuning (SFT)."""

from dataclasses import dataclass
from typing import Any

from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.parallelism import parallelism
from recipes.spec.pretraining import ROPE_THETA_RELEASED, SIZES_OF_EVERY_STAGE
from recipes.spec.recipe import (
    OPTIMIZER,
    PRECISION,
    SEED,
    CommonRecipe,
    Kind,
    OptimizerState,
    Status,
)
from recipes.spec.schedules import LinearDecay
from recipes.spec.sizes import Size
from recipes.spec.tree import COMPUTED, Rule


@dataclass(frozen=True)
class SftStage:
    """The published settings of SFT."""

    name: str
    title: str
    kind: Kind
    status: Status
    sizes: Sourced[tuple[str, ...]]
    samples: Sourced[int]
    epochs: Sourced[int]
    steps: Sourced[int]
    sequence_length: Sourced[int]
    global_batch_size: Sourced[int]
    learning_rate: Sourced[float]
    warmup_fraction: Sourced[float]
    optimizer_state: Sourced[OptimizerState]


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


# the published learning rates of SFT and RL are taken as the optimizer's own for every matrix
HIDDEN_LR_DIVISOR = assumed(
    1.0, "the published learning rate is read as every matrix's own, without muP's division"
)

SFT = SftStage(
    name="sft",
    title="supervised fine-tuning",
    kind="sft",
    status="planned",
    sizes=SIZES_OF_EVERY_STAGE,
    samples=published(4_100_000, "W", "sft.samples"),
    epochs=published(3, "W", "sft.epochs"),
    steps=derived(
        25_000,
        "sft.decay: linear over about 25K steps; 3 x 4.1M samples, about two packed in a sequence",
    ),
    sequence_length=published(16384, "W", "sft.sequence_length"),
    global_batch_size=published(256, "W", "sft.global_batch_size"),
    learning_rate=published(5e-6, "W", "sft.learning_rate"),
    warmup_fraction=published(0.03, "W", "sft.warmup_fraction"),
    optimizer_state=assumed("fresh", "new data and a new learning rate; not published"),
)

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


def build(stage: SftStage, model: Size, parent: str | None) -> SftRecipe:
    """Return the recipe of SFT at full scale, before its rules are applied."""
    return SftRecipe(
        stage=stage.name,
        size=model.name,
        title=stage.title,
        kind=stage.kind,
        status=stage.status,
        parent=parent,
        samples=stage.samples,
        epochs=stage.epochs,
        steps=stage.steps,
        sequence_length=stage.sequence_length,
        global_batch_size=stage.global_batch_size,
        tokens=COMPUTED,
        model=model,
        rope_theta=ROPE_THETA_RELEASED["8b" if model.name == "tiny" else model.name],
        warmup_fraction=stage.warmup_fraction,
        schedule=LinearDecay(
            lr_start=stage.learning_rate,
            lr_end=assumed(0.0, "a linear decay without a stated end; zero is usual"),
            tokens=COMPUTED,
            warmup_tokens=COMPUTED,
        ),
        hidden_lr_divisor=HIDDEN_LR_DIVISOR,
        optimizer=OPTIMIZER,
        optimizer_state=stage.optimizer_state,
        parallelism=parallelism(model.name, stage.name, stage.sequence_length.value),
        precision=PRECISION,
        seed=SEED,
        checkpoint_every_steps=assumed(1000, "25 checkpoints over the stage"),
        validate_every_steps=assumed(500, "twice per checkpoint"),
    )
