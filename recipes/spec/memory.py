"""An estimate of a GPU's memory in training, from the recipe alone."""

from dataclasses import dataclass, fields

from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.sizes import Size, parameter_count


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, estimated."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def shard_parameters(model: Size, tp: int, pp: int) -> list[int]:
    """Return the parameters on each GPU of the ``pp`` pipeline stages, each split over ``tp`` GPUs.

    Matrices are split, norms are not. The first stage holds the embedding; the last one holds the
    final norm and a copy of the embedding for the logits.
    """
    hidden = model.hidden_size.value
    embedding = model.vocab_size.value * hidden
    norms = 2 * model.num_layers.value * hidden
    matrices = parameter_count(model) - embedding - norms - hidden

    # every stage has its layers, the first and the last something more
    stages = [matrices // (tp * pp) + norms // pp] * pp
    stages[0] += embedding // tp
    stages[-1] += hidden
    if pp > 1:
        stages[-1] += embedding // tp
    return stages


def micro_batches(recipe: PretrainRecipe) -> int:
    """Return the micro-batches that each data-parallel replica takes per step, at least one."""
    parallel = recipe.parallelism
    at_a_time = parallel.data_parallel_size * parallel.micro_batch_size.value
    return max(1, recipe.global_batch_size.value // max(1, at_a_time))


def estimate(recipe: PretrainRecipe) -> Memory:
    """Estimate the memory of the fullest GPU.

    Parameters and gradients: with bf16, 2 bytes a parameter and 4 for the gradient, summed in fp32.
    The distributed optimizer splits its fp32 master weights and two moments, 12 bytes a parameter,
    over the data- and context-parallel GPUs. With fp32 throughout it is 4, 4 and 8.

    Activations: those of a layer (see :func:`layer_activations`) for each layer of the pipeline
    stage and each of its micro-batches. With full recomputation a layer keeps its input only. One
    layer more counts for what is being recomputed or differentiated. A pipeline's first stage keeps
    as many micro-batches as there are stages (1F1B).

    Logits: a bf16 copy, an fp32 one and the fp32 gradient of the loss, 10 bytes (12 with fp32), on
    the last stage.
    """
    model = recipe.model
    parallel = recipe.parallelism
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    cp = parallel.context_parallel_size.value
    # of a micro-batch, on one GPU
    tokens = recipe.sequence_length.value * parallel.micro_batch_size.value / cp

    # bytes a parameter
    is_bf16 = recipe.precision.value == "bf16-mixed"
    element_bytes = 2 if is_bf16 else 4
    optimizer_bytes = 12 if is_bf16 else 8
    optimizer_shards = max(1, parallel.data_parallel_size) * cp

    layer = layer_activations(recipe)
    kept = layer
    if parallel.recompute.value == "full":
        kept = _layer_input(recipe)

    stages = []
    for stage, parameters in enumerate(shard_parameters(model, tp, pp)):
        # 1F1B: a stage has as many micro-batches at a time as stages follow, itself included
        in_flight = min(pp - stage, micro_batches(recipe))
        layers_in_flight = model.num_layers.value / pp * in_flight
        logits = (element_bytes + 8) * tokens * model.vocab_size.value / tp
        memory = Memory(
            parameters=element_bytes * parameters,
            gradients=4 * parameters,
            optimizer=optimizer_bytes * parameters / optimizer_shards,
            activations=element_bytes * tokens * (kept * layers_in_flight + layer),
            logits=logits if stage == pp - 1 else 0,
        )
        stages.append(memory)
    return max(stages, key=lambda memory: memory.total)


def layer_activations(recipe: PretrainRecipe) -> float:
    """Return the values that a layer keeps on a GPU for the backward pass, per token.

    The counting of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
    Models" (arXiv 2205.05198, section 4), without dropout and biases, with SwiGLU, grouped queries,
    and fused attention that stores no scores (as its section 5 recomputes them).

    The inputs of two norms, of QKV and of the MLP are 4 hidden; queries, keys, values and
    attention's output 2 query + 2 key_value; the MLP's two branches and their product 3 ffn. Tensor
    parallelism splits the latter two, sequence parallelism the first as well.
    """
    model = recipe.model
    query = model.num_attention_heads.value * model.head_dim.value
    key_value = model.num_query_groups.value * model.head_dim.value
    inside = 2 * query + 2 * key_value + 3 * model.ffn_hidden_size.value

    tp = recipe.parallelism.tensor_model_parallel_size.value
    return 4 * _layer_input(recipe) + inside / tp


def _layer_input(recipe: PretrainRecipe) -> float:
    parallel = recipe.parallelism
    if parallel.sequence_parallel.value:
        return recipe.model.hidden_size.value / parallel.tensor_model_parallel_size.value
    return recipe.model.hidden_size.value
