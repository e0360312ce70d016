"""The optimizer and the schedule of a model that NeMo-Aligner trains."""

from typing import Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from nemo.core.optim.mcore_optim import McoreDistributedOptimizer

from recipes.alignment.model import AlignedGranite
from recipes.spec.recipe import CommonRecipe
from recipes.spec.schedules import Schedule
from recipes.training.schedule import TokenSchedule, is_hidden_matrix


class StageOptimizer(McoreDistributedOptimizer):
    """NeMo's wrapper of Megatron's optimizer, which clips the gradient itself.

    Attributes:
        grad_norm: global norm of the last step's gradient, before it was clipped; 0 before.
    """

    grad_norm = 0.0

    def step(self, closure: Any = None) -> Any:
        """Do a step and keep the gradient's norm."""
        result = super().step(closure)
        self.grad_norm = float(result[1])
        return result


def make_trainable(
    model: AlignedGranite, recipe: CommonRecipe, schedule: Schedule, tokens_per_step: int
) -> tuple[StageOptimizer, TokenSchedule]:
    """Wrap a model whose weights are loaded for training; return its optimizer and its schedule.

    Norms and biases have no weight decay.

    Args:
        model: of :func:`recipes.alignment.model.build_model`; its weights become the optimizer's.
        recipe: of the stage.
        schedule: learning rate by tokens.
        tokens_per_step: by which the schedule advances.
    """
    model.setup_mcore_distributed_parallel()
    is_bf16 = recipe.precision.value == "bf16-mixed"
    settings = recipe.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=schedule.lr(0),
        adam_beta1=settings.betas.value[0],
        adam_beta2=settings.betas.value[1],
        adam_eps=settings.eps.value,
        weight_decay=settings.weight_decay.value,
        clip_grad=settings.gradient_clip.value,
        bf16=is_bf16,
        params_dtype=torch.bfloat16 if is_bf16 else torch.float32,
        use_distributed_optimizer=torch.cuda.is_available(),
    )
    megatron = get_megatron_optimizer(
        config,
        model.model,
        scale_lr_cond=is_hidden_matrix,
        lr_mult=1 / recipe.hidden_lr_divisor.value,
    )
    _apply_multipliers(megatron.param_groups)
    optimizer = StageOptimizer(megatron)
    return optimizer, TokenSchedule(optimizer, schedule, tokens_per_step)


def _apply_multipliers(param_groups: list[dict[str, Any]]) -> None:
    """Apply Megatron's multipliers of a group, as NeMo 2 does, under the names that NeMo 2 has.

    Megatron's own scheduler would apply them in each step.
    """
    for group in param_groups:
        group["pre_lr_mult"] = group.pop("lr_mult")
        group["pre_wd_mult"] = group.pop("wd_mult")
        group["weight_decay"] *= group["pre_wd_mult"]
