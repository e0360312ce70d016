"""Parallelism of each size, by GPU type and sequence length.

IBM published the GPU type only, and SFT's number of GPUs. Three limits decide every entry:

- Memory. :mod:`recipes.spec.memory` estimates it, ``granite41 check`` compares it with the GPU's.
- The batch. It has 4M tokens in every stage, so at 8K tokens a GPU it feeds 512 replicas of the
  model's tensor- and pipeline-parallel GPUs at any sequence length: as the length grows, context
  parallelism takes over from data parallelism and the number of GPUs stays.
- The network. Tensor parallelism stays within the eight GPUs of a node on H100, H200 and B200, the
  four of a tray on GB200.
"""

from dataclasses import replace
from typing import Any

from recipes.common.errors import UserError
from recipes.spec.origin import Sourced, assumed, derived
from recipes.spec.recipe import GpuType, Parallelism, Recompute
from recipes.spec.sizes import Size
from recipes.spec.tree import COMPUTED, Rule

# 10^9 bytes of one GPU
GPU_MEMORY: dict[GpuType, Sourced[int]] = {
    "h100": derived(80, "NVIDIA's data sheet of the H100 SXM"),
    "h200": derived(141, "NVIDIA's data sheet of the H200 SXM"),
    "b200": derived(180, "NVIDIA's data sheet of the DGX B200: 1,440 GB / 8 GPUs"),
    "gb200": derived(186, "NVIDIA's data sheet of the GB200 NVL72: 13.4 TB / 72 GPUs"),
    "cpu": assumed(4, "what a laptop can spare"),
}
USABLE_MEMORY = assumed(
    0.9, "CUDA's context, NCCL's buffers and the allocator's fragments take the rest"
)

GPU_TYPE: Sourced[GpuType] = derived("gb200", "infrastructure.gpus: thousands of GB200 NVL72")
TOKENS_PER_GPU = assumed(
    8192,
    "activations of 8K tokens fit 80 GB without recomputation, and 4M tokens a batch feed 512 "
    "replicas",
)

_ONE = assumed(1, "not needed at this size and length")
_NO_RECOMPUTE: Sourced[Recompute] = assumed(
    "none",
    "8K tokens of activations fit, fused attention stores no scores, and recomputing costs a third "
    "more time",
)

_3B = Parallelism(
    gpu_type=COMPUTED,
    gpus=assumed(512, "512 replicas, as many as the batch feeds"),
    tensor_model_parallel_size=assumed(
        1, "weights, gradients and a sharded optimizer fit one 80 GB GPU"
    ),
    pipeline_model_parallel_size=_ONE,
    context_parallel_size=_ONE,
    sequence_parallel=COMPUTED,
    micro_batch_size=assumed(2, "8K tokens of activations and logits of 100,352 entries fit 80 GB"),
    recompute=_NO_RECOMPUTE,
)
_8B = Parallelism(
    gpu_type=COMPUTED,
    gpus=assumed(1024, "512 replicas, as many as the batch feeds, of two GPUs"),
    tensor_model_parallel_size=assumed(
        2, "halves weights and activations to fit 80 GB, and doubles the GPUs in use"
    ),
    pipeline_model_parallel_size=_ONE,
    context_parallel_size=_ONE,
    sequence_parallel=COMPUTED,
    micro_batch_size=assumed(2, "8K tokens of activations on two GPUs fit 80 GB"),
    recompute=_NO_RECOMPUTE,
)
_30B = Parallelism(
    gpu_type=COMPUTED,
    gpus=assumed(
        2048, "512 replicas, as many as the batch feeds, of four GPUs; IBM's cluster has thousands"
    ),
    tensor_model_parallel_size=assumed(
        4, "the four GPUs of a GB200 tray, within a node's NVLink elsewhere"
    ),
    pipeline_model_parallel_size=assumed(
        1, "7.2B parameters and 8K tokens on a GPU fit 141 GB, without a bubble"
    ),
    context_parallel_size=_ONE,
    sequence_parallel=COMPUTED,
    micro_batch_size=assumed(2, "8K tokens of activations on four GPUs fit 141 GB"),
    recompute=_NO_RECOMPUTE,
)

# at sequences of 4K tokens; `build_parallelism` derives the longer stages
PARALLELISM: dict[str, dict[GpuType, Parallelism]] = {
    "3b": {"h100": _3B, "h200": _3B, "b200": _3B, "gb200": _3B},
    "8b": {"h100": _8B, "h200": _8B, "b200": _8B, "gb200": _8B},
    "30b": {
        "h100": replace(
            _30B,
            gpus=assumed(
                1024,
                "half of what the batch feeds, so that a step has micro-batches to fill the "
                "pipeline",
            ),
            pipeline_model_parallel_size=assumed(
                2, "7.2B parameters a GPU exceed 80 GB with 8K tokens, 3.7B do not"
            ),
            micro_batch_size=assumed(
                1, "the smallest: eight a step keep the pipeline's bubble at a ninth"
            ),
        ),
        "h200": _30B,
        "b200": _30B,
        "gb200": _30B,
    },
    "tiny": {
        "cpu": Parallelism(
            gpu_type=COMPUTED,
            gpus=assumed(1, "one CPU process"),
            tensor_model_parallel_size=assumed(1, "one CPU process"),
            pipeline_model_parallel_size=assumed(1, "one CPU process"),
            context_parallel_size=assumed(1, "one CPU process"),
            sequence_parallel=COMPUTED,
            micro_batch_size=COMPUTED,
            recompute=assumed("none", "its activations are small"),
        )
    },
}


def build_parallelism(
    size: Size,
    sequence_length: int,
    gpus: Sourced[int] | None = None,
    gpu_type: Sourced[GpuType] | None = None,
) -> Parallelism:
    """Return the parallelism of a size at a sequence length.

    Above 4K tokens a micro-batch is one sequence, cut into 8K tokens a GPU.

    Args:
        size: the model; tiny is one process in every stage.
        sequence_length: in tokens.
        gpus: of the whole job; None for as many as a batch of 4M tokens feeds.
        gpu_type: None for IBM's, or a CPU where the size runs on nothing else.

    Raises:
        UserError: ``gpu_type`` is not one that the size runs on (tiny on a GPU, the others on a
            CPU).
    """
    by_gpu_type = PARALLELISM[size.name]
    if gpu_type is None:
        gpu_type = GPU_TYPE if GPU_TYPE.value in by_gpu_type else assumed("cpu", "one CPU process")
    if gpu_type.value not in by_gpu_type:
        raise UserError(
            f"parallelism.gpu_type is {gpu_type.value!r}, but size {size.name} is split for "
            f"{', '.join(by_gpu_type)}"
        )

    parallel = replace(by_gpu_type[gpu_type.value], gpu_type=gpu_type)
    if size.is_tiny:
        return parallel
    if gpus is not None:
        parallel = replace(parallel, gpus=gpus)
    if sequence_length <= 4096:
        return parallel
    return replace(
        parallel,
        context_parallel_size=assumed(
            max(1, sequence_length // TOKENS_PER_GPU.value),
            f"at most {TOKENS_PER_GPU.value:,} tokens of a sequence on a GPU: {TOKENS_PER_GPU.why}",
        ),
        micro_batch_size=assumed(1, "one long sequence fills the memory"),
    )


def cuda_device_max_connections(parallel: Parallelism) -> str | None:
    """Return ``CUDA_DEVICE_MAX_CONNECTIONS`` for a recipe, None where CUDA's own number is right.

    Tensor and context parallelism overlap communication and kernels. Up to Hopper one connection
    keeps the order that Megatron launches them in (megatron/core/tensor_parallel/layers.py);
    Blackwell needs all 32 (nemo/lightning/pytorch/callbacks/megatron_comm_overlap.py).
    """
    overlaps = max(
        parallel.tensor_model_parallel_size.value,
        parallel.context_parallel_size.value,
    )
    gpu_type = parallel.gpu_type.value
    if overlaps == 1 or gpu_type == "cpu":
        return None
    return "1" if gpu_type in ("h100", "h200") else "32"


_TABLE_FIELDS = (
    "gpus",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "micro_batch_size",
    "recompute",
)
_SEQUENCE_PARALLEL = Rule[Any](
    "parallelism.sequence_parallel",
    ("parallelism.tensor_model_parallel_size", "parallelism.gpu_type"),
    lambda recipe: derived(
        recipe.parallelism.tensor_model_parallel_size.value > 1,
        "tensor_model_parallel_size > 1",
    ),
)


def build_rules(gpus: Sourced[int] | None) -> tuple[Rule[Any], ...]:
    """Return the rules by which parallelism follows the GPU type and the sequence length.

    Args:
        gpus: as for :func:`build_parallelism`.
    """
    return (*(_table_rule(name, gpus) for name in _TABLE_FIELDS), _SEQUENCE_PARALLEL)


def _table_rule(name: str, gpus: Sourced[int] | None) -> Rule[Any]:
    def compute(recipe: Any) -> Sourced[Any]:
        length, gpu_type = recipe.sequence_length.value, recipe.parallelism.gpu_type
        return getattr(build_parallelism(recipe.model, length, gpus, gpu_type), name)

    return Rule(f"parallelism.{name}", ("parallelism.gpu_type", "sequence_length"), compute)
