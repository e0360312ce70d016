"""Sizes, batches, mixtures, rope theta, parallelism, the chain of stages and tiny's rules."""

import math

import pytest

from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, parent_stage, stage_sizes
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.sizes import SIZES, parameter_count

PRETRAIN = ["phase1", "phase2", "phase3", "phase4", "lce_32k", "lce_128k", "lce_512k"]
TWELVE = [*PRETRAIN, "sft", "rl_multi_domain", "rl_rlhf", "rl_identity", "rl_math"]
RECIPES = [(stage, size) for stage in STAGES for size in stage_sizes(stage)]


def test_stages_and_sizes() -> None:
    assert list(STAGES) == TWELVE
    assert list(SIZES) == ["3b", "8b", "30b", "tiny"]
    assert [stage for stage in TWELVE if "3b" not in stage_sizes(stage)] == ["lce_512k"]
    assert all({"8b", "30b", "tiny"} <= set(stage_sizes(stage)) for stage in TWELVE)


@pytest.mark.parametrize(
    ("size", "count"),
    [("3b", 3402836480), ("8b", 8380551168), ("30b", 28865728512), ("tiny", 328256)],
)
def test_parameter_count(size: str, count: int) -> None:
    assert parameter_count(SIZES[size]) == SIZES[size].parameter_count.value == count


@pytest.mark.parametrize("size", SIZES)
def test_multipliers_follow_the_published_rules(size: str) -> None:
    model = SIZES[size]
    assert model.attention_multiplier.value == 1 / model.head_dim.value
    assert model.logits_scaling.value == model.width_multiplier == model.hidden_size.value / 256
    assert model.residual_multiplier.value == pytest.approx(
        1.4 / math.sqrt(model.num_layers.value), abs=2e-3
    )
    assert model.embedding_multiplier.value == 12
    base = 0.02 if size == "tiny" else 0.1
    assert model.hidden_initializer_std == pytest.approx(
        base / math.sqrt(model.hidden_size.value / 256)
    )


def test_tiny_model() -> None:
    tiny = SIZES["tiny"]
    assert (
        tiny.attention_multiplier.value,
        tiny.residual_multiplier.value,
        tiny.logits_scaling.value,
    ) == (
        0.0625,
        0.7,
        0.25,
    )
    assert (tiny.bos_token_id.value, tiny.eos_token_id.value, tiny.pad_token_id.value) == (0, 0, 1)
    assert tiny.hidden_size.value == tiny.num_attention_heads.value * tiny.head_dim.value


@pytest.mark.parametrize("stage", PRETRAIN)
def test_mixture_sums_to_100(stage: str) -> None:
    assert sum(percent.value for percent in resolve(stage, "8b").mixture.values()) == pytest.approx(
        100, abs=0.1
    )


@pytest.mark.parametrize("size", ["8b", "tiny"])
def test_batches(size: str) -> None:
    batches = [resolve(stage, size).global_batch_size.value for stage in PRETRAIN]
    lengths = [resolve(stage, size).sequence_length.value for stage in PRETRAIN]
    if size == "8b":
        assert batches == [1024, 1024, 1024, 1024, 128, 32, 8]
    else:
        # one sequence is the smallest batch: 512K's is four times the others' tokens
        assert batches == [32, 32, 32, 32, 4, 1, 1]
        assert lengths == [256, 256, 256, 256, 2048, 8192, 32768]
    tokens = [batch * length for batch, length in zip(batches, lengths, strict=True)]
    assert tokens == ([4194304] * 7 if size == "8b" else [8192] * 6 + [32768])
    leaves = [resolve(stage, size).tokens_per_batch for stage in PRETRAIN]
    assert [leaf.value for leaf in leaves] == tokens
    assert ["one sequence is more than" in leaf.why for leaf in leaves] == [False] * 6 + [
        size == "tiny"
    ]


def test_steps() -> None:
    # 10e12 / 4194304 = 2384185.8; 1.25e6 / 8192 = 152.6
    assert resolve("phase1", "8b").steps.value == 2384186
    assert resolve("phase1", "tiny").steps.value == 153
    assert resolve("sft", "8b").steps.value == 25000
    assert resolve("sft", "8b").tokens.value == 25000 * 256 * 16384
    assert [resolve(stage, "8b").steps.value for stage in TWELVE[8:]] == [711, 280, 40, 211]
    assert resolve("rl_math", "8b").prompts_per_step.value == 64


def test_tiny_divides_every_length_by_one_factor() -> None:
    for stage in TWELVE:
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


@pytest.mark.parametrize(("size", "released"), [("3b", 1e7), ("8b", 1e7), ("30b", 5e7)])
def test_rope_theta_rises_to_the_released_one(size: str, released: float) -> None:
    stages = [stage for stage in TWELVE if size in stage_sizes(stage)]
    thetas = [resolve(stage, size).rope_theta.value for stage in stages]
    assert thetas == sorted(thetas)
    long_context = [resolve(stage, size).rope_theta for stage in stages if stage.startswith("lce")]
    assert len({theta.value for theta in long_context}) == len(long_context)
    assert (long_context[-1].value, long_context[-1].origin) == (released, "published")
    assert thetas[-1] == released
    assert thetas[:4] == [1e4] * 4


def test_parents() -> None:
    assert parent_stage("phase1", "3b") is None
    assert parent_stage("phase2", "3b") == "phase1"
    assert parent_stage("sft", "3b") == "lce_128k"
    assert parent_stage("sft", "8b") == parent_stage("sft", "tiny") == "lce_512k"
    assert resolve("rl_multi_domain", "3b").parent == "sft"


def test_optimizer_state_and_status() -> None:
    states = {stage: resolve(stage, "8b").optimizer_state.value for stage in TWELVE}
    assert {stage for stage, state in states.items() if state == "carry"} == {
        "phase2",
        "phase3",
        "phase4",
    }
    assert states["phase1"] == "fresh"
    assert {resolve(stage, "8b").status for stage in TWELVE} <= {"ready", "planned"}
    assert resolve("phase1", "8b").status == "ready"


@pytest.mark.parametrize(("stage", "size"), RECIPES)
def test_no_gpu_holds_more_than_32k_tokens_of_a_sequence(stage: str, size: str) -> None:
    recipe = resolve(stage, size)
    assert recipe.sequence_length.value / recipe.parallelism.context_parallel_size.value <= 32768
    assert recipe.parallelism.sequence_parallel.value == (
        recipe.parallelism.tensor_model_parallel_size.value > 1
    )
