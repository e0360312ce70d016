"""FLOPs against published ones, time and expenses by hand."""

from dataclasses import replace

import pytest

from recipes.planning.costs import (
    STOP_BEFORE_LIMIT,
    attention_flops,
    expenses,
    flops_per_token,
    matrix_parameters,
    mfu_of,
    restart_seconds,
    save_seconds,
    storage,
    training_time,
)
from recipes.planning.hardware import gpu
from recipes.planning.options import PlanOptions
from recipes.registry.resolve import resolve
from recipes.spec.origin import assumed
from recipes.spec.sizes import SIZES, Size
from slurm.cluster import Cluster


def llama(layers: int, hidden: int, heads: int, ffn: int) -> Size:
    """A Llama 3 model, whose output head is not tied, as many parameters in matrices."""
    values = {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_attention_heads": heads,
        "head_dim": 128,
        "ffn_hidden_size": ffn,
        "vocab_size": 128256,
    }
    size = replace(SIZES["8b"], **{name: assumed(value, "-") for name, value in values.items()})
    attention = 2 * hidden * heads * 128 + 2 * hidden * 8 * 128
    layer = attention + 3 * hidden * ffn + 2 * hidden
    count = 128256 * hidden + layers * layer + hidden
    return replace(size, parameter_count=assumed(count, "-"))


@pytest.mark.parametrize(
    ("size", "tflops", "tokens"),
    [
        # NVIDIA, Megatron-Bridge performance summary, NeMo 25.11, 8,192 tokens a sequence
        (llama(32, 4096, 32, 14336), 744, 14451),
        (llama(80, 8192, 64, 28672), 719, 1602),
        (llama(126, 16384, 128, 53248), 737, 292),
    ],
)
def test_flops_of_a_token_are_those_that_nvidia_counts(
    size: Size, tflops: float, tokens: float
) -> None:
    counted = sum(figure.value for figure in flops_per_token(size, 8192).values())
    assert counted == pytest.approx(tflops * 1e12 / tokens, rel=0.005)


def test_matrices_are_all_but_the_norms() -> None:
    assert matrix_parameters(SIZES["8b"]) == 8380551168 - 81 * 4096
    assert attention_flops(SIZES["8b"], 4096) == 6 * 40 * 4096 * 4096


def test_time_by_hand() -> None:
    recipe = resolve("phase1", "8b", ["parallelism.gpu_type=h100"])
    figures = training_time(recipe, 10**13, gpu("h100"), PlanOptions(mfu=0.5))
    per_token = 6 * (8380551168 - 81 * 4096) + 6 * 40 * 4096 * 4096
    seconds = per_token * 10**13 / (1024 * 989e12 * 0.5)
    assert figures["time"].value == pytest.approx(seconds / 3600)
    assert figures["tokens per second"].value == pytest.approx(10**13 / seconds)

    again = resolve("phase1", "8b", ["parallelism.gpu_type=h100", "parallelism.recompute=full"])
    longer = training_time(again, 10**13, gpu("h100"), PlanOptions(mfu=0.5))
    assert longer["time"].value == pytest.approx(4 / 3 * figures["time"].value)
    assert longer["FLOPs"] == figures["FLOPs"]


def test_the_mfu_says_where_it_is_from() -> None:
    assert mfu_of(gpu("h100"), PlanOptions()).origin == "published"
    assert mfu_of(gpu("gb200"), PlanOptions()).origin == "assumed"
    given = mfu_of(gpu("h100"), PlanOptions(mfu=0.3))
    assert (given.value, given.why) == (0.3, "--mfu")


def test_expenses_by_hand() -> None:
    figures = expenses(100, 64, gpu("h100"), PlanOptions(price=2.5))
    assert figures["GPU-hours"].value == 6400
    assert figures["energy"].value == pytest.approx(6400 * 1.275 / 1000)
    assert figures["cost"].value == 16000
    # of a job's 4 hours, 744 s are not training
    assert figures["jobs"].value == 27
    assert "cost" not in expenses(100, 64, gpu("h100"), PlanOptions())


def test_a_job_stops_before_its_limit_as_clusters_say() -> None:
    assert Cluster.stop_before_limit == STOP_BEFORE_LIMIT


def test_checkpoints() -> None:
    recipe = resolve("phase1", "8b")
    assert storage(recipe)["checkpoint"].value == pytest.approx(14 * 8.380551168)
    # 1,024 GPUs could write more than the file system takes
    assert save_seconds(recipe).value == pytest.approx(14 * 8.380551168 / 50)
    small = resolve("sft", "8b")
    assert save_seconds(small).value == pytest.approx(14 * 8380.551168 / (64 * 281))
    assert restart_seconds(small).value == pytest.approx(144 + 14 * 8380.551168 / (64 * 211))
