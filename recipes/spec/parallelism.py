"""How each size is split over GPUs of 80 GB or more (H100, GB200). Nothing of this is published."""

from typing import Any

from recipes.spec.common import Parallelism
from recipes.spec.origin import assumed, derived
from recipes.spec.tree import PENDING, Rule

_ONE = assumed(1, "not needed at this size and length")
# context parallelism keeps the activations of at most this many tokens on a GPU
TOKENS_PER_GPU = 16384

# the 4K phases
PARALLELISM = {
    "3b": Parallelism(
        tensor_model_parallel_size=assumed(1, "weights, gradients and a sharded optimizer fit one 80 GB GPU"),
        pipeline_model_parallel_size=_ONE,
        context_parallel_size=_ONE,
        sequence_parallel=PENDING,
        micro_batch_size=assumed(2, "8K tokens of activations and fp32 logits of 100,352 entries fit 80 GB"),
    ),
    "8b": Parallelism(
        tensor_model_parallel_size=assumed(2, "halves weights and activations, so that 80 GB leave room"),
        pipeline_model_parallel_size=_ONE,
        context_parallel_size=_ONE,
        sequence_parallel=PENDING,
        micro_batch_size=assumed(2, "8K tokens of activations on two GPUs fit 80 GB"),
    ),
    "30b": Parallelism(
        tensor_model_parallel_size=assumed(4, "fits the four GPUs of a GB200 node, within NVLink on H100"),
        pipeline_model_parallel_size=assumed(2, "3.6B parameters a GPU with tensor parallelism 4 fit 80 GB"),
        context_parallel_size=_ONE,
        sequence_parallel=PENDING,
        micro_batch_size=assumed(1, "the smallest keeps the pipeline bubble small"),
    ),
    "tiny": Parallelism(
        tensor_model_parallel_size=assumed(1, "one CPU process"),
        pipeline_model_parallel_size=assumed(1, "one CPU process"),
        context_parallel_size=assumed(1, "one CPU process"),
        sequence_parallel=PENDING,
        micro_batch_size=PENDING,
    ),
}


def parallelism(size: str, sequence_length: int) -> Parallelism:
    """Return the split of ``size`` at ``sequence_length`` tokens: one sequence a micro batch from 8K tokens on."""
    base = PARALLELISM[size]
    if size == "tiny" or sequence_length <= 4096:
        return base
    context_parallel_size = max(1, sequence_length // TOKENS_PER_GPU)
    return Parallelism(
        tensor_model_parallel_size=base.tensor_model_parallel_size,
        pipeline_model_parallel_size=base.pipeline_model_parallel_size,
        context_parallel_size=assumed(
            context_parallel_size, f"at most {TOKENS_PER_GPU:,} tokens of a sequence on a GPU"
        ),
        sequence_parallel=base.sequence_parallel,
        micro_batch_size=assumed(1, "one long sequence fills the memory"),
    )


RULES: tuple[Rule[Any], ...] = (
    Rule(
        "parallelism.sequence_parallel",
        ("parallelism.tensor_model_parallel_size",),
        lambda recipe: derived(
            recipe.parallelism.tensor_model_parallel_size.value > 1, "tensor_model_parallel_size > 1"
        ),
    ),
)
