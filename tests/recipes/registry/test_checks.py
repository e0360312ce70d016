"""The arithmetic of ``granite41 check``: every recipe passes, and each kind of broken one fails."""

import dataclasses
import subprocess
import sys

import pytest

from recipes.common.errors import UserError
from recipes.registry.checks import check_numbers, resolve_chain
from recipes.registry.resolve import resolve_pretraining
from recipes.spec.origin import assumed
from recipes.spec.parallelism import PARALLELISM
from recipes.spec.schedules import LinearDecay

SPLITS = [(size, gpu_type) for size, by_gpu_type in PARALLELISM.items() for gpu_type in by_gpu_type]


def failed(recipes) -> dict[str, str]:
    """Return the names of the checks that fail, with what was found."""
    return {
        check.name: check.found
        for checks in check_numbers(recipes).values()
        for check in checks
        if not check.ok
    }


@pytest.mark.parametrize(("size", "gpu_type"), SPLITS)
def test_every_stage_holds(size: str, gpu_type: str) -> None:
    recipes = resolve_chain(size, overrides=[f"parallelism.gpu_type={gpu_type}"])
    assert len(recipes) == (6 if size == "3b" else 7)
    assert failed(recipes) == {}
    assert {len(checks) for checks in check_numbers(recipes).values()} == {12}


@pytest.mark.parametrize("stage", ["sft", "rl_math"])
@pytest.mark.parametrize(("size", "gpu_type"), SPLITS)
def test_stages_of_alignment_hold(size: str, gpu_type: str, stage: str) -> None:
    recipes = resolve_chain(size, stage, [f"parallelism.gpu_type={gpu_type}"])
    assert failed(recipes) == {}
    names = [check.name for check in check_numbers(recipes)[stage]]
    assert names == ["values fit together", "world size", "global batch", "memory (estimate)"]


def test_a_layout_of_alignment_that_does_not_fit_fails() -> None:
    overrides = ["parallelism.gpus=96", "parallelism.tensor_model_parallel_size=1"]
    assert list(failed(resolve_chain("30b", "rl_math", overrides))) == [
        "global batch",
        "memory (estimate)",
    ]


@pytest.mark.parametrize(
    ("stage", "overrides", "names", "found"),
    [
        (
            "phase1",
            ["parallelism.tensor_model_parallel_size=3"],
            "values fit together, world size, global batch",
            "",
        ),
        (
            "phase1",
            ["parallelism.pipeline_model_parallel_size=16"],
            "values fit together",
            "does not divide model.num",
        ),
        (
            "lce_32k",
            ["parallelism.context_parallel_size=3"],
            "values fit together, world size, global batch",
            "",
        ),
        (
            "lce_512k",
            ["parallelism.tensor_model_parallel_size=16"],
            "values fit together",
            "query_groups 8",
        ),
        (
            "phase1",
            ["parallelism.gpus=1023"],
            "world size, global batch",
            "GPUs 1,023 (gb200), replicas 511",
        ),
        (
            "phase1",
            ["parallelism.gpus=1"],
            "world size, global batch",
            "GPUs 1 (gb200), replicas 0",
        ),
        ("phase1", ["parallelism.gpus=4096"], "global batch", "1,024 sequences"),
        ("lce_32k", ["global_batch_size=100"], "global batch, tokens per batch", "100 sequences"),
        ("lce_32k", ["global_batch_size=256"], "tokens per batch", "8,388,608"),
        ("phase1", ["steps=2384187"], "steps x batch", "2,384,187 x 4,194,304"),
        ("phase4", ["checkpoint_every_tokens=600000000000"], "intervals", "143,051"),
        ("phase1", ["schedule.lr_max=0.0001"], "learning rate at the end", "0.0001"),
        (
            "phase2",
            ["schedule.start_tokens=0"],
            "learning rate at the start, learning rate at the end",
            "0.02",
        ),
        ("phase3", ["schedule.lr_start=0.001"], "learning rate at the start", "0.001"),
        ("phase4", ["schedule.lr_end=1e-9"], "learning rate at the end", "1e-09"),
        ("phase4", ["schedule.warmup_tokens=1000000"], "learning rate at the start", "0"),
        ("lce_32k", ["schedule.lr_start=1.1e-4"], "learning rate at the start", "0.00011"),
        ("lce_512k", ["schedule.lr_end=1e-9"], "learning rate at the end", "1e-09"),
        (
            "phase1",
            ["mixture.code=30"],
            "values fit together, mixture",
            "mixture sums to 110 percent",
        ),
        ("lce_128k", ["rope_theta=999999"], "theta", "theta 999,999 at 131,072 tokens"),
        ("lce_32k", ["rope_theta=5000001"], "theta", "theta 5,000,001"),
        ("lce_512k", ["rope_theta=20000000"], "theta", "theta 20,000,000"),
        ("lce_128k", ["sequence_length=16384"], "theta", "16,384 tokens"),
        ("lce_32k", ["parallelism.context_parallel_size=1"], "global batch", "128 sequences"),
        (
            "phase1",
            ["parallelism.micro_batch_size=32", "parallelism.gpus=64"],
            "memory (estimate)",
            "GB: weights 8.4",
        ),
    ],
)
def test_a_broken_recipe_fails(stage: str, overrides: list[str], names: str, found: str) -> None:
    broken = failed(resolve_chain("8b", stage, overrides))
    assert ", ".join(broken) == names
    assert found in next(iter(broken.values()))


def test_an_override_of_every_stage_meets_its_neighbours() -> None:
    # the power schedules of phases 1 and 2 follow the batch, and phase 3 starts where they end
    recipes = resolve_chain("8b", overrides=["global_batch_size=512", "parallelism.gpus=512"])
    phases = ("phase1", "phase2", "phase3", "phase4")
    assert failed({name: recipes[name] for name in phases}) == {}
    assert recipes["phase3"].schedule.lr(0) == pytest.approx(0.5 * 4096 * (12e12) ** -0.51)


@pytest.mark.parametrize(
    "schedule",
    [
        LinearDecay(assumed(1.0, "-"), assumed(2.0, "-"), assumed(100, "-"), assumed(0, "-")),
        LinearDecay(assumed(1.0, "-"), assumed(-1.0, "-"), assumed(100, "-"), assumed(0, "-")),
        LinearDecay(
            assumed(float("nan"), "-"), assumed(0.0, "-"), assumed(100, "-"), assumed(10, "-")
        ),
        LinearDecay(assumed(-1.0, "-"), assumed(-2.0, "-"), assumed(100, "-"), assumed(10, "-")),
    ],
    ids=["rises", "negative", "not a number", "falls in the warm-up"],
)
def test_rates_within_a_stage(schedule: LinearDecay) -> None:
    recipe = dataclasses.replace(resolve_pretraining("phase4", "8b"), schedule=schedule)
    assert "learning rate between" in failed({"phase4": recipe})


def test_a_warm_up_that_jumps_to_its_end_fails() -> None:
    class Jump(LinearDecay):
        def lr(self, tokens: float) -> float:
            return 0.0 if tokens < self.warmup_tokens.value else super().lr(tokens)

    schedule = Jump(assumed(1.0, "-"), assumed(0.0, "-"), assumed(100, "-"), assumed(10, "-"))
    recipe = dataclasses.replace(resolve_pretraining("phase4", "8b"), schedule=schedule)
    assert "learning rate between" in failed({"phase4": recipe})


def test_a_negative_component_fails() -> None:
    recipe = resolve_pretraining("lce_512k", "8b")
    mixture = {"books": assumed(120.0, "-"), "code_repositories": assumed(-20.0, "-")}
    assert "mixture" in failed({"lce_512k": dataclasses.replace(recipe, mixture=mixture)})


@pytest.mark.parametrize(
    ("size", "stage", "message"),
    [
        ("7b", None, "unknown size '7b'"),
        ("8b", "phas1", "unknown stage 'phas1'"),
        ("3b", "lce_512k", "does not exist for size '3b'"),
    ],
)
def test_mistakes(size: str, stage: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_chain(size, stage)


def test_numbers_are_checked_without_torch() -> None:
    script = (
        "import sys\n"
        "import recipes.model.shards\n"
        "from recipes.registry.checks import check_numbers, resolve_chain\n"
        "check_numbers(resolve_chain('8b'))\n"
        "found = {'torch', 'megatron', 'nemo', 'numpy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
