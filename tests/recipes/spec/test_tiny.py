"""The stages at size tiny: what is scaled down, by which factor."""

from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.spec.pretraining import PretrainRecipe


def test_tiny_divides_every_length_by_one_factor() -> None:
    for stage in STAGES:
        tiny, full = resolve(stage, "tiny"), resolve(stage, "8b")
        assert tiny.sequence_length.value * 16 == full.sequence_length.value
        if isinstance(tiny, PretrainRecipe):
            assert tiny.tokens.value * 8_000_000 == full.tokens.value
        assert tiny.precision.value == "32"
        assert full.precision.value == "bf16-mixed"
    assert resolve("phase1", "tiny").parallelism.micro_batch_size.value == 32
    assert resolve("rl_math", "tiny").samples_per_prompt.value == 16


def test_tiny_has_ten_checkpoints_in_phase1() -> None:
    recipe = resolve("phase1", "tiny")
    assert recipe.checkpoint_every_tokens.value == 125_000
    assert recipe.checkpoint_every_steps == 15
    assert resolve("lce_512k", "tiny").checkpoint_every_steps == 1
