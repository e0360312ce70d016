"""Types of reinforcement learning (RL): on-policy GRPO with the DAPO loss."""

from dataclasses import dataclass

from recipes.spec.origin import Sourced
from recipes.spec.recipe import ALIGNMENT_LR_DIVISOR, CommonRecipe, Optimizer
from recipes.spec.schedules import ConstantSchedule
from recipes.spec.sizes import Size
from recipes.spec.stage import Stage
from recipes.spec.tree import COMPUTED


@dataclass(frozen=True, kw_only=True)
class RlStage(Stage):
    """The table of an RL stage; its attributes are those of :class:`RlRecipe`."""

    prompts: Sourced[int]
    samples_per_prompt: Sourced[int]
    train_batch_size: Sourced[int]
    steps: Sourced[int]
    schedule: ConstantSchedule
    kl_beta: Sourced[float]
    clip_ratio_low: Sourced[float]
    clip_ratio_high: Sourced[float]
    temperature: Sourced[float]
    dynamic_sampling: Sourced[bool]
    domains: Sourced[tuple[str, ...]]
    optimizer: Optimizer
    checkpoint_every_steps: Sourced[int]

    prompts_per_step: Sourced[int] = COMPUTED
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
        kl_beta: weight of the divergence from the stage's starting policy.
        clip_ratio_low, clip_ratio_high: the policy's probability ratio is clipped to
            [1 - low, 1 + high].
        temperature: of the rollouts.
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
    kl_beta: Sourced[float]
    clip_ratio_low: Sourced[float]
    clip_ratio_high: Sourced[float]
    temperature: Sourced[float]
    dynamic_sampling: Sourced[bool]
    domains: Sourced[tuple[str, ...]]
    checkpoint_every_steps: Sourced[int]
