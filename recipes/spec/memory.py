"""A GPU's memory in training, from the recipe alone.

Weights, gradients and optimizer are counted as Megatron-Core lays out its buffers, to the byte.
Activations are those of TransformerEngine's fused layers; ``granite41 check --trace`` compares both
with a step of the real model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from recipes.spec.recipe import CommonRecipe, Parallelism
from recipes.spec.sizes import Size

# megatron/core/distributed/param_and_grad_buffer.py: alignment of a bucket's end, in elements
BUCKET_ALIGNMENT = 128
# megatron/core/distributed/distributed_data_parallel.py: the least elements of a bucket, and those
# for each rank that shares it
BUCKET_ELEMENTS = 40_000_000
BUCKET_ELEMENTS_PER_RANK = 1_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step.

    Attributes:
        reference: weights of RL's reference policy, a second copy.
        context_parallel: keys, values and partial outputs that are under way between GPUs.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    logits: float
    context_parallel: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Formula:
    """A number and the arithmetic that gives it."""

    value: float
    text: str


def shard_parameters(model: Size, tp: int, pp: int) -> list[int]:
    """Return the parameters on each GPU of the ``pp`` pipeline stages, each split over ``tp`` GPUs.

    Matrices are split, norms are not. The first stage holds the embedding; the last one holds the
    final norm and a copy of the embedding for the logits.
    """
    return [sum(_tensors(model, tp, pp, stage)) for stage in range(pp)]


def _tensors(model: Size, tp: int, pp: int, stage: int) -> Iterator[int]:
    """Yield the elements of each parameter of a GPU, in Megatron's order."""
    hidden = model.hidden_size.value
    query, key_value = _widths(model)
    ffn = model.ffn_hidden_size.value
    embedding = model.vocab_size.value * hidden // tp

    if stage == 0:
        yield embedding
    for _ in range(model.num_layers.value // pp):
        # norm, output projection, QKV; norm, gate and up projection, down projection
        yield hidden
        yield query * hidden // tp
        yield (query + 2 * key_value) * hidden // tp
        yield hidden
        yield 2 * ffn * hidden // tp
        yield ffn * hidden // tp
    if stage == pp - 1:
        yield hidden
        if pp > 1:
            yield embedding


def _widths(model: Size) -> tuple[int, int]:
    """Return the width of all query heads, and of the key heads that they share."""
    head_dim = model.head_dim.value
    return (
        model.num_attention_heads.value * head_dim,
        model.num_query_groups.value * head_dim,
    )


def bucket_sizes(recipe: CommonRecipe, stage: int) -> list[tuple[int, int]]:
    """Return the elements of each bucket of a GPU's gradient buffer, without and with padding.

    Megatron fills buckets with parameters from the last one on, and pads each so that all ranks
    that share the optimizer get the same number of elements (``_ParamAndGradBuffer`` of
    megatron/core/distributed/param_and_grad_buffer.py). Each copy of the embedding at either end of
    a pipeline is a bucket of its own; later pipeline stages have no other split.
    """
    parallel = recipe.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    tensors = list(_tensors(recipe.model, tp, pp, stage))
    if not has_distributed_optimizer(parallel):
        return [(sum(tensors), sum(tensors))]

    ranks = optimizer_ranks(recipe)
    limit: float = max(BUCKET_ELEMENTS, BUCKET_ELEMENTS_PER_RANK * ranks)
    if stage > 0:
        limit = math.inf
    embedding = recipe.model.vocab_size.value * recipe.model.hidden_size.value // tp
    alone = embedding if pp > 1 else None

    buckets = [0]
    for elements in reversed(tensors):
        if elements == alone and buckets[-1]:
            buckets.append(0)
        buckets[-1] += elements
        if elements == alone or buckets[-1] >= limit:
            buckets.append(0)
    divisor = math.lcm(ranks, BUCKET_ALIGNMENT)
    return [(size, math.ceil(size / divisor) * divisor) for size in buckets if size]


def has_distributed_optimizer(parallel: Parallelism) -> bool:
    """Whether the optimizer is split over the data-parallel ranks, as on every GPU."""
    return parallel.gpu_type.value != "cpu"


def optimizer_ranks(recipe: CommonRecipe) -> int:
    """Return the data- and context-parallel ranks that share an optimizer, at least one."""
    parallel = recipe.parallelism
    return max(1, parallel.data_parallel_size * parallel.context_parallel_size.value)


def micro_batches(recipe: CommonRecipe) -> int:
    """Return the micro-batches that each data-parallel replica takes per step, at least one."""
    parallel = recipe.parallelism
    at_a_time = parallel.data_parallel_size * parallel.micro_batch_size.value
    return max(1, sequences_per_step(recipe) // max(1, at_a_time))


def micro_batches_in_flight(recipe: CommonRecipe, stage: int) -> int:
    """Return the micro-batches whose activations a pipeline stage holds at a time.

    With one forward, one backward (1F1B) they are as many as stages follow, itself included.
    """
    pp = recipe.parallelism.pipeline_model_parallel_size.value
    return min(pp - stage, micro_batches(recipe))


def sequences_per_step(recipe: CommonRecipe) -> int:
    """Return the sequences of an optimizer step; in RL each sample counts as one."""
    batch = getattr(recipe, "global_batch_size", None)
    if batch is None:
        batch = recipe.train_batch_size  # type: ignore[attr-defined]
    return batch.value


def estimate(recipe: CommonRecipe) -> Memory:
    """Return the memory of the fullest GPU."""
    pp = recipe.parallelism.pipeline_model_parallel_size.value
    stages = [stage_memory(recipe, stage) for stage in range(pp)]
    return max(stages, key=lambda memory: memory.total)


def stage_memory(recipe: CommonRecipe, stage: int) -> Memory:
    """Return the memory of a GPU of a pipeline stage."""
    parts = {name: formula.value for name, formula in explain(recipe, stage).items()}
    return Memory(**parts)


def explain(recipe: CommonRecipe, stage: int) -> dict[str, Formula]:
    """Return each part of a GPU's memory at the peak of a step, with its arithmetic.

    Weights and gradients: with bf16, 2 bytes an element and 4 for the gradient, summed in fp32. The
    distributed optimizer splits its fp32 master weights and two moments, 12 bytes an element, over
    the data- and context-parallel ranks. With fp32 throughout it is 4, 4 and 8. RL keeps its
    reference policy's weights on the same GPUs.

    Activations: see :func:`layer_activations`, for each layer of the pipeline stage and each of its
    micro-batches. With full recomputation a layer keeps its input only, and one layer more is whole
    while it runs again. A pipeline's first stage keeps as many micro-batches as there are stages
    (1F1B).

    Logits: scaled in bf16 and their softmax in fp32, 6 bytes (8 with fp32), on the last stage.

    Context parallelism: TransformerEngine's ring keeps what each of its steps received, keys and
    values, and what it computed, until the last one (``AttnFuncWithCPAndKVP2P``).
    """
    return _built(recipe, stage) | _kept(recipe, stage)


def _built(recipe: CommonRecipe, stage: int) -> dict[str, Formula]:
    """Return what is there from the first step on."""
    element = _element_bytes(recipe)
    per_parameter = 12 if element == 2 else 8
    buckets = bucket_sizes(recipe, stage)
    elements = sum(padded for _, padded in buckets)
    ranks = 1
    if has_distributed_optimizer(recipe.parallelism):
        ranks = optimizer_ranks(recipe)
    # the first rank has no padding, unless it is alone
    own = sum(min(size, padded // ranks) for size, padded in buckets)
    copied = sum(size for size, _ in buckets) if recipe.kind == "rl" else 0
    return {
        "weights": Formula(
            element * elements, f"{element} bytes x {elements:,} elements of its buffer"
        ),
        "gradients": Formula(4 * elements, f"4 bytes x {elements:,} elements of its buffer"),
        "optimizer": Formula(
            per_parameter * own,
            f"{per_parameter} bytes x {own:,} elements, its part of {ranks:,}",
        ),
        "reference": Formula(
            element * copied, f"{element} bytes x {copied:,} parameters of the reference policy"
        ),
    }


def _kept(recipe: CommonRecipe, stage: int) -> dict[str, Formula]:
    """Return what is there at the peak of a step and gone after it."""
    parallel = recipe.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    cp = parallel.context_parallel_size.value
    element = _element_bytes(recipe)
    # of a micro-batch, on one GPU
    tokens = recipe.sequence_length.value // cp * parallel.micro_batch_size.value

    layer = layer_activations(recipe)
    layers = recipe.model.num_layers.value // pp
    in_flight = micro_batches_in_flight(recipe, stage)
    kept = layer
    again = 0.0
    if parallel.recompute.value == "full":
        kept = element * _layer_input(recipe)
        again = layer

    no_logits = Formula(0.0, "freed before the peak, or on another pipeline stage")
    logits = no_logits
    if stage == pp - 1:
        entries = recipe.model.vocab_size.value
        logits = Formula(
            (element + 4) * tokens * entries / tp,
            f"{element + 4} bytes x {tokens:,} tokens x {entries:,} entries / TP {tp}",
        )
    query, key_value = _widths(recipe.model)
    values = cp * (query + 2 * key_value) / tp if cp > 1 else 0.0
    ring = Formula(
        element * tokens * values,
        f"{element} bytes x {tokens:,} tokens x {values:,.0f} values that CP {cp} steps keep",
    )

    # the ring of the last layer ends before the logits, and these before a layer runs again
    if logits.value > ring.value + tokens * again:
        again = 0.0
        ring = Formula(0.0, "freed before the peak, at the logits")
    else:
        logits = no_logits
    activations = Formula(
        tokens * (kept * layers * in_flight + again),
        f"{tokens:,} tokens x ({kept:,.0f} bytes x {layers} layers x {in_flight} micro-batches "
        f"+ {again:,.0f} of a layer that runs again)",
    )
    return {"activations": activations, "logits": logits, "context_parallel": ring}


def _element_bytes(recipe: CommonRecipe) -> int:
    """Return the bytes of a weight, and of a value that a layer computes."""
    return 2 if recipe.precision.value == "bf16-mixed" else 4


def layer_activations(recipe: CommonRecipe) -> float:
    """Return the bytes that a layer keeps on a GPU for the backward pass, per token.

    The counting of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
    Models" (arXiv 2205.05198, section 4), without dropout and biases, with SwiGLU, grouped queries,
    and fused attention that stores no scores (as its section 5 recomputes them).

    The inputs and outputs of two norms are 4 hidden. QKV is kept whole, as the values are a part of
    it, beside queries and keys that are rotated: 3 query + 3 key_value with attention's output, and
    4 bytes a head for the softmax's sum. The MLP keeps its two branches and their product, 3 ffn.
    Tensor parallelism splits all but the norms' values, sequence parallelism those as well.
    """
    model = recipe.model
    query, key_value = _widths(model)
    inside = 3 * query + 3 * key_value + 3 * model.ffn_hidden_size.value
    heads = model.num_attention_heads.value

    tp = recipe.parallelism.tensor_model_parallel_size.value
    element = _element_bytes(recipe)
    return element * (4 * _layer_input(recipe) + inside / tp) + 4 * heads / tp


def _layer_input(recipe: CommonRecipe) -> float:
    """Return the values of a layer's input on a GPU, per token."""
    parallel = recipe.parallelism
    if parallel.sequence_parallel.value:
        return recipe.model.hidden_size.value / parallel.tensor_model_parallel_size.value
    return recipe.model.hidden_size.value
