"""The nemo_run factories of the stages, against the values of the plain layer."""

from importlib.metadata import entry_points

import pytest

from recipes.registry.resolve import resolve_pretraining
from recipes.registry.stages import PRETRAIN_STAGES
from recipes.spec.sizes import SIZES

pytestmark = pytest.mark.slow


def _built_by_name(stage: str, size: str) -> dict:
    from nemo.collections import llm
    from nemo_run.cli.api import resolve_factory

    for entry in entry_points(group="nemo_run.cli"):
        if entry.value.startswith("recipes."):
            entry.load()
    recipe = resolve_factory(llm.pretrain, f"granite41_{stage}")(size=size)
    assert recipe.__fn_or_cls__ is llm.pretrain
    strategy, optim = recipe.trainer.strategy, recipe.optim
    return {
        "hidden_size": recipe.model.config.hidden_size,
        "rotary_base": recipe.model.config.rotary_base,
        "parallelism": (
            strategy.tensor_model_parallel_size,
            strategy.pipeline_model_parallel_size,
            strategy.context_parallel_size,
            strategy.sequence_parallel,
        ),
        "max_steps": recipe.trainer.max_steps,
        "reset": (recipe.data.reset_position_ids, recipe.data.reset_attention_mask),
        "batch": (
            recipe.data.global_batch_size,
            recipe.data.micro_batch_size,
            recipe.data.seq_length,
        ),
        "lr_mult": optim.lr_mult,
        "betas": (optim.config.adam_beta1, optim.config.adam_beta2),
        "bf16": optim.config.bf16,
    }


CASES = [("phase1", size) for size in SIZES]
CASES += [(stage, "8b") for stage in PRETRAIN_STAGES if stage != "phase1"]


@pytest.mark.parametrize(("stage", "size"), CASES)
def test_the_factory_says_what_the_plain_layer_says(forked, stage, size) -> None:
    recipe = resolve_pretraining(stage, size)
    parallel = recipe.parallelism
    assert forked(_built_by_name, stage, size) == {
        "hidden_size": recipe.model.hidden_size.value,
        "rotary_base": recipe.rope_theta.value,
        "parallelism": (
            parallel.tensor_model_parallel_size.value,
            parallel.pipeline_model_parallel_size.value,
            parallel.context_parallel_size.value,
            parallel.sequence_parallel.value,
        ),
        "max_steps": recipe.steps.value,
        # the one choice of document_masking that a recipe may have
        "reset": (False, False),
        "batch": (
            recipe.global_batch_size.value,
            parallel.micro_batch_size.value,
            recipe.sequence_length.value,
        ),
        "lr_mult": 1 / recipe.hidden_lr_divisor.value,
        "betas": recipe.optimizer.betas.value,
        "bf16": recipe.precision.value == "bf16-mixed",
    }
