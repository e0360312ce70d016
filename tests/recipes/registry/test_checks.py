"""The arithmetic of ``granite41 check``: every recipe holds on every GPU type, and each kind of broken one fails."""

import dataclasses
import subprocess
import sys

import pytest

from recipes.common.errors import UserError
from recipes.registry.checks import check_numbers, resolve_chain
from recipes.registry.resolve import resolve, resolve_pretraining
from recipes.registry.stages import stage_sizes
from recipes.spec.memory import estimate, shard_parameters
from recipes.spec.origin import assumed
from recipes.spec.parallelism import GPU_MEMORY, PARALLELISM, TOKENS_PER_GPU
from recipes.spec.schedules import LinearDecay
from recipes.spec.sizes import SIZES

SPLITS = [(size, gpu_type) for size, by_gpu_type in PARALLELISM.items() for gpu_type in by_gpu_type]


def failed(recipes) -> dict[str, str]:
    """Return the names of the checks that fail, with what was found."""
    return {
        check.name: check.found
        for checks in check_numbers(recipes).values()
        for check in checks
        if not check.ok
    }


@pytest.mark.parametrize(("size", "gpu_type"), SPLITS)
def test_every_stage_holds(size: str, gpu_type: str) -> None:
    recipes = resolve_chain(size, overrides=[f"parallelism.gpu_type={gpu_type}"])
    assert len(recipes) == (6 if size == "3b" else 7)
    assert failed(recipes) == {}
    assert {len(checks) for checks in check_numbers(recipes).values()} == {12}


@pytest.mark.parametrize(
    ("stage", "overrides", "names", "found"),
    [
        (
            "phase1",
            ["parallelism.tensor_model_parallel_size=3"],
            "values fit together, world size, global batch",
            "",
        ),
        (
            "phase1",
            ["parallelism.pipeline_model_parallel_size=16"],
            "values fit together",
            "does not divide model.num",
        ),
        (
            "lce_32k",
            ["parallelism.context_parallel_size=3"],
            "values fit together, world size, global batch",
            "",
        ),
        (
            "lce_512k",
            ["parallelism.tensor_model_parallel_size=16"],
            "values fit together",
            "query_groups 8",
        ),
        (
            "phase1",
            ["parallelism.gpus=1023"],
            "world size, global batch",
            "GPUs 1,023 (gb200), replicas 511",
        ),
        (
            "phase1",
            ["parallelism.gpus=1"],
            "world size, global batch",
            "GPUs 1 (gb200), replicas 0",
        ),
        ("phase1", ["parallelism.gpus=4096"], "global batch", "1,024 sequences"),
        ("lce_32k", ["global_batch_size=100"], "global batch, tokens per batch", "100 sequences"),
        ("lce_32k", ["global_batch_size=256"], "tokens per batch", "8,388,608"),
        ("phase1", ["steps=2384187"], "steps x batch", "2,384,187 x 4,194,304"),
        ("phase4", ["checkpoint_every_tokens=600000000000"], "intervals", "143,051"),
        ("phase1", ["schedule.lr_max=0.0001"], "learning rate at the end", "0.0001"),
        (
            "phase2",
            ["schedule.start_tokens=0"],
            "learning rate at the start, learning rate at the end",
            "0.02",
        ),
        ("phase3", ["schedule.lr_start=0.001"], "learning rate at the start", "0.001"),
        ("phase4", ["schedule.lr_end=1e-9"], "learning rate at the end", "1e-09"),
        ("phase4", ["schedule.warmup_tokens=1000000"], "learning rate at the start", "0"),
        ("lce_32k", ["schedule.lr_start=1.1e-4"], "learning rate at the start", "0.00011"),
        ("lce_512k", ["schedule.lr_end=1e-9"], "learning rate at the end", "1e-09"),
        (
            "phase1",
            ["mixture.code=30"],
            "values fit together, mixture",
            "mixture sums to 110 percent",
        ),
        ("lce_128k", ["rope_theta=999999"], "theta", "theta 999,999 at 131,072 tokens"),
        ("lce_32k", ["rope_theta=5000001"], "theta", "theta 5,000,001"),
        ("lce_512k", ["rope_theta=20000000"], "theta", "theta 20,000,000"),
        ("lce_128k", ["sequence_length=16384"], "theta", "16,384 tokens"),
        ("lce_32k", ["parallelism.context_parallel_size=1"], "global batch", "128 sequences"),
        (
            "phase1",
            ["parallelism.micro_batch_size=32", "parallelism.gpus=64"],
            "memory (estimate)",
            "GB: parameters 8.4",
        ),
    ],
)
def test_a_broken_recipe_fails(stage: str, overrides: list[str], names: str, found: str) -> None:
    broken = failed(resolve_chain("8b", stage, overrides))
    assert ", ".join(broken) == names
    assert found in next(iter(broken.values()))


def test_an_override_of_every_stage_meets_its_neighbours() -> None:
    # the power schedules of phases 1 and 2 follow the batch, and phase 3 starts where they end
    recipes = resolve_chain("8b", overrides=["global_batch_size=512", "parallelism.gpus=512"])
    phases = ("phase1", "phase2", "phase3", "phase4")
    assert failed({name: recipes[name] for name in phases}) == {}
    assert recipes["phase3"].schedule.lr(0) == pytest.approx(0.5 * 4096 * (12e12) ** -0.51)


@pytest.mark.parametrize(
    "schedule",
    [
        LinearDecay(assumed(1.0, "-"), assumed(2.0, "-"), assumed(100, "-"), assumed(0, "-")),
        LinearDecay(assumed(1.0, "-"), assumed(-1.0, "-"), assumed(100, "-"), assumed(0, "-")),
        LinearDecay(
            assumed(float("nan"), "-"), assumed(0.0, "-"), assumed(100, "-"), assumed(10, "-")
        ),
        LinearDecay(assumed(-1.0, "-"), assumed(-2.0, "-"), assumed(100, "-"), assumed(10, "-")),
    ],
    ids=["rises", "negative", "not a number", "falls in the warm-up"],
)
def test_rates_within_a_stage(schedule: LinearDecay) -> None:
    recipe = dataclasses.replace(resolve_pretraining("phase4", "8b"), schedule=schedule)
    assert "learning rate between" in failed({"phase4": recipe})


def test_a_warm_up_that_jumps_to_its_end_fails() -> None:
    class Jump(LinearDecay):
        def lr(self, tokens: float) -> float:
            return 0.0 if tokens < self.warmup_tokens.value else super().lr(tokens)

    schedule = Jump(assumed(1.0, "-"), assumed(0.0, "-"), assumed(100, "-"), assumed(10, "-"))
    recipe = dataclasses.replace(resolve_pretraining("phase4", "8b"), schedule=schedule)
    assert "learning rate between" in failed({"phase4": recipe})


def test_a_negative_component_fails() -> None:
    recipe = resolve_pretraining("lce_512k", "8b")
    mixture = {"books": assumed(120.0, "-"), "code_repositories": assumed(-20.0, "-")}
    assert "mixture" in failed({"lce_512k": dataclasses.replace(recipe, mixture=mixture)})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_shards_add_up(size: str, tensor: int, pipeline: int) -> None:
    model = SIZES[size]
    hidden, layers = model.hidden_size.value, model.num_layers.value
    shards = shard_parameters(model, tensor, pipeline)
    replicated = (tensor - 1) * (2 * layers * hidden + hidden)
    copy = model.vocab_size.value * hidden if pipeline > 1 else 0
    assert tensor * sum(shards) == model.parameter_count.value + replicated + copy


def test_memory_by_hand() -> None:
    memory = estimate(resolve_pretraining("phase1", "8b"))
    # 8,380,551,168 parameters on two GPUs, of which 81 norms of 4,096 on both
    parameters = (8380551168 + 81 * 4096) / 2
    assert memory.parameters == 2 * parameters
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == 12 * parameters / 512
    # bytes a token in a layer: (8 x 4096 + 4 x 4096 + 4 x 1024 + 6 x 12800) / 2 = 65,024; 40 layers and one more
    assert memory.activations == 65024 * 8192 * 41
    assert memory.logits == 10 * 8192 * 100352 / 2
    assert memory.total == pytest.approx(51.2e9, rel=1e-3)


def test_memory_of_the_paper() -> None:
    """Korthikanti et al., equation 4 without scores: 34 s b h / t, of which 3 are dropout masks and 2 GeLU's input.

    With queries, keys and values of the hidden size and SwiGLU of 8/3 hidden, as many parameters as an MLP of 4 hidden:
    8 + 2 x (2 + 2) + 6 x 8/3 = 32.
    """
    recipe = resolve_pretraining(
        "phase1",
        "8b",
        ["model.num_query_groups=32", "model.ffn_hidden_size=12288", "model.num_layers=10"],
    )
    assert estimate(recipe).activations == (8 + 8 + 6 * 3) * 4096 / 2 * 8192 * 11


def test_memory_follows_recomputation_and_pipeline() -> None:
    full = estimate(resolve_pretraining("phase1", "8b", ["parallelism.recompute=full"]))
    # 40 inputs of a layer, and one whole layer
    assert full.activations == (40 * 2 * 4096 / 2 + 65024) * 8192
    unsplit = estimate(resolve_pretraining("phase1", "8b", ["parallelism.sequence_parallel=false"]))
    assert unsplit.activations == (65024 + 8 * 4096 / 2) * 8192 * 41
    # the first stage keeps two micro-batches of its 32 layers, the last one has the logits and fewer activations
    pipeline = estimate(resolve_pretraining("phase1", "30b", ["parallelism.gpu_type=h100"]))
    layer = (8 * 4096 + 4 * 4096 + 4 * 1024 + 6 * 32768) / 4
    assert pipeline.activations == layer * 4096 * (2 * 32 + 1)
    assert pipeline.logits == 0


def test_long_sequences_are_cut_to_8k_tokens_a_gpu() -> None:
    for size, gpu_type in SPLITS:
        for stage in ("lce_32k", "lce_128k", "lce_512k"):
            if size == "tiny" or size not in stage_sizes(stage):
                continue
            recipe = resolve_pretraining(stage, size, [f"parallelism.gpu_type={gpu_type}"])
            tokens = recipe.sequence_length.value / recipe.parallelism.context_parallel_size.value
            assert (
                tokens * recipe.parallelism.micro_batch_size.value == TOKENS_PER_GPU.value == 8192
            )


def test_the_split_follows_the_gpu_type() -> None:
    assert {gpu_type for _, gpu_type in SPLITS} == set(GPU_MEMORY)
    default = resolve("phase1", "30b").parallelism
    assert (
        default.gpu_type.value,
        default.gpus.value,
        default.pipeline_model_parallel_size.value,
    ) == (
        "gb200",
        2048,
        1,
    )
    split = resolve("phase1", "30b", ["parallelism.gpu_type=h100"]).parallelism
    assert (
        split.gpus.value,
        split.pipeline_model_parallel_size.value,
        split.micro_batch_size.value,
    ) == (1024, 2, 1)
    long = resolve("lce_512k", "30b", ["parallelism.gpu_type=h100"]).parallelism
    assert (long.context_parallel_size.value, long.pipeline_model_parallel_size.value) == (64, 2)
    kept = resolve(
        "phase1", "30b", ["parallelism.gpu_type=h100", "parallelism.pipeline_model_parallel_size=4"]
    ).parallelism
    assert kept.pipeline_model_parallel_size.value == 4


def test_alignment_uses_sfts_published_gpus() -> None:
    for size in ("3b", "8b", "30b"):
        for stage in ("sft", "rl_math"):
            split = resolve(stage, size).parallelism
            assert split.gpus.value == 64
            assert split.gpus.value % split.gpus_per_replica == 0


@pytest.mark.parametrize(("size", "gpu_type"), [("8b", "cpu"), ("tiny", "h100")])
def test_a_gpu_type_without_a_split(size: str, gpu_type: str) -> None:
    with pytest.raises(
        UserError, match=f"parallelism.gpu_type is '{gpu_type}', but size {size} is split for"
    ):
        resolve_chain(size, "phase1", [f"parallelism.gpu_type={gpu_type}"])


@pytest.mark.parametrize(
    ("size", "stage", "message"),
    [
        ("7b", None, "unknown size '7b'"),
        ("8b", "phas1", "unknown stage 'phas1'"),
        ("3b", "lce_512k", "does not exist for size '3b'"),
        ("8b", "sft", "no stage of pre-training"),
    ],
)
def test_mistakes(size: str, stage: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_chain(size, stage)


def test_numbers_are_checked_without_torch() -> None:
    script = (
        "import sys\n"
        "import recipes.model.shards\n"
        "from recipes.registry.checks import check_numbers, resolve_chain\n"
        "check_numbers(resolve_chain('8b'))\n"
        "found = {'torch', 'megatron', 'nemo', 'numpy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
