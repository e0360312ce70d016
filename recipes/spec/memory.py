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


def shard_parameters(model: Size, tensor: int, pipeline: int) -> list[int]:
    """Return the parameters on each GPU of the ``pipeline`` stages, each split over ``tensor`` GPUs.

    Matrices are split, norms are not; the first stage holds the embedding, the last one a copy of it for the logits,
    and the final norm.
    """
    hidden, layers = model.hidden_size.value, model.num_layers.value
    embedding = model.vocab_size.value * hidden
    norms = 2 * layers * hidden
    matrices = parameter_count(model) - embedding - norms - hidden
    stages = [matrices // (tensor * pipeline) + norms // pipeline] * pipeline
    stages[0] += embedding // tensor
    stages[-1] += hidden + (embedding // tensor if pipeline > 1 else 0)
    return stages


def micro_batches(recipe: PretrainRecipe) -> int:
    """Return the micro-batches that each data-parallel replica takes per step, at least one."""
    per_replica = recipe.parallelism.data_parallel_size * recipe.parallelism.micro_batch_size.value
    return max(1, recipe.global_batch_size.value // max(1, per_replica))


def estimate(recipe: PretrainRecipe) -> Memory:
    """Estimate the memory of the fullest GPU.

    Parameters and gradients: with bf16, 2 bytes a parameter and 4 for the gradient, summed in fp32. The distributed
    optimizer splits its fp32 master weights and two moments, 12 bytes a parameter, over the data- and context-parallel
    GPUs. With fp32 throughout it is 4, 4 and 8.

    Activations: the counting of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
    Models" (arXiv 2205.05198, section 4), without dropout and biases, with SwiGLU, grouped queries, and fused attention
    that stores no scores (as its section 5 recomputes them). A layer keeps, a token: the inputs of two norms, of QKV
    and of the MLP, 4 hidden; queries, keys, values and attention's output, 2 query + 2 key_value; the MLP's two
    branches and their product, 3 ffn. Tensor parallelism splits the latter two, sequence parallelism the first as well.
    With full recomputation a layer keeps its input only. One layer more counts for what is being recomputed or
    differentiated. A pipeline's first stage keeps as many micro-batches as there are stages (1F1B).

    Logits: a bf16 copy, an fp32 one and the fp32 gradient of the loss, 10 bytes (12 with fp32), on the last stage.
    """
    model, split = recipe.model, recipe.parallelism
    tensor, pipeline = (
        split.tensor_model_parallel_size.value,
        split.pipeline_model_parallel_size.value,
    )
    bf16 = recipe.precision.value == "bf16-mixed"
    element = 2 if bf16 else 4
    tokens = (
        recipe.sequence_length.value
        * split.micro_batch_size.value
        / split.context_parallel_size.value
    )

    hidden = model.hidden_size.value
    query = model.num_attention_heads.value * model.head_dim.value
    key_value = model.num_query_groups.value * model.head_dim.value
    unsplit = 1 / tensor if split.sequence_parallel.value else 1
    layer = (
        4 * hidden * unsplit
        + (2 * query + 2 * key_value + 3 * model.ffn_hidden_size.value) / tensor
    )
    kept = hidden * unsplit if split.recompute.value == "full" else layer
    optimizer_shards = max(1, split.data_parallel_size) * split.context_parallel_size.value

    stages = []
    for stage, parameters in enumerate(shard_parameters(model, tensor, pipeline)):
        in_flight = min(pipeline - stage, micro_batches(recipe))
        is_last = stage == pipeline - 1
        stages.append(
            Memory(
                parameters=element * parameters,
                gradients=4 * parameters,
                optimizer=(12 if bf16 else 8) * parameters / optimizer_shards,
                activations=element
                * tokens
                * (kept * model.num_layers.value / pipeline * in_flight + layer),
                logits=(element + 8) * tokens * model.vocab_size.value / tensor if is_last else 0,
            )
        )
    return max(stages, key=lambda memory: memory.total)
