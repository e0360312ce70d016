"""Layouts of a stage on a number of GPUs: which fit, and how fast each is estimated to be."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recipes.common.errors import UserError
from recipes.planning.costs import attention_flops, matrix_parameters
from recipes.planning.hardware import Gpu, gpu
from recipes.planning.options import PlanOptions
from recipes.registry.resolve import resolve
from recipes.registry.violations import violations
from recipes.spec.memory import estimate, micro_batches, sequences_per_step, shard_parameters
from recipes.spec.origin import assumed, derived
from recipes.spec.recipe import CommonRecipe, Parallelism
from recipes.spec.sizes import Size

PARALLEL_SIZES = (1, 2, 4, 8, 16, 32, 64)
MICRO_BATCHES = (1, 2, 4, 8)
# of the peak that one GPU's kernels reach by themselves, before what is estimated here
KERNEL_SHARE = assumed(0.6, "large bf16 matrix multiplications and fused attention on one GPU")
LINK_SHARE = assumed(0.8, "of a link's bandwidth that NCCL's collectives reach")
_TRIED = "tried by --search"


@dataclass(frozen=True)
class Layout:
    """A layout with its estimated step.

    Attributes:
        seconds: of a step, by part; empty where it is rejected.
        rejected: why it cannot be used; empty where it can.
    """

    parallelism: Parallelism
    peak_bytes: float
    seconds: dict[str, float]
    rejected: str = ""

    @property
    def step_seconds(self) -> float:
        """Seconds of a whole step."""
        return sum(self.seconds.values())

    def overrides(self) -> list[str]:
        """Return the layout as overrides of the recipe."""
        return [f"parallelism.{name}={value}" for name, value in self.values().items()]

    def values(self) -> dict[str, int | str]:
        """Return what the search decides, by the keys of ``granite41 show``."""
        parallel = self.parallelism
        return {
            "gpu_type": parallel.gpu_type.value,
            "gpus": parallel.gpus.value,
            "tensor_model_parallel_size": parallel.tensor_model_parallel_size.value,
            "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size.value,
            "context_parallel_size": parallel.context_parallel_size.value,
            "micro_batch_size": parallel.micro_batch_size.value,
            "recompute": parallel.recompute.value,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the layout as plain values."""
        return {
            **self.values(),
            "peak_bytes": self.peak_bytes,
            "step_seconds": self.step_seconds,
            "seconds": self.seconds,
            "rejected": self.rejected,
        }

    def __str__(self) -> str:
        parallel = self.parallelism
        return (
            f"TP {parallel.tensor_model_parallel_size.value} PP "
            f"{parallel.pipeline_model_parallel_size.value} CP "
            f"{parallel.context_parallel_size.value} micro-batch "
            f"{parallel.micro_batch_size.value} recompute {parallel.recompute.value}"
        )


def search(
    stage: str, size: str, options: PlanOptions, overrides: Sequence[str] = ()
) -> list[Layout]:
    """Return every layout that is tried: those that fit by estimated time, then those rejected.

    Raises:
        UserError: an unknown stage or size, a GPU that the size does not run on, or none fits.
    """
    recipe = resolve(stage, size, [*options.overrides(), *overrides], validate=False)
    processor = gpu(recipe.parallelism.gpu_type.value)
    tried = candidates(recipe, processor)
    layouts = [judge(recipe, parallel, processor, options) for parallel in tried]
    layouts.sort(key=lambda layout: (bool(layout.rejected), layout.step_seconds))
    if layouts[0].rejected:
        smallest = min(layouts, key=lambda layout: layout.peak_bytes or math.inf)
        raise UserError(
            f"{stage}: none of {len(layouts)} layouts of {recipe.parallelism.gpus.value:,} "
            f"{processor.name} fits; {smallest}: {smallest.rejected}; take another number of GPUs "
            "or ones with more memory"
        )
    return layouts


def candidates(recipe: CommonRecipe, processor: Gpu) -> Iterator[Parallelism]:
    """Yield the layouts that cut the recipe's GPUs into whole replicas.

    Tensor and context parallelism are powers of two, pipelines divide the layers and have at most
    16 stages. Tensor parallelism stays within a node, as its traffic is in every layer.
    """
    gpus = recipe.parallelism.gpus.value
    layers = recipe.model.num_layers.value
    # bubbles grow with a pipeline, messages of a ring shrink with its parts
    pipelines = [count for count in range(1, 17) if layers % count == 0]
    contexts = [count for count in PARALLEL_SIZES if recipe.sequence_length.value // count >= 2048]
    for tp in PARALLEL_SIZES:
        if tp > max(processor.node_gpus, 1):
            break
        for pp in pipelines:
            for cp in contexts or [1]:
                if gpus % (tp * pp * cp) == 0:
                    yield from _with_batches(recipe.parallelism, tp, pp, cp)


def _with_batches(parallel: Parallelism, tp: int, pp: int, cp: int) -> Iterator[Parallelism]:
    for micro_batch in MICRO_BATCHES:
        for recompute in ("none", "full"):
            yield replace(
                parallel,
                tensor_model_parallel_size=assumed(tp, _TRIED),
                pipeline_model_parallel_size=assumed(pp, _TRIED),
                context_parallel_size=assumed(cp, _TRIED),
                sequence_parallel=derived(tp > 1, "tensor_model_parallel_size > 1"),
                micro_batch_size=assumed(micro_batch, _TRIED),
                recompute=assumed(recompute, _TRIED),
            )


def judge(
    recipe: CommonRecipe, parallel: Parallelism, processor: Gpu, options: PlanOptions
) -> Layout:
    """Return a layout with its estimated step, or with the reason why it is rejected."""
    tried = replace(recipe, parallelism=parallel)
    reason = next(violations(tried), "") or _uneven(tried)
    if reason:
        return Layout(parallel, 0.0, {}, reason)
    peak = estimate(tried).total
    if peak > processor.usable_bytes:
        over = (peak - processor.usable_bytes) / 1e9
        return Layout(parallel, peak, {}, f"{peak / 1e9:.1f} GB, {over:.1f} GB too many")
    return Layout(parallel, peak, step_seconds(tried, processor, options))


def _uneven(recipe: CommonRecipe) -> str:
    parallel = recipe.parallelism
    at_a_time = parallel.data_parallel_size * parallel.micro_batch_size.value
    if sequences_per_step(recipe) % at_a_time:
        return (
            f"{sequences_per_step(recipe):,} sequences a step are no multiple of "
            f"{parallel.data_parallel_size} replicas x {parallel.micro_batch_size.value}"
        )
    return ""


def step_seconds(recipe: CommonRecipe, processor: Gpu, options: PlanOptions) -> dict[str, float]:
    """Estimate the seconds of a step, by part.

    Compute: a GPU's share of the FLOPs at :data:`KERNEL_SHARE` of its peak, a third more with full
    recomputation. Tensor parallelism: a layer gathers and scatters its input twice forward and
    twice backward, and gathers once more for each gradient of the weights (Korthikanti et al. 2022,
    arXiv 2205.05198, section 4.2.2); nothing of it is hidden. Context parallelism: the ring's keys
    and values, and their gradients backward, as far as attention is shorter. Bubble: (PP - 1) /
    micro-batches of the whole (Narayanan et al. 2021, arXiv 2104.04473, section 2.2.1). Data
    parallelism: gradients and weights once a step, as far as one micro-batch is shorter.
    """
    parallel = recipe.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    model = recipe.model
    batches = micro_batches(recipe)
    tokens = (
        recipe.sequence_length.value
        // parallel.context_parallel_size.value
        * parallel.micro_batch_size.value
    )
    rate = KERNEL_SHARE.value * processor.flops
    # on each GPU, of a micro-batch
    dense = 6 * matrix_parameters(model) * tokens / (tp * pp) / rate
    attention = attention_flops(model, recipe.sequence_length.value) * tokens / (tp * pp) / rate
    passes = 4 / 3 if parallel.recompute.value == "full" else 1.0

    # the ring runs beside attention, tensor parallelism beside nothing
    compute = (dense + attention) * passes
    tensor = _tensor_seconds(model, tokens, tp, processor) / pp * passes
    context = _context_seconds(recipe, tokens, processor, options) / pp - attention * passes
    batch = compute + tensor + max(0.0, context)

    # beside the backward pass of the last micro-batch and the forward pass of the next step
    exchange = _data_seconds(recipe, processor, options)
    return {
        "compute": batches * compute,
        "tensor parallel": batches * tensor,
        "context parallel": batches * max(0.0, context),
        "bubble": (pp - 1) * batch,
        "data parallel": max(0.0, exchange - batch),
    }


def _data_seconds(recipe: CommonRecipe, processor: Gpu, options: PlanOptions) -> float:
    """Return the seconds in which gradients are scattered (fp32) and weights gathered (bf16).

    The ranks that NVLink joins send through all their network cards.
    """
    parallel = recipe.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    ranks = parallel.data_parallel_size * parallel.context_parallel_size.value
    # of the ranks that exchange, those in one NVLink domain
    joined = min(ranks, max(1, processor.domain_gpus // tp))
    link = processor.nvlink_gb_s
    if ranks > joined:
        link = min(link, joined * options.between_nodes.gb_s)
    held = max(shard_parameters(recipe.model, tp, pp))
    return 6 * held * (ranks - 1) / ranks / (link * 1e9 * LINK_SHARE.value)


def _tensor_seconds(model: Size, tokens: int, tp: int, processor: Gpu) -> float:
    """Return the seconds that a micro-batch's tensor-parallel collectives take in all layers."""
    size = 2 * tokens * model.hidden_size.value * (tp - 1) / tp
    # forward, backward, and the gathers for the weights' gradients
    collectives = 4 + 4 + 2
    link = processor.nvlink_gb_s * 1e9 * LINK_SHARE.value
    return model.num_layers.value * collectives * size / link


def _context_seconds(
    recipe: CommonRecipe, tokens: int, processor: Gpu, options: PlanOptions
) -> float:
    """Return the seconds that a micro-batch's rings take in all layers, forward and backward."""
    parallel = recipe.parallelism
    cp = parallel.context_parallel_size.value
    tp = parallel.tensor_model_parallel_size.value
    model = recipe.model
    key_value = 2 * model.num_query_groups.value * model.head_dim.value / tp
    size = 2 * tokens * key_value
    link = processor.nvlink_gb_s * 1e9
    # ranks of a ring that leaves NVLink's domain wait for its slowest link
    if tp * cp > processor.domain_gpus:
        link = options.between_nodes.gb_s * 1e9
    # keys and values forward, again with their gradients backward
    return model.num_layers.value * 3 * (cp - 1) * size / (link * LINK_SHARE.value)


def nearest_fit(recipe: CommonRecipe, processor: Gpu) -> str:
    """Return the half sentence that names the fastest layout of the same GPUs that fits."""
    options = PlanOptions()
    layouts = [
        judge(recipe, parallel, processor, options) for parallel in candidates(recipe, processor)
    ]
    fitting = [layout for layout in layouts if not layout.rejected]
    if not fitting:
        return "no layout of these GPUs fits; take more of them, or ones with more memory"
    best = min(fitting, key=lambda layout: layout.step_seconds)
    return f"{best} fits: {' '.join(best.overrides())}"
