"""The chain of stages, found in the tables of ``recipes/*.py``, and the numbers of each stage."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.common.tables import human
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, order_stages, parent_stage, stage_sizes
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.sizes import SIZES

PRETRAIN = ["phase1", "phase2", "phase3", "phase4", "lce_32k", "lce_128k", "lce_512k"]
TWELVE = [*PRETRAIN, "sft", "rl_multi_domain", "rl_rlhf", "rl_identity", "rl_math"]
RECIPES = [(stage, size) for stage in STAGES for size in stage_sizes(stage)]


ROOT = Path(__file__).parents[3]
TABLES = [path.stem for path in sorted((ROOT / "recipes").glob("*.py")) if path.stem != "__init__"]

NEW_TABLE = """
from dataclasses import replace

from recipes.rl import RL_MATH
from recipes.spec.origin import assumed

RL_POETRY = replace(
    RL_MATH, name="rl_poetry", title="poetry RL", follows="rl_math", prompts=assumed(64, "a test's")
)
"""


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", TABLES)
def test_a_stages_file_loads_no_third_party_package(module: str) -> None:
    script = (
        "import importlib, sys\n"
        "before = set(sys.modules)\n"
        f"importlib.import_module('recipes.{module}')\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "foreign = loaded - set(sys.stdlib_module_names) - {'recipes'}\n"
        "sys.exit(f'imported {foreign}' if foreign else 0)\n"
    )
    done = run_python(script)
    assert done.returncode == 0, done.stderr


def test_a_new_stage_is_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "poetry.py").write_text(NEW_TABLE)
    script = (
        "import sys, recipes\n"
        "recipes.__path__.append(sys.argv.pop(1))\n"
        "from recipes.cli.main import main\n"
        "sys.argv = ['granite41', *sys.argv[1:]]\n"
        "main()\n"
    )
    listed = run_python(script, str(tmp_path), "list", "--json")
    assert [row["stage"] for row in json.loads(listed.stdout)] == [*TWELVE, "rl_poetry"]
    shown = run_python(script, str(tmp_path), "show", "rl_poetry", "--size", "tiny", "--json")
    assert json.loads(shown.stdout)["values"]["parallelism.gpus"]["value"] == 1
    assert "poetry RL; starts from rl_math" in (
        run_python(script, str(tmp_path), "show", "rl_poetry", "--size", "3b").stdout
    )


def test_the_chain_is_derived_from_what_each_stage_follows() -> None:
    backwards = list(STAGES.values())[::-1]
    assert list(order_stages(backwards)) == TWELVE
    assert STAGES["phase1"].follows is None


def test_stages_that_are_not_one_chain_are_refused() -> None:
    stages = list(STAGES.values())
    fork = replace(STAGES["phase3"], name="phase3b")
    with pytest.raises(ValueError, match="phase3 and phase3b both follow phase2"):
        order_stages([*stages, fork])
    lost = replace(STAGES["phase3"], name="lost", follows="phase9")
    with pytest.raises(ValueError, match="stage lost follows phase9, which is no stage"):
        order_stages([*stages, lost])


def test_the_readmes_table_is_the_registry() -> None:
    """Columns: stage, title, tokens, sequence length; a dash for a stage without a token count."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        cells = [re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", cell).strip() for cell in line.split("|")]
        if line.startswith("|") and cells[1] in STAGES:
            rows[cells[1]] = cells[2:5]
    assert list(rows) == list(STAGES)

    for name, (title, tokens, length) in rows.items():
        recipe = resolve(name, "8b")
        assert title == recipe.title
        assert length == human(recipe.sequence_length.value)
        if isinstance(recipe, PretrainRecipe):
            assert tokens.partition(",")[0] == human(recipe.tokens.value)


def test_stages_and_sizes() -> None:
    assert list(STAGES) == TWELVE
    assert list(SIZES) == ["3b", "8b", "30b", "tiny"]
    assert [stage for stage in TWELVE if "3b" not in stage_sizes(stage)] == ["lce_512k"]
    assert all({"8b", "30b", "tiny"} <= set(stage_sizes(stage)) for stage in TWELVE)


@pytest.mark.parametrize("stage", PRETRAIN)
def test_mixture_sums_to_100(stage: str) -> None:
    assert sum(percent.value for percent in resolve(stage, "8b").mixture.values()) == pytest.approx(
        100, abs=0.1
    )


@pytest.mark.parametrize("size", ["8b", "tiny"])
def test_batches(size: str) -> None:
    batches = [resolve(stage, size).global_batch_size.value for stage in PRETRAIN]
    lengths = [resolve(stage, size).sequence_length.value for stage in PRETRAIN]
    if size == "8b":
        assert batches == [1024, 1024, 1024, 1024, 128, 32, 8]
    else:
        # one sequence is the smallest batch: 512K's is four times the others' tokens
        assert batches == [32, 32, 32, 32, 4, 1, 1]
        assert lengths == [256, 256, 256, 256, 2048, 8192, 32768]
    tokens = [batch * length for batch, length in zip(batches, lengths, strict=True)]
    assert tokens == ([4194304] * 7 if size == "8b" else [8192] * 6 + [32768])
    leaves = [resolve(stage, size).tokens_per_batch for stage in PRETRAIN]
    assert [leaf.value for leaf in leaves] == tokens
    assert ["one sequence is more than" in leaf.why for leaf in leaves] == [False] * 6 + [
        size == "tiny"
    ]


def test_steps() -> None:
    # 10e12 / 4194304 = 2384185.8; 1.25e6 / 8192 = 152.6
    assert resolve("phase1", "8b").steps.value == 2384186
    assert resolve("phase1", "tiny").steps.value == 153
    assert resolve("sft", "8b").steps.value == 25000
    assert resolve("sft", "8b").tokens.value == 25000 * 256 * 16384
    assert [resolve(stage, "8b").steps.value for stage in TWELVE[8:]] == [711, 280, 40, 211]
    assert resolve("rl_math", "8b").prompts_per_step.value == 64


def test_the_optimizer_of_fine_tuning_is_that_of_the_open_recipe() -> None:
    optimizer = resolve("sft", "8b").optimizer
    for leaf, value in ((optimizer.weight_decay, 0.0), (optimizer.gradient_clip, 1.0)):
        assert (leaf.value, leaf.origin) == (value, "assumed")
        assert "granite.build, Granite 4.0 350M recipe" in leaf.why


@pytest.mark.parametrize(("size", "released"), [("3b", 1e7), ("8b", 1e7), ("30b", 5e7)])
def test_rope_theta_rises_to_the_released_one(size: str, released: float) -> None:
    stages = [stage for stage in TWELVE if size in stage_sizes(stage)]
    thetas = [resolve(stage, size).rope_theta.value for stage in stages]
    assert thetas == sorted(thetas)
    long_context = [resolve(stage, size).rope_theta for stage in stages if stage.startswith("lce")]
    assert len({theta.value for theta in long_context}) == len(long_context)
    assert (long_context[-1].value, long_context[-1].origin) == (released, "published")
    assert thetas[-1] == released
    assert thetas[:4] == [1e4] * 4


def test_parents() -> None:
    assert parent_stage("phase1", "3b") is None
    assert parent_stage("phase2", "3b") == "phase1"
    assert parent_stage("sft", "3b") == "lce_128k"
    assert parent_stage("sft", "8b") == parent_stage("sft", "tiny") == "lce_512k"
    assert resolve("rl_multi_domain", "3b").parent == "sft"


def test_optimizer_state_and_status() -> None:
    states = {stage: resolve(stage, "8b").optimizer_state.value for stage in TWELVE}
    assert {stage for stage, state in states.items() if state == "carry"} == {
        "phase2",
        "phase3",
        "phase4",
    }
    assert states["phase1"] == "fresh"
    assert {resolve(stage, "8b").status for stage in TWELVE} <= {"ready", "planned"}
    assert resolve("phase1", "8b").status == "ready"


@pytest.mark.parametrize(("stage", "size"), RECIPES)
def test_no_gpu_holds_more_than_32k_tokens_of_a_sequence(stage: str, size: str) -> None:
    recipe = resolve(stage, size)
    assert recipe.sequence_length.value / recipe.parallelism.context_parallel_size.value <= 32768
    assert recipe.parallelism.sequence_parallel.value == (
        recipe.parallelism.tensor_model_parallel_size.value > 1
    )
