"""The estimate of a GPU's memory against sums by hand and the paper's formula."""

import pytest

from recipes.registry.resolve import resolve_pretraining
from recipes.spec.memory import estimate, shard_parameters
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
    assert memory.parameters == 2 * parameters
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == 12 * parameters / 512
    # bytes a token in a layer: (8 x 4096 + 4 x 4096 + 4 x 1024 + 6 x 12800) / 2 = 65,024;
    # 40 layers and one more
    assert memory.activations == 65024 * 8192 * 41
    assert memory.logits == 10 * 8192 * 100352 / 2
    assert memory.total == pytest.approx(51.2e9, rel=1e-3)


def test_memory_of_the_paper() -> None:
    """Korthikanti et al., equation 4 without scores: 34 s b h / t.

    Of these, 3 are dropout masks and 2 GeLU's input. With queries, keys and values of the hidden
    size and SwiGLU of 8/3 hidden, as many parameters as an MLP of 4 hidden, it is
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
    # the first stage keeps two micro-batches of its 32 layers, the last one has the logits and
    # fewer activations
    pipeline = estimate(resolve_pretraining("phase1", "30b", ["parallelism.gpu_type=h100"]))
    layer = (8 * 4096 + 4 * 4096 + 4 * 1024 + 6 * 32768) / 4
    assert pipeline.activations == layer * 4096 * (2 * 32 + 1)
    assert pipeline.logits == 0
