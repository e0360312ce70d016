"""The run's summary: a row a stage, at most 100 columns wide."""

import json
from pathlib import Path

from evaluation.results import Evaluation, Unit, write_evaluation
from recipes.reports.summary import run_summary, summary_text
from tests.helpers.manifests import write_stage_manifest


def write_stage(run: Path, name: str, **manifest: object) -> None:
    (run / name).mkdir(parents=True)
    write_stage_manifest(run / name, stage=name, **manifest)


def write_scores(run: Path, stage: str, label: str, units: list[Unit], passed: bool) -> None:
    folder = run / stage / "eval" / f"smoke{label}"
    evaluation = Evaluation(
        suite="smoke",
        size="tiny",
        stage=stage,
        label=label,
        model="hf",
        fingerprint="00",
        backend={},
        limit=None,
        expected=[],
        units=units,
        failures={},
        versions={},
        finished="",
    )
    write_evaluation(folder, evaluation)
    (folder / "gate.json").write_text(json.dumps({"passed": passed, "checks": []}))


def unit(task: str, score: float, **more: object) -> Unit:
    return Unit(task, None, "acc,none", score, None, 10, 10, **more)


def test_a_row_a_stage(tmp_path: Path) -> None:
    write_stage(
        tmp_path,
        "phase1",
        status="finished",
        tokens=1_234_567,
        validation_loss=6.0,
        unigram_entropy=8.0,
    )
    write_stage(tmp_path, "phase2", status="failed", tokens=9)
    bits = Unit("smoke_text", None, "bits_per_byte,none", 2.5, None, 10, 10, percent=False)
    units = [unit("cloze", 40.0), unit("recall", 20.0), unit("broken", float("nan")), bits]
    write_scores(tmp_path, "phase1", "", units, passed=False)
    write_scores(tmp_path, "phase1", "unmerged", [unit("cloze", 99.0)], passed=True)

    table = run_summary(tmp_path)

    assert [[cell.text for cell in row] for row in table.cells] == [
        [
            "phase1",
            "finished",
            "1,234,567",
            "6.000",
            "25.0%",
            "1 of 1 failed",
            "smoke 30.0, 2.50 bits_per_byte",
        ],
        ["phase2", "failed", "-", "-", "-", "-", "-"],
    ]


def test_the_text_fits_in_100_columns(tmp_path: Path) -> None:
    for name in ("phase1", "rl_multi_domain"):
        write_stage(tmp_path, name, status="finished", tokens=10**13)
        more = {"percent": False}
        units = [Unit("t", None, f"metric_{i},none", 2.5, None, 10, 10, **more) for i in range(20)]
        write_scores(tmp_path, name, "", units, passed=True)

    text = summary_text(run_summary(tmp_path))

    assert max(map(len, text.splitlines())) <= 100
    assert all(f"metric_{i}" in text for i in range(20))
    assert text.splitlines()[0].split()[:2] == ["stage", "status"]


def test_a_run_that_has_not_begun_has_a_header_only(tmp_path: Path) -> None:
    assert len(summary_text(run_summary(tmp_path)).splitlines()) == 1
