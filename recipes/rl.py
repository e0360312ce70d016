"""Reinforcement learning (RL): four stages of on-policy GRPO with the DAPO loss."""

from functools import partial
from typing import Any

from recipes.lce import ROPE_THETA_RELEASED
from recipes.spec import tiny
from recipes.spec.origin import assumed, derived, published
from recipes.spec.recipe import Optimizer
from recipes.spec.rl import RlStage
from recipes.spec.schedules import ConstantSchedule
from recipes.spec.stage import EVERY_PUBLISHED_SIZE
from recipes.spec.tree import COMPUTED, Rule

_DAPO = "the DAPO paper's (arXiv 2503.14476); not published for 4.1"
_SKYRL = "the default of SkyRL, IBM's framework; not published for 4.1"

# one pass over the prompts, unless the steps are published
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
    Rule(
        "overlong_buffer",
        ("sequence_length",),
        lambda recipe: assumed(
            recipe.sequence_length.value // 5, "a fifth, as the DAPO paper's 4,096 of 20,480 tokens"
        ),
    ),
)

# what the four stages share
_rl_stage = partial(
    RlStage,
    kind="rl",
    status="ready",
    sizes=EVERY_PUBLISHED_SIZE,
    optimizer_state=assumed("fresh", "a new objective with a new learning rate; not published"),
    # prompt and response together, in tokens
    sequence_length=published(8192, "W", "rl.context_length"),
    rope_theta=ROPE_THETA_RELEASED,
    # GRPO's group, and samples per optimizer step
    samples_per_prompt=published(16, "W", "rl.samples_per_prompt"),
    train_batch_size=published(1024, "W", "rl.train_batch_size"),
    advantage_epsilon=assumed(1e-6, _SKYRL),
    # DAPO's loss: the ratio is clipped to [1 - low, 1 + high]
    clip_ratio_low=assumed(0.2, _DAPO),
    clip_ratio_high=assumed(0.28, _DAPO),
    loss_reduction=derived(
        "token", "rl.algorithm: the DAPO loss, a mean over all tokens of the batch"
    ),
    answers_per_mean=assumed(1, f"of loss_reduction=micro_batch: {_SKYRL}"),
    kl_estimator=assumed("k3", _SKYRL),
    importance_cap=assumed(0.0, f"off: {_SKYRL}"),
    truncated_answers=assumed("keep", _SKYRL),
    temperature=assumed(
        1.0, "samples from the policy itself, as on-policy gradients ask; not published"
    ),
    dynamic_sampling=published(False, "W", "rl.dynamic_sampling"),
    optimizer=Optimizer(
        betas=assumed((0.9, 0.999), _SKYRL),
        eps=assumed(1e-8, _SKYRL),
        weight_decay=assumed(0.01, _SKYRL),
        gradient_clip=assumed(1.0, _SKYRL),
    ),
    checkpoint_every_steps=assumed(20, "a step generates 1,024 samples, so minutes; not published"),
    gpus=assumed(64, "SFT's; not published"),
    rules=RULES,
    tiny=tiny.RL,
)

RL_MULTI_DOMAIN = _rl_stage(
    name="rl_multi_domain",
    title="multi-domain RL",
    follows="sft",
    prompts=published(45504, "W", "rl.stages.0.prompts"),
    steps=COMPUTED,
    schedule=ConstantSchedule(published(5e-7, "W", "rl.stages.0.learning_rate")),
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
)

RL_RLHF = _rl_stage(
    name="rl_rlhf",
    title="RL from human feedback",
    follows="rl_multi_domain",
    prompts=published(17920, "W", "rl.stages.1.prompts"),
    steps=COMPUTED,
    schedule=ConstantSchedule(published(3e-7, "W", "rl.stages.1.learning_rate")),
    kl_beta=published(0.09, "W", "rl.stages.1.kl_beta"),
    domains=derived(
        ("general chat",), "rl.stages.1.reward: multilingual scalar reward model on general chat"
    ),
)

RL_IDENTITY = _rl_stage(
    name="rl_identity",
    title="identity and calibration RL",
    follows="rl_rlhf",
    prompts=published(1728, "W", "rl.stages.2.prompts"),
    steps=published(40, "W", "rl.stages.2.steps"),
    schedule=ConstantSchedule(published(3e-7, "W", "rl.stages.2.learning_rate")),
    kl_beta=published(0.09, "W", "rl.stages.2.kl_beta"),
    domains=derived(("identity", "calibration"), "rl.stages.2.name: identity_calibration"),
)

RL_MATH = _rl_stage(
    name="rl_math",
    title="math RL",
    follows="rl_identity",
    prompts=published(13504, "W", "rl.stages.3.prompts"),
    steps=COMPUTED,
    schedule=ConstantSchedule(published(5e-7, "W", "rl.stages.3.learning_rate")),
    kl_beta=published(0.05, "W", "rl.stages.3.kl_beta"),
    domains=derived(("math",), "rl.stages.3.name: math"),
)
