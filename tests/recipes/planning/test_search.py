"""The layout search: what fits, in which order, and why the rest does not."""

import pytest

from recipes.common.errors import UserError
from recipes.planning.hardware import gpu, network
from recipes.planning.options import PlanOptions
from recipes.planning.search import Layout, search, step_seconds
from recipes.planning.stage_plan import plan_stage
from recipes.registry.resolve import resolve
from recipes.spec.memory import estimate


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return search("phase1", "30b", PlanOptions(gpu="h100", gpus=1024))


def test_the_fastest_come_first(layouts: list[Layout]) -> None:
    fitting = [layout for layout in layouts if not layout.rejected]
    seconds = [layout.step_seconds for layout in fitting]
    assert seconds == sorted(seconds)
    assert layouts[: len(fitting)] == fitting


def test_a_layout_that_fits_is_a_recipe_that_fits(layouts: list[Layout]) -> None:
    for layout in [one for one in layouts if not one.rejected][:20]:
        recipe = resolve("phase1", "30b", layout.overrides())
        assert estimate(recipe).total == layout.peak_bytes <= gpu("h100").usable_bytes
        plan = plan_stage("phase1", "30b", PlanOptions(), layout.overrides())
        assert plan.figures["step, estimated"].value == pytest.approx(layout.step_seconds)


def test_each_rejected_layout_says_why(layouts: list[Layout]) -> None:
    rejected = {str(layout): layout.rejected for layout in layouts if layout.rejected}
    alone = rejected["TP 1 PP 1 CP 1 micro-batch 1 recompute none"]
    assert alone.endswith("172.2 GB too many")
    uneven = rejected["TP 1 PP 1 CP 1 micro-batch 2 recompute none"]
    assert uneven == "1,024 sequences a step are no multiple of 1024 replicas x 2"
    assert all(rejected.values())


def test_recomputation_costs_a_third_more(layouts: list[Layout]) -> None:
    by_name = {str(layout): layout for layout in layouts}
    kept = by_name["TP 4 PP 2 CP 1 micro-batch 1 recompute none"]
    again = by_name["TP 4 PP 2 CP 1 micro-batch 1 recompute full"]
    assert again.seconds["compute"] == pytest.approx(4 / 3 * kept.seconds["compute"])
    assert again.peak_bytes < kept.peak_bytes


def test_parts_of_a_step_by_hand() -> None:
    recipe = resolve("phase1", "30b", ["parallelism.gpu_type=h100"])
    parts = step_seconds(recipe, gpu("h100"), PlanOptions())
    # TP 4, PP 2, DP 128: eight micro-batches of one sequence, and one more through the pipeline
    assert parts["bubble"] == pytest.approx((parts["compute"] + parts["tensor parallel"]) / 8)
    # ten collectives a layer, three quarters of 4,096 x 4,096 bf16 values over NVLink
    collective = 2 * 4096 * 4096 * 0.75 / (450e9 * 0.8)
    assert parts["tensor parallel"] == pytest.approx(8 * 64 * 10 * collective / 2)


def test_a_slower_network_costs_time() -> None:
    # two of its data-parallel ranks share a node, and so two network cards
    recipe = resolve("phase1", "30b", ["parallelism.gpu_type=h100"])
    seconds = [
        sum(step_seconds(recipe, gpu("h100"), PlanOptions(network=network(name))).values())
        for name in ("hdr", "ndr", "xdr")
    ]
    assert seconds[0] > seconds[1] > seconds[2]


def test_gpus_that_are_too_few() -> None:
    with pytest.raises(UserError, match=r"none of \d+ layouts of 4 h100 fits; TP .* GB too many"):
        search("phase1", "30b", PlanOptions(gpu="h100", gpus=4))
