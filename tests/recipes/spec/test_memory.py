"""The estimate of a GPU's memory against sums by hand and the paper's formula."""

import pytest

from recipes.registry.resolve import resolve, resolve_pretraining
from recipes.spec.memory import bucket_sizes, estimate, explain, shard_parameters
from recipes.spec.sizes import SIZES


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_shards_add_up(size: str, tp: int, pp: int) -> None:
    model = SIZES[size]
    hidden, layers = model.hidden_size.value, model.num_layers.value
    shards = shard_parameters(model, tp, pp)
    replicated = (tp - 1) * (2 * layers * hidden + hidden)
    copy = model.vocab_size.value * hidden if pp > 1 else 0
    assert tp * sum(shards) == model.parameter_count.value + replicated + copy


def test_memory_by_hand() -> None:
    memory = estimate(resolve_pretraining("phase1", "8b"))
    # 8,380,551,168 parameters on two GPUs, of which 81 norms of 4,096 on both
    parameters = (8380551168 + 81 * 4096) / 2
    # the eight buckets of the buffers end at multiples of 512 ranks, which share the optimizer
    assert memory.weights == pytest.approx(2 * parameters, rel=1e-6)
    assert memory.gradients == 2 * memory.weights
    assert memory.optimizer == 12 * memory.weights / 2 / 512
    # bytes a token in a layer: two norms' inputs and outputs, QKV, rotated queries and keys and
    # attention's output, the MLP's three; a softmax's sum for each of 32 heads
    layer = (8 * 4096 + 6 * 4096 + 6 * 1024 + 6 * 12800 + 4 * 32) / 2
    assert memory.activations == layer * 8192 * 40
    assert memory.logits == 6 * 8192 * 100352 / 2
    assert memory.context_parallel == 0
    assert memory.total == pytest.approx(50.7e9, rel=1e-3)


def test_memory_of_the_paper() -> None:
    """Korthikanti et al., equation 4 without scores: 34 s b h / t.

    Of these, 3 are dropout masks and 2 GeLU's input. With queries, keys and values of the hidden
    size and SwiGLU of 8/3 hidden, as many parameters as an MLP of 4 hidden, it is
    8 + 2 x (2 + 2) + 6 x 8/3 = 32. The rotated queries and keys and the softmax's sum come to it.
    """
    recipe = resolve_pretraining(
        "phase1",
        "8b",
        ["model.num_query_groups=32", "model.ffn_hidden_size=12288", "model.num_layers=10"],
    )
    rotated = 4 * 4096 + 4 * 32
    paper = (8 + 8 + 6 * 3) * 4096
    assert estimate(recipe).activations == (paper + rotated) / 2 * 8192 * 10


def test_memory_follows_recomputation_and_pipeline() -> None:
    layer = 70208
    full = estimate(resolve_pretraining("phase1", "8b", ["parallelism.recompute=full"]))
    # 40 inputs of a layer; a whole layer is there again after the logits
    assert full.activations == 40 * 2 * 4096 / 2 * 8192
    unsplit = estimate(resolve_pretraining("phase1", "8b", ["parallelism.sequence_parallel=false"]))
    assert unsplit.activations == (layer + 8 * 4096 / 2) * 8192 * 40
    # the first stage keeps two micro-batches of its 32 layers, the last one has the logits and
    # fewer activations
    pipeline = estimate(resolve_pretraining("phase1", "30b", ["parallelism.gpu_type=h100"]))
    layer = (8 * 4096 + 6 * 4096 + 6 * 1024 + 6 * 32768 + 4 * 32) / 4
    assert pipeline.activations == layer * 4096 * 2 * 32
    assert pipeline.logits == 0


def test_a_ring_counts_where_it_exceeds_the_logits() -> None:
    long = estimate(resolve_pretraining("lce_512k", "8b"))
    # what 64 steps receive and compute: keys, values and outputs
    assert long.context_parallel == 64 * (4096 + 2 * 1024) / 2 * 2 * 8192
    assert long.logits == 0
    short = estimate(resolve_pretraining("lce_32k", "8b"))
    assert (short.context_parallel, short.logits > 0) == (0, True)


@pytest.mark.parametrize("stage", [0, 1])
def test_buckets_hold_every_parameter(stage: int) -> None:
    recipe = resolve_pretraining("phase1", "30b", ["parallelism.gpu_type=h100"])
    buckets = bucket_sizes(recipe, stage)
    assert sum(size for size, _ in buckets) == shard_parameters(recipe.model, 4, 2)[stage]
    assert all(size <= padded < size + 128 and padded % 128 == 0 for size, padded in buckets)
    # at either end of the pipeline the embedding is alone
    assert 100352 * 4096 // 4 in [size for size, _ in buckets]


def test_rl_holds_its_reference_policy() -> None:
    memory = estimate(resolve("rl_math", "8b"))
    assert memory.reference == (8380551168 + 81 * 4096) / 2 * 2
    assert estimate(resolve("sft", "8b")).reference == 0


def test_each_part_has_its_arithmetic() -> None:
    parts = explain(resolve_pretraining("phase1", "8b"), 0)
    assert parts["optimizer"].text == "12 bytes x 8,184,456 elements, its part of 512"
    assert "6 bytes x 8,192 tokens x 100,352 entries / TP 2" in parts["logits"].text
