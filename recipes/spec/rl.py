"""Types of reinforcement learning (RL): on-policy GRPO with the DAPO loss."""

from dataclasses import dataclass
from typing import Literal

from recipes.spec.origin import Sourced
from recipes.spec.recipe import ALIGNMENT_LR_DIVISOR, CommonRecipe, Optimizer
from recipes.spec.schedules import ConstantSchedule
from recipes.spec.sizes import Size
from recipes.spec.stage import Stage
from recipes.spec.tree import COMPUTED

KlEstimator = Literal["k3", "k2", "k3_ratio"]
LossReduction = Literal["token", "sequence", "micro_batch"]
TruncatedAnswers = Literal["keep", "mask", "punish"]


@dataclass(frozen=True, kw_only=True)
class RlStage(Stage):
    """The table of an RL stage; its attributes are those of :class:`RlRecipe`."""

    prompts: Sourced[int]
    samples_per_prompt: Sourced[int]
    train_batch_size: Sourced[int]
    steps: Sourced[int]
    schedule: ConstantSchedule
    advantage_epsilon: Sourced[float]
    kl_beta: Sourced[float]
    kl_estimator: Sourced[KlEstimator]
    clip_ratio_low: Sourced[float]
    clip_ratio_high: Sourced[float]
    loss_reduction: Sourced[LossReduction]
    answers_per_mean: Sourced[int]
    importance_cap: Sourced[float]
    truncated_answers: Sourced[TruncatedAnswers]
    temperature: Sourced[float]
    dynamic_sampling: Sourced[bool]
    domains: Sourced[tuple[str, ...]]
    optimizer: Optimizer
    checkpoint_every_steps: Sourced[int]

    prompts_per_step: Sourced[int] = COMPUTED
    overlong_buffer: Sourced[int] = COMPUTED
    hidden_lr_divisor: Sourced[float] = ALIGNMENT_LR_DIVISOR

    def build(self, size: Size, parent: str | None) -> "RlRecipe":
        """Return the recipe as the published size has it, before any rule is applied."""
        return RlRecipe(**self.values(RlRecipe, size, parent))


@dataclass(frozen=True, kw_only=True)
class RlRecipe(CommonRecipe):
    """A resolved RL stage; ``sequence_length`` is prompt and response together.

    Attributes:
        prompts: distinct prompts of the stage.
        samples_per_prompt: GRPO's group size.
        train_batch_size: samples per optimizer step.
        prompts_per_step: prompts per optimizer step.
        steps: optimizer steps; the prompts are repeated where steps x prompts_per_step exceeds
            them.
        advantage_epsilon: added to the deviation that a group's rewards are divided by.
        kl_beta: weight of the divergence from the stage's starting policy.
        kl_estimator: how it is estimated, see :func:`recipes.alignment.rl.loss.kl_estimate`.
        clip_ratio_low, clip_ratio_high: the policy's probability ratio is clipped to
            [1 - low, 1 + high].
        loss_reduction: which answers share a mean over their tokens: ``token`` all of the batch,
            ``sequence`` each for itself, ``micro_batch`` so many as ``answers_per_mean`` says.
        importance_cap: of truncated importance sampling, which corrects what trainer and rollout
            engine differ by; 0 leaves it out.
        truncated_answers: what becomes of answers cut off at ``sequence_length``: ``keep`` their
            reward, ``mask`` them in the loss, or ``punish`` all that reach into the last
            ``overlong_buffer`` tokens.
        temperature: of the rollouts, and in the log-probabilities that are trained.
        dynamic_sampling: whether groups whose samples all have the same reward are replaced by new
            ones.
        domains: what the prompts are about.
        checkpoint_every_steps: in optimizer steps.
    """

    prompts: Sourced[int]
    samples_per_prompt: Sourced[int]
    train_batch_size: Sourced[int]
    prompts_per_step: Sourced[int]
    steps: Sourced[int]
    schedule: ConstantSchedule
    advantage_epsilon: Sourced[float]
    kl_beta: Sourced[float]
    kl_estimator: Sourced[KlEstimator]
    clip_ratio_low: Sourced[float]
    clip_ratio_high: Sourced[float]
    loss_reduction: Sourced[LossReduction]
    answers_per_mean: Sourced[int]
    importance_cap: Sourced[float]
    truncated_answers: Sourced[TruncatedAnswers]
    overlong_buffer: Sourced[int]
    temperature: Sourced[float]
    dynamic_sampling: Sourced[bool]
    domains: Sourced[tuple[str, ...]]
    checkpoint_every_steps: Sourced[int]
