"""What changes from one run or evaluation to another."""

import json
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.reports.comparison import compare
from tests.helpers.report_pages import Page, ruler, unit, write_scores


def test_two_runs_are_compared_by_stage_suite_and_label(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for run, score in ((a, 60.0), (b, 62.0)):
        write_scores(run, "phase1", "base", [unit("mmlu", score, 0.3), unit("bbh", 50.0, 0.4)])
        write_scores(run, "lce_32k", "long-context", ruler(score + 20, (32768,)))
    write_scores(a, "phase2", "base", [unit("mmlu", 1.0)])
    path = compare(a, b, tmp_path / "out" / "a-b.html")
    page = Page(path.read_text())
    assert path == tmp_path / "out" / "a-b.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["a-b.html", "a-b.json", "a-b.md"]
    row = page.cells("mmlu")
    # 2 / sqrt(0.3^2 + 0.3^2)
    assert row == {
        "unit": "mmlu",
        "IBM 8b": "73.60",
        "a": "60.00 ± 0.30",
        "b": "62.00 ± 0.30",
        "b - a": "+2.00",
        "z": "+4.7 ▲",
    }
    assert page.cells("bbh")["z"] == "+0.0"
    mean = page.cells("mean@32768")
    assert (mean["IBM 8b"], mean["b - a"], mean["z"]) == ("83.60", "+2.00", "+2.5 ▲")
    assert "phase2" not in page.words
    assert len(json.loads(path.with_suffix(".json").read_text())["pairs"]) == 2


def test_two_evaluations_are_compared_whatever_their_stages(tmp_path: Path) -> None:
    a = write_scores(tmp_path / "x", "phase1", "base", [unit("mmlu", 60.0), unit("drop", 5.0)])
    b = write_scores(tmp_path / "y", "phase2", "base", [unit("mmlu", 50.0)])
    path = compare(a, b, tmp_path / "v1.2")
    assert path.name == "v1.2.html"
    page = Page(path.read_text())
    assert page.cells("mmlu")["z"] == "-14.1 ▼"
    assert (page.cells("drop")["a"], page.cells("drop")["b"], page.cells("drop")["z"]) == (
        "5.00 ± 0.50",
        "-",
        "-",
    )
    other = write_scores(tmp_path / "z", "phase2", "smoke", [unit("smoke_cloze", 50.0)])
    with pytest.raises(UserError, match=r"is of suite base and .* of smoke"):
        compare(a, other, tmp_path / "c")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a = write_scores(tmp_path / "x", "phase1", "base", [unit("mmlu", 60.0)])
    write_scores(tmp_path / "y", "phase2", "base", [unit("mmlu", 60.0)])
    for left, right in ((tmp_path / "x", a), (tmp_path / "none", tmp_path / "x")):
        with pytest.raises(UserError, match="holds no evaluations"):
            compare(left, right, tmp_path / "c")
    with pytest.raises(UserError, match="no evaluation of the same stage"):
        compare(tmp_path / "x", tmp_path / "y", tmp_path / "c")
    assert not list(tmp_path.glob("c.*"))
