"""Reinforcement learning (RL): four stages of on-policy GRPO with the DAPO loss."""

from dataclasses import dataclass
from typing import Any

from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.parallelism import parallelism
from recipes.spec.pretraining import ROPE_THETA_RELEASED, SIZES_OF_EVERY_STAGE
from recipes.spec.recipe import (
    PRECISION,
    SEED,
    CommonRecipe,
    Kind,
    Optimizer,
    OptimizerState,
    Status,
)
from recipes.spec.schedules import ConstantSchedule
from recipes.spec.sft import HIDDEN_LR_DIVISOR
from recipes.spec.sizes import Size
from recipes.spec.tree import COMPUTED, Rule


@dataclass(frozen=True)
class RlStage:
    """One row of the table below."""

    name: str
    title: str
    kind: Kind
    status: Status
    sizes: Sourced[tuple[str, ...]]
    prompts: Sourced[int]
    steps: Sourced[int]
    learning_rate: Sourced[float]
    kl_beta: Sourced[float]
    domains: Sourced[tuple[str, ...]]
    sequence_length: Sourced[int]
    optimizer_state: Sourced[OptimizerState]


@dataclass(frozen=True, kw_only=True)
class RlRecipe(CommonRecipe):
    """A resolved RL stage.

    Attributes:
        prompts: distinct prompts of the stage.
        samples_per_prompt: GRPO's group size.
        train_batch_size: samples per optimizer step.
        prompts_per_step: prompts per optimizer step.
        steps: optimizer steps; the prompts are repeated where steps x prompts_per_step exceeds them.
        kl_beta: weight of the divergence from the stage's starting policy.
        clip_ratio_low, clip_ratio_high: the policy's probability ratio is clipped to [1 - low, 1 + high].
        temperature: of the rollouts.
        dynamic_sampling: whether groups whose samples all have the same reward are replaced by new ones.
        domains: what the prompts are about.
        checkpoint_every_steps: in optimizer steps.

    ``sequence_length`` is prompt and response together.
    """

    prompts: Sourced[int]
    samples_per_prompt: Sourced[int]
    train_batch_size: Sourced[int]
    prompts_per_step: Sourced[int]
    steps: Sourced[int]
    schedule: ConstantSchedule
    kl_beta: Sourced[float]
    clip_ratio_low: Sourced[float]
    clip_ratio_high: Sourced[float]
    temperature: Sourced[float]
    dynamic_sampling: Sourced[bool]
    domains: Sourced[tuple[str, ...]]
    checkpoint_every_steps: Sourced[int]


SEQUENCE_LENGTH = published(8192, "W", "rl.context_length")
FRESH: Sourced[OptimizerState] = assumed(
    "fresh", "a new objective with a new learning rate; not published"
)
_COMMON_PRACTICE = "common for RL of language models; not published"

OPTIMIZER = Optimizer(
    betas=assumed((0.9, 0.999), _COMMON_PRACTICE),
    eps=assumed(1e-8, _COMMON_PRACTICE),
    weight_decay=assumed(0.01, _COMMON_PRACTICE),
    gradient_clip=assumed(1.0, _COMMON_PRACTICE),
)

RL_MULTI_DOMAIN = RlStage(
    name="rl_multi_domain",
    title="multi-domain RL",
    kind="rl",
    status="planned",
    sizes=SIZES_OF_EVERY_STAGE,
    prompts=published(45504, "W", "rl.stages.0.prompts"),
    steps=COMPUTED,
    learning_rate=published(5e-7, "W", "rl.stages.0.learning_rate"),
    kl_beta=published(0.05, "W", "rl.stages.0.kl_beta"),
    domains=published(
        (
            "math",
            "science",
            "logical reasoning",
            "instruction following",
            "structured output",
            "text2sql",
            "temporal reasoning",
            "general chat",
            "in-context learning",
        ),
        "W",
        "rl.stages.0.domains",
    ),
    sequence_length=SEQUENCE_LENGTH,
    optimizer_state=FRESH,
)

RL_RLHF = RlStage(
    name="rl_rlhf",
    title="RL from human feedback",
    kind="rl",
    status="planned",
    sizes=SIZES_OF_EVERY_STAGE,
    prompts=published(17920, "W", "rl.stages.1.prompts"),
    steps=COMPUTED,
    learning_rate=published(3e-7, "W", "rl.stages.1.learning_rate"),
    kl_beta=published(0.09, "W", "rl.stages.1.kl_beta"),
    domains=derived(
        ("general chat",), "rl.stages.1.reward: multilingual scalar reward model on general chat"
    ),
    sequence_length=SEQUENCE_LENGTH,
    optimizer_state=FRESH,
)

RL_IDENTITY = RlStage(
    name="rl_identity",
    title="identity and calibration RL",
    kind="rl",
    status="planned",
    sizes=SIZES_OF_EVERY_STAGE,
    prompts=published(1728, "W", "rl.stages.2.prompts"),
    steps=published(40, "W", "rl.stages.2.steps"),
    learning_rate=published(3e-7, "W", "rl.stages.2.learning_rate"),
    kl_beta=published(0.09, "W", "rl.stages.2.kl_beta"),
    domains=derived(("identity", "calibration"), "rl.stages.2.name: identity_calibration"),
    sequence_length=SEQUENCE_LENGTH,
    optimizer_state=FRESH,
)

RL_MATH = RlStage(
    name="rl_math",
    title="math RL",
    kind="rl",
    status="planned",
    sizes=SIZES_OF_EVERY_STAGE,
    prompts=published(13504, "W", "rl.stages.3.prompts"),
    steps=COMPUTED,
    learning_rate=published(5e-7, "W", "rl.stages.3.learning_rate"),
    kl_beta=published(0.05, "W", "rl.stages.3.kl_beta"),
    domains=derived(("math",), "rl.stages.3.name: math"),
    sequence_length=SEQUENCE_LENGTH,
    optimizer_state=FRESH,
)

RL_STAGES = (RL_MULTI_DOMAIN, RL_RLHF, RL_IDENTITY, RL_MATH)

RULES: tuple[Rule[Any], ...] = (
    Rule(
        "prompts_per_step",
        (),
        lambda recipe: derived(
            max(1, recipe.train_batch_size.value // recipe.samples_per_prompt.value),
            "train_batch_size / samples_per_prompt",
        ),
    ),
    Rule(
        "steps",
        ("prompts", "train_batch_size", "samples_per_prompt", "prompts_per_step"),
        lambda recipe: derived(
            max(1, round(recipe.prompts.value / recipe.prompts_per_step.value)),
            "one pass: prompts / prompts_per_step, rounded",
        ),
    ),
)


def build(stage: RlStage, model: Size, parent: str | None) -> RlRecipe:
    """Return the recipe of ``stage`` at full scale, before its rules are applied."""
    return RlRecipe(
        stage=stage.name,
        size=model.name,
        title=stage.title,
        kind=stage.kind,
        status=stage.status,
        parent=parent,
        prompts=stage.prompts,
        samples_per_prompt=published(16, "W", "rl.samples_per_prompt"),
        train_batch_size=published(1024, "W", "rl.train_batch_size"),
        prompts_per_step=COMPUTED,
        steps=stage.steps,
        sequence_length=stage.sequence_length,
        model=model,
        rope_theta=ROPE_THETA_RELEASED["8b" if model.name == "tiny" else model.name],
        schedule=ConstantSchedule(learning_rate=stage.learning_rate),
        hidden_lr_divisor=HIDDEN_LR_DIVISOR,
        kl_beta=stage.kl_beta,
        clip_ratio_low=assumed(0.2, "the DAPO paper's; not published for 4.1"),
        clip_ratio_high=assumed(0.28, "the DAPO paper's; not published for 4.1"),
        temperature=assumed(
            1.0, "samples from the policy itself, as on-policy gradients ask; not published"
        ),
        dynamic_sampling=published(False, "W", "rl.dynamic_sampling"),
        domains=stage.domains,
        optimizer=OPTIMIZER,
        optimizer_state=stage.optimizer_state,
        parallelism=parallelism(model.name, stage.name, stage.sequence_length.value),
        precision=PRECISION,
        seed=SEED,
        checkpoint_every_steps=assumed(
            20, "a step generates 1,024 samples, so minutes; not published"
        ),
    )
