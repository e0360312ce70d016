"""Plans of every stage and size: they fit, add up and can be explained."""

import pytest

from recipes.common.errors import UserError
from recipes.planning.hardware import gpu
from recipes.planning.options import PlanOptions
from recipes.planning.stage_plan import checkpoint_steps, plan_stage, totals
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.spec.memory import estimate
from recipes.spec.parallelism import GPU_MEMORY, PARALLELISM

EVERY = [
    (stage, size, name)
    for size, by_gpu in PARALLELISM.items()
    for name in by_gpu
    for stage in STAGES
    if size in stage_sizes(stage)
]


@pytest.mark.parametrize(("stage", "size", "name"), EVERY)
def test_every_stage_has_a_plan(stage: str, size: str, name: str) -> None:
    plan = plan_stage(stage, size, PlanOptions(gpu=name, price=2))
    assert plan.peak_bytes == pytest.approx(estimate(plan.recipe).total)
    assert plan.peak_bytes <= plan.gpu.usable_bytes
    assert all(figure.formula for figure in plan.figures.values())
    assert all(figure.value >= 0 for figure in plan.figures.values())
    assert 0.85 < plan.figures["goodput"].value <= 1
    assert plan.figures["time with failures"].value >= plan.figures["time"].value
    hours = plan.figures["GPU-hours"].value
    assert plan.figures["cost"].value == pytest.approx(2 * hours)


def test_every_gpu_of_the_recipes_is_known() -> None:
    assert [gpu(name).name for name in GPU_MEMORY] == list(GPU_MEMORY)


def test_totals_are_sums() -> None:
    plans = [plan_stage(stage, "8b", PlanOptions()) for stage in STAGES]
    total = totals(plans)
    assert total["GPU-hours"].value == sum(plan.figures["GPU-hours"].value for plan in plans)
    assert "cost" not in total


def test_overrides_and_gpus_reach_the_recipe() -> None:
    plan = plan_stage("phase1", "8b", PlanOptions(gpu="h100", gpus=512), ["tokens=1000000000"])
    assert plan.layout["GPUs"] == 512
    assert plan.layout["micro-batches"] == 2
    assert plan.figures["tokens"].value == 10**9
    half = plan_stage("phase1", "8b", PlanOptions(gpu="h100"), ["tokens=1000000000"])
    assert plan.figures["time"].value == pytest.approx(2 * half.figures["time"].value)


def test_sft_packs_about_two_samples_as_published() -> None:
    figures = plan_stage("sft", "8b", PlanOptions()).figures
    assert figures["samples per sequence"].value == pytest.approx(1.92, abs=0.01)


def test_an_rl_step_is_the_sum_of_its_parts() -> None:
    names = ("generation", "rewards", "log-probabilities", "training", "refresh")
    figures = plan_stage("rl_rlhf", "8b", PlanOptions()).figures
    step = sum(figures[name].value for name in names)
    assert figures["step"].value == pytest.approx(step)
    assert figures["time"].value == pytest.approx(280 * step / 3600)
    # policy and reference forward are two of a training step's three passes
    assert figures["log-probabilities"].value == pytest.approx(2 / 3 * figures["training"].value)
    # a reward model scores what RLHF generates
    other = plan_stage("rl_math", "8b", PlanOptions()).figures
    assert figures["rewards"].value > other["rewards"].value
    # trainers and servers are paid for
    hours = figures["time with failures"].value
    assert figures["GPU-hours"].value == pytest.approx(128 * hours)


def test_the_published_set_up_of_sft_fits() -> None:
    """16 nodes of four GB200 (facts.yaml, sft.hardware) hold every size without recomputation."""
    for size in ("3b", "8b", "30b"):
        plan = plan_stage("sft", size, PlanOptions(gpu="gb200"))
        assert (plan.layout["GPUs"], plan.recipe.parallelism.recompute.value) == (64, "none")
        assert plan.peak_bytes < plan.gpu.usable_bytes / 1.9


def test_checkpoint_steps_of_every_kind() -> None:
    assert checkpoint_steps(resolve("phase1", "8b")) == 4768
    assert (
        checkpoint_steps(resolve("sft", "8b")) == resolve("sft", "8b").checkpoint_every_steps.value
    )


@pytest.mark.parametrize("gpus", [7, 1000, 3072])
def test_gpus_that_nothing_divides(gpus: int) -> None:
    with pytest.raises(UserError, match=rf"{gpus:,} GPUs do not share .* nearest counts"):
        plan_stage("phase1", "8b", PlanOptions(gpus=gpus))


def test_memory_that_does_not_fit_names_a_layout_that_does() -> None:
    overrides = ["parallelism.tensor_model_parallel_size=1", "parallelism.gpus=512"]
    with pytest.raises(UserError, match=r"exceed the 72\.0 GB .* by [\d.]+ GB; TP") as caught:
        plan_stage("phase1", "8b", PlanOptions(gpu="h100"), overrides)
    words = str(caught.value).partition(" fits: ")[2].split()
    assert plan_stage("phase1", "8b", PlanOptions(), words).peak_bytes < 72e9
