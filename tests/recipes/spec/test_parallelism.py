"""The parallelism of each size by GPU type and sequence length."""

import pytest

from recipes.common.errors import UserError
from recipes.registry.checks import resolve_chain
from recipes.registry.resolve import resolve, resolve_pretraining
from recipes.registry.stages import stage_sizes
from recipes.spec.parallelism import (
    GPU_MEMORY,
    PARALLELISM,
    TOKENS_PER_GPU,
    cuda_device_max_connections,
)

SPLITS = [(size, gpu_type) for size, by_gpu_type in PARALLELISM.items() for gpu_type in by_gpu_type]


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


def test_cuda_has_the_connections_that_overlapped_communication_needs() -> None:
    def connections(stage: str, size: str, gpu_type: str) -> str | None:
        recipe = resolve_pretraining(stage, size, [f"parallelism.gpu_type={gpu_type}"])
        return cuda_device_max_connections(recipe.parallelism)

    # 8b has tensor parallelism 2 on H100, and context parallelism in long-context stages
    assert connections("phase1", "8b", "h100") == "1"
    assert connections("lce_32k", "3b", "gb200") == "32"
    assert connections("phase1", "3b", "gb200") is None
    assert cuda_device_max_connections(resolve("phase1", "tiny").parallelism) is None
