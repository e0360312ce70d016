"""``granite41 plan``: tables, JSON, picture, layouts, and what it must not import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.cli.main import app
from recipes.registry.stages import STAGES
from recipes.runs.stage_folder import CHECKPOINT_BYTES


def plan(*words: str) -> str:
    result = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_whole_life_of_a_size() -> None:
    lines = [line.split() for line in plan("--size", "8b").splitlines()]
    names = [line[0] for line in lines if line and line[0] in STAGES]
    assert names == list(STAGES)
    total = next(line for line in lines if line and line[0] == "total")
    assert total[-3:-1] == ["478", "MWh"]


def test_json() -> None:
    words = ("sft..rl_math", "--size", "8b", "--gpu", "h100", "--gpus", "64", "--price", "2")
    found = json.loads(plan(*words, "--json"))
    assert [stage["stage"] for stage in found["stages"]] == list(STAGES)[7:]
    first = found["stages"][0]
    assert first["layout"]["GPUs"] == 64
    assert first["figures"]["checkpoint"]["value"] == pytest.approx(CHECKPOINT_BYTES * 8.380551168)
    assert set(first["memory"]["weights"]) == {"value", "text"}
    assert found["total"]["cost"]["value"] > 0


def test_explain_prints_every_formula() -> None:
    out = plan("phase1", "--size", "8b", "--explain", "tokens=1000000000000")
    assert "6 x 8,380,219,392 parameters in matrices" in out
    assert "1,024 GPUs x 2500 TFLOP/s x 0.39" in out
    assert "override: set on the command line: tokens=1000000000000" in out


def test_an_override_without_a_stage_is_for_all() -> None:
    assert plan("parallelism.recompute=full", "--size", "3b").count("512 gb200") == 6


def test_search_writes_overrides_that_plan_reads(tmp_path: Path) -> None:
    file = tmp_path / "layout"
    words = ("phase1", "--size", "30b", "--gpu", "h100", "--gpus", "512")
    out = plan(*words, "--search", "--write", str(file))
    overrides = file.read_text().split()
    assert "layouts fit, the fastest first" in out
    assert "GB too many" in out
    best = next(line for line in out.splitlines() if line.startswith("  TP"))
    tp = overrides[2].partition("=")[2]
    assert best.split()[1] == tp
    assert "512 h100" in plan("phase1", "--size", "30b", *overrides)
    rows = json.loads(plan(*words, "--search", "--json"))
    assert rows[0]["tensor_model_parallel_size"] == int(tp)
    assert rows[-1]["rejected"]


def test_a_picture(tmp_path: Path) -> None:
    plan("phase1..phase2", "--size", "8b", "--picture", str(tmp_path / "plan.svg"))
    assert "phase2" in (tmp_path / "plan.svg").read_text()


@pytest.mark.parametrize("words", ["", "--search phase1", "--explain --picture p.svg"])
def test_large_libraries_stay_out(words: str, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from recipes.cli import main as cli\n"
        f"sys.argv = ['granite41', 'plan', '--size', '8b', *{words.split()!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "libraries = 'torch nemo nemo_run numpy megatron transformers matplotlib'.split()\n"
        "heavy = set(libraries) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
