"""A whole training step of one rank of a large job on fake tensors, and the bytes it holds.

Torch's ``FakeTensorMode`` runs every operation on shapes alone. Forward, backward, recomputation,
buffers and optimizer are Megatron's own; the two kernels that TransformerEngine has on a GPU are
replaced by ones that keep the same tensors: RMSNorm its input and the inverse root of its mean
square, attention queries, keys, values, output and the softmax's sum (FlashAttention-2, arXiv
2307.08691), and with context parallelism what each step of the ring receives and computes.
"""

import functools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipes.common.check_result import CheckResult
from recipes.compat.fake_world import rank_of_world, without_random_states
from recipes.model.granite import RMSNorm
from recipes.model.nemo import FULL_RECOMPUTE, GraniteConfig
from recipes.spec.memory import (
    has_distributed_optimizer,
    micro_batches_in_flight,
    stage_memory,
)
from recipes.spec.recipe import CommonRecipe, Parallelism
from recipes.spec.sizes import Size

# between what is traced and what the recipe's memory estimates
TOLERANCE = 0.1


@dataclass(frozen=True)
class TracedStep:
    """Bytes on a rank in a step.

    Attributes:
        weights, gradients, optimizer: of the buffers that Megatron has built.
        activations, logits, context_parallel: what else there is when all together is largest.
    """

    rank: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    context_parallel: int

    @property
    def dynamic(self) -> int:
        """What comes and goes within a step."""
        return self.activations + self.logits + self.context_parallel


class _Storages(TorchDispatchMode):
    """Count the bytes of all storages that exist, by kind, and of those at the peak."""

    def __init__(self, logit_width: int) -> None:
        super().__init__()
        self.logit_width = logit_width
        self.kind = "activations"
        self.bytes: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        # most operations have one result, and there are tens of thousands of them
        tensors = [results] if isinstance(results, Tensor) else tree_leaves(results)
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return results

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        kind = self.kind
        if tensor.shape[-1:] == (self.logit_width,):
            kind = "logits"
        self.bytes[kind] += storage.nbytes()
        weakref.finalize(storage, self._forget, key, kind, storage.nbytes())
        if self.bytes.total() > self.peak.total():
            self.peak = self.bytes.copy()

    def _forget(self, key: int, kind: str, size: int) -> None:
        self._known.discard(key)
        self.bytes[kind] -= size

    @contextmanager
    def of_kind(self, kind: str) -> Iterator[None]:
        """Count what is created within as ``kind``."""
        former = self.kind
        self.kind = kind
        try:
            yield
        finally:
            self.kind = former


class _KeptByNorm(torch.autograd.Function):
    """RMSNorm without its arithmetic."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        inverse_root = hidden.new_empty(hidden.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, inverse_root)
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden, weight, _ = ctx.saved_tensors
        return torch.empty_like(hidden), torch.empty_like(weight)


class _KeptByAttention(torch.autograd.Function):
    """Fused causal attention without its arithmetic."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cp: int, storages: _Storages
    ) -> Tensor:
        output = query.new_empty(query.shape)
        softmax_sum = query.new_empty(query.shape[:3], dtype=torch.float32)
        ring = []
        if cp > 1:
            # TransformerEngine keeps them in lists until the last step
            with storages.of_kind("context_parallel"):
                for _ in range(cp):
                    ring += [torch.empty_like(key), torch.empty_like(value)]
                    ring += [torch.empty_like(query)]
        ctx.save_for_backward(query, key, value, output, softmax_sum)
        return output.flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        parts = [torch.empty_like(part) for part in (query, key, value)]
        return (*parts, None, None)


class _CoreAttention(MegatronModule):
    """Megatron's core attention by :class:`_KeptByAttention`."""

    def __init__(self, config: GraniteConfig, storages: _Storages) -> None:
        super().__init__(config=config)
        self.storages = storages

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **more: Any) -> Any:
        cp = self.config.context_parallel_size
        return _KeptByAttention.apply(query, key, value, cp, self.storages)


@dataclass(frozen=True)
class _Job:
    """What a step's memory depends on; stages that share it are traced once.

    Attributes:
        micro_batches: that the pipeline stage holds at a time.
    """

    model: Size
    parallelism: Parallelism
    sequence_length: int
    rope_theta: float
    is_bf16: bool
    stage: int
    micro_batches: int

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.bfloat16 if self.is_bf16 else torch.float32


def check_trace(recipe: CommonRecipe) -> Iterator[CheckResult]:
    """Yield a check of the memory's estimate for each pipeline stage against a traced step."""
    pp = recipe.parallelism.pipeline_model_parallel_size.value
    for stage in range(pp):
        traced = trace_step(recipe, stage)
        planned = stage_memory(recipe, stage)
        where = f"rank {traced.rank}"
        built = (traced.weights, traced.gradients, traced.optimizer)
        expected = (planned.weights, planned.gradients, planned.optimizer)
        yield CheckResult(
            "traced buffers",
            built == expected,
            f"{where}: weights, gradients, optimizer {_numbers(built)} bytes",
            f"{_numbers(expected)}, as the memory's estimate counts",
        )
        estimated = planned.activations + planned.logits + planned.context_parallel
        yield CheckResult(
            "traced activations",
            abs(estimated - traced.dynamic) <= TOLERANCE * traced.dynamic,
            f"{where}: {traced.dynamic / 1e9:.2f} GB at the peak: activations "
            f"{traced.activations / 1e9:.2f}, logits {traced.logits / 1e9:.2f}, context parallel "
            f"{traced.context_parallel / 1e9:.2f}",
            f"{estimated / 1e9:.2f} GB within {TOLERANCE:.0%}, as the memory's estimate counts",
        )


def _numbers(counts: tuple[float, ...]) -> str:
    return ", ".join(f"{count:,.0f}" for count in counts)


def trace_step(recipe: CommonRecipe, stage: int = 0) -> TracedStep:
    """Trace a step of the first rank of a pipeline stage, at the job's world size.

    The process must be one that builds models without GPUs (see
    :func:`recipes.compat.fake_world.without_gpus`).
    """
    job = _Job(
        model=recipe.model,
        parallelism=recipe.parallelism,
        sequence_length=recipe.sequence_length.value,
        rope_theta=recipe.rope_theta.value,
        is_bf16=recipe.precision.value == "bf16-mixed",
        stage=stage,
        micro_batches=micro_batches_in_flight(recipe, stage),
    )
    return _trace(job)


@functools.cache
def _trace(job: _Job) -> TracedStep:
    parallel = job.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    cp = parallel.context_parallel_size.value
    world_size = parallel.gpus.value
    rank = job.stage * (world_size // pp)

    without_random_states()
    storages = _Storages(job.model.vocab_size.value // tp)
    with (
        rank_of_world(rank, world_size, tp, pp, cp),
        # what is compiled on a GPU for speed keeps the same tensors
        torch.compiler.set_stance("force_eager"),
        FakeTensorMode(allow_non_fake_inputs=True),
        storages,
    ):
        model = _build(job, storages)
        optimizer = _optimizer(job, model)
        # from here on everything that stays belongs to the step
        before = storages.bytes["activations"]
        storages.peak.clear()
        _forward_backward(job, model)
        peak = storages.peak
        optimizer_bytes = _step(job, optimizer)

        weights = sum(parameter.nbytes for parameter in model.parameters())
        if has_distributed_optimizer(parallel):
            weights = sum(buffer.param_data.nbytes for buffer in model.buffers)
        return TracedStep(
            rank=rank,
            weights=weights,
            gradients=sum(buffer.grad_data.nbytes for buffer in model.buffers),
            optimizer=optimizer_bytes,
            activations=peak["activations"] - before,
            logits=peak["logits"],
            context_parallel=peak["context_parallel"],
        )


def _build(job: _Job, storages: _Storages) -> DistributedDataParallel:
    """Build the rank's model in Megatron's buffers, with the fused kernels of a GPU."""
    parallel = job.parallelism
    settings = GraniteConfig.transformer_settings(job.model)
    if parallel.recompute.value == "full":
        settings |= FULL_RECOMPUTE
    config = GraniteConfig(
        **settings,
        seq_length=job.sequence_length,
        rotary_base=job.rope_theta,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size.value,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size.value,
        context_parallel_size=parallel.context_parallel_size.value,
        sequence_parallel=parallel.sequence_parallel.value,
        bf16=job.is_bf16,
        params_dtype=job.dtype,
        pipeline_dtype=job.dtype,
        perform_initialization=False,
    )
    # what the CPU backend switches off
    config.bias_activation_fusion = True
    config.cross_entropy_loss_fusion = job.is_bf16
    model = config.configure_model()
    for layer in model.decoder.layers:
        layer.self_attention.core_attention = _CoreAttention(config, storages)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.forward = _kept_by_norm(module)

    buffers = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        # buckets are those of overlapped communication; weights are gathered in place
        overlap_grad_reduce=has_distributed_optimizer(job.parallelism),
        use_distributed_optimizer=has_distributed_optimizer(job.parallelism),
    )
    return DistributedDataParallel(config, buffers, model)


def _kept_by_norm(norm: RMSNorm) -> Any:
    return lambda hidden: _KeptByNorm.apply(hidden, norm.weight)


def _optimizer(job: _Job, model: DistributedDataParallel) -> Any:
    config = OptimizerConfig(
        optimizer="adam",
        lr=1e-4,
        bf16=job.is_bf16,
        params_dtype=job.dtype,
        use_distributed_optimizer=has_distributed_optimizer(job.parallelism),
    )
    return get_megatron_optimizer(config, [model], use_gloo_process_groups=False)


def _forward_backward(job: _Job, model: DistributedDataParallel) -> None:
    """Run as many micro-batches forward as a pipeline stage holds, and the first one backward."""
    parallel = job.parallelism
    pp = parallel.pipeline_model_parallel_size.value
    length = job.sequence_length // parallel.context_parallel_size.value
    sequences = parallel.micro_batch_size.value
    tokens = torch.zeros(sequences, length, dtype=torch.long)

    outputs = []
    for _ in range(job.micro_batches):
        if job.stage > 0:
            model.module.set_input_tensor(_received(job, length, sequences))
        outputs.append(model(tokens, tokens, None, labels=tokens))

    # gradients are summed in place, and exchanged without more memory
    first = outputs[0]
    del outputs[0]
    with model.no_sync():
        if job.stage == pp - 1:
            first = first.mean()
        gradient = torch.ones_like(first)
        first.backward(gradient)


def _received(job: _Job, length: int, sequences: int) -> Tensor:
    """Return what the pipeline stage before sends, [sequence, batch, hidden]."""
    parallel = job.parallelism
    if parallel.sequence_parallel.value:
        length //= parallel.tensor_model_parallel_size.value
    return torch.zeros(
        length,
        sequences,
        job.model.hidden_size.value,
        dtype=job.dtype,
        requires_grad=True,
    )


def _step(job: _Job, optimizer: Any) -> int:
    """Update the weights and return the bytes of master weights and moments.

    The whole step of Megatron's optimizer clips by a norm, a number that fake tensors do not have.
    """
    size = 0
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        part.prepare_grads()
        part.optimizer.step()
        if has_distributed_optimizer(job.parallelism):
            for group in part.optimizer.param_groups:
                size += sum(parameter.nbytes for parameter in group["params"])
        for state in part.optimizer.state.values():
            # the count of steps is a scalar
            size += sum(value.nbytes for value in state.values() if value.dim())
    return size
