"""Reports on evaluations, from folders written by hand: whole, in part, failed and damaged."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from evaluation import gates
from evaluation.results import Evaluation, Unit
from recipes.common.errors import UserError
from recipes.reports.evaluation import FALLBACK, compare, length_name, write_report
from recipes.reports.records import Entry
from tests.helpers.report_pages import Page, ruler, unit, write_scores

SCRIPT = "<script>alert(1)</script>"
EMPTY = Evaluation("base", "8b", "phase1", "", "hf", "00", {}, None, [], [], {}, {}, "")


def report(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "evaluation.html"
    return Page(path.read_text())


def test_scores_stand_beside_ibms_in_the_order_of_the_stages(tmp_path: Path) -> None:
    write_scores(tmp_path, "phase2", "base", [unit("mmlu", 60.0), unit("bbh", 50.0, None)])
    write_scores(tmp_path, "phase1", "base", [unit("mmlu", 55.25)])
    page = report(tmp_path)
    assert page.cells("mmlu") == {
        "unit": "mmlu",
        "metric": "acc",
        "IBM's setting": "5-shot",
        "IBM 8b": "73.60",
        "phase1": "55.25 ± 0.50",
        "phase2": "60.00 ± 0.50",
    }
    assert page.cells("bbh")["phase2"] == "50.00"
    assert page.cells("bbh")["phase1"] == "-"
    assert page.cells("drop")["IBM 8b"] == "72.36"
    assert page.cells("phase1")["units"] == "1 of 1"
    markdown = (tmp_path / "evaluation.md").read_text()
    assert "| mmlu | acc | 5-shot | 73.60 | 55.25 ± 0.50 | 60.00 ± 0.50 |" in markdown
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["stage"] for row in content["evaluations"]] == ["phase1", "phase2"]
    assert content["evaluations"][1]["units"][0]["score"] == 60.0


def test_what_fell_beyond_two_standard_errors_is_marked(tmp_path: Path) -> None:
    write_scores(tmp_path, "phase1", "base", [unit("mmlu", 60.0), unit("bbh", 60.0)])
    # the difference's standard error is sqrt(0.5)
    fall = 2 * math.sqrt(0.5)
    write_scores(
        tmp_path,
        "phase2",
        "base",
        [unit("mmlu", 60.0 - fall - 0.01), unit("bbh", 60.0 - fall + 0.01)],
    )
    page = report(tmp_path)
    assert page.cells("mmlu")["phase2"].endswith("▼")
    assert not page.cells("bbh")["phase2"].endswith("▼")
    remark = "-2.0 standard errors from the model before"
    assert page.cells("phase2", remark)["units"] == "mmlu"


def test_a_former_stages_final_model_counts_and_not_its_variants(tmp_path: Path) -> None:
    write_scores(tmp_path, "lce_32k", "base", [unit("mmlu", 90.0)], label="unmerged")
    write_scores(tmp_path, "lce_32k", "base", [unit("mmlu", 60.0)])
    write_scores(tmp_path, "lce_128k", "base", [unit("mmlu", 60.0)])
    page = report(tmp_path)
    row = page.cells("mmlu")
    assert list(row)[-3:] == ["lce_32k unmerged", "lce_32k", "lce_128k"]
    assert not row["lce_128k"].endswith("▼")


def z(before: Unit, after: Unit) -> float | None:
    evaluation = replace(EMPTY, units=[after])
    return Entry("b", "", evaluation, None, {before.name: before}).z(after.name)


def test_lower_is_better_for_bits_per_byte() -> None:
    text = {"higher_is_better": False, "percent": False}
    before = unit("smoke_text", 1.0, 0.01, **text)
    after = unit("smoke_text", 1.1, 0.01, **text)
    assert z(before, after) == pytest.approx(-0.1 / math.hypot(0.01, 0.01))
    assert z(replace(before, stderr=None), replace(after, stderr=None)) is None


def test_ruler_has_means_curves_and_a_heat_map(tmp_path: Path) -> None:
    write_scores(tmp_path, "lce_32k", "long-context", ruler(85.0, (4096, 32768)), label="unmerged")
    write_scores(tmp_path, "lce_32k", "long-context", ruler(90.0, (4096, 32768)))
    page = report(tmp_path)
    # sqrt(13 x 4) / 13
    assert page.cells("mean@32768")["lce_32k"] == "90.00 ± 0.55"
    assert page.cells("mean@131072")["IBM 8b"] == "73.00"
    lengths = [row[0] for row in page.rows if row[0].startswith("mean@")]
    assert lengths == ["mean@4096", "mean@32768", "mean@65536", "mean@131072"]
    assert page.cells("niah_single_1") == {
        "task": "niah_single_1",
        "4K": "85.00 ± 2.00",
        "32K": "85.00 ± 2.00",
    }
    heat = [
        attrs["class"]
        for tag, attrs in page.tags
        if tag == "td" and "heat" in (attrs.get("class") or "")
    ]
    assert len(heat) == 2 * (13 * 2 + 2)
    assert page.points("IBM 8b") == [3]
    assert page.points("lce_32k unmerged") == page.points("lce_32k") == [2]
    colors = [name for name in ("ink", "c0", "c1", "c2") if page.has_curve_in(name)]
    assert colors == ["ink", "c1", "c2"]
    row = page.cells("lce_32k", "4K")
    assert (row["least fill"], row["mean fill"], row["truncated"], row["corpus"]) == (
        "96.0%",
        "98.0%",
        "0",
        "published",
    )
    assert "| mean@131072 | - | 73.00 | - | - |" in (tmp_path / "evaluation.md").read_text()


def test_the_fallback_corpus_is_said_before_any_number(tmp_path: Path) -> None:
    write_scores(tmp_path, "lce_32k", "long-context", ruler(85.0, (4096,), corpus="fallback"))
    page = report(tmp_path)
    assert page.words.index(FALLBACK) < page.words.index(
        "lce_32k"
    )  # its first mention is in the warning
    assert ("p", {"class": "warning"}) in page.tags
    assert FALLBACK in (tmp_path / "evaluation.md").read_text()


def test_missing_failed_and_unavailable_units_are_named(tmp_path: Path) -> None:
    write_scores(
        tmp_path,
        "phase1",
        "base",
        [unit("mmlu", 60.0)],
        expected=["mmlu", "drop", "bbh"],
        failures={"drop": "took more than 5 s"},
        left_out={"humaneval": "runs code"},
    )
    page = report(tmp_path)
    assert page.cells("phase1", "no result: took more than 5 s")["units"] == "drop"
    assert page.cells("phase1", "no result: has not been run")["units"] == "bbh"
    assert page.cells("drop")["phase1"] == "failed"
    assert page.cells("phase1")["units"] == "1 of 3"
    remarks = {row[-1]: row[1] for row in page.rows if row[0] == "-"}
    assert remarks["humaneval"] == "not run: runs code"
    assert "antlr" in remarks["minerva_math"]
    assert "Granite 4.0" in remarks["mgsm"]


def test_a_name_with_an_odd_length_is_shown(tmp_path: Path) -> None:
    names = ["mmlu@", "mmlu@x", "mmlu@" + "9" * 5000]
    write_scores(tmp_path, "phase1", "base", [unit("mmlu", 60.0)], expected=names)
    remark = "no result: has not been run"
    assert report(tmp_path).cells("phase1", remark)["units"] == ", ".join(names)


def test_other_settings_are_listed(tmp_path: Path) -> None:
    found = [unit("vt", 80.0, 1.0, 4096, settings={"settings_variant": "compact"})]
    write_scores(
        tmp_path,
        "lce_32k",
        "long-context",
        [*found, unit("cwe", 80.0, 1.0, 4096, settings={"settings_variant": "published"})],
    )
    write_scores(
        tmp_path, "phase1", "base", [unit("mmlu", 60.0, settings={"num_fewshot": 0})], limit=8
    )
    page = report(tmp_path)
    assert (
        page.cells("lce_32k", "RULER's settings are compact, not the published ones")["units"]
        == "vt@4096"
    )
    assert page.cells("phase1", "0 examples in the prompt, not 5")["units"] == "mmlu"
    assert page.cells("phase1", "8 samples of each task")["units"] == "all"


def test_gates_are_shown_with_what_failed(tmp_path: Path) -> None:
    against = gates.published("base", "8b")
    for stage, score in (("phase1", 60.0), ("phase2", 73.0)):
        found = [unit("mmlu", score)]
        folder = write_scores(tmp_path, stage, "base", found)
        checks = gates.gate(replace(EMPTY, units=found, expected=["mmlu"]), against)
        gates.write_gate(folder, checks, against=against)
    write_scores(tmp_path, "phase3", "base", [unit("mmlu", 73.0)])
    page = report(tmp_path)
    assert [page.cells(stage)["gate"] for stage in ("phase1", "phase2", "phase3")] == [
        "failed",
        "passed",
        "-",
    ]
    assert page.cells("phase1", "failed", "mmlu")["expected"] == "70.6"
    assert page.cells("phase2", "passed", "mmlu")["found"] == "73"
    assert "Gate: 1 of 2 checks failed" in page.words


def test_what_files_hold_is_escaped(tmp_path: Path) -> None:
    folder = write_scores(
        tmp_path,
        "phase1",
        "base",
        [unit("mmlu", 60.0), unit(SCRIPT, 1.0)],
        label=SCRIPT.replace("/", ""),
        model=SCRIPT,
        failures={SCRIPT: SCRIPT},
        left_out={SCRIPT: SCRIPT},
        finished="a | b",
    )
    check = {"name": SCRIPT, "ok": False, "found": "\ud800", "expected": None, "reason": SCRIPT}
    (folder / "gate.json").write_text(json.dumps({"passed": False, "checks": [check]}))
    write_scores(
        tmp_path, "lce_32k", "long-context", ruler(80.0, (4096,)), label=SCRIPT.replace("/", "")
    )
    page = report(tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in (tmp_path / "evaluation.html").read_text().lower()
    assert page.words.count(SCRIPT) > 3
    markdown = (tmp_path / "evaluation.md").read_text()
    assert "<script" not in markdown
    assert "a \\| b" in markdown


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_said(tmp_path: Path, score: float) -> None:
    write_scores(tmp_path, "phase1", "base", [unit("mmlu", score, math.nan)])
    write_scores(tmp_path, "lce_32k", "long-context", ruler(score, (4096,)))
    page = report(tmp_path)
    assert page.cells("mmlu")["phase1"] == "no number"
    assert page.cells("niah_single_1")["4K"] == "no number"
    assert "mean@4096" not in page.words
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())["evaluations"][0]["units"][0][
            "score"
        ]
        is None
    )


def test_damaged_files_are_named_and_end_nothing(tmp_path: Path) -> None:
    write_scores(tmp_path, "phase2", "base", [unit("mmlu", 60.0)])
    good = asdict(replace(EMPTY, units=[unit("mmlu", 60.0)]))
    first = good["units"][0]
    damages = {
        "phase1": ("{", "is not valid JSON"),
        "phase3": (json.dumps({**good, "size": ["8b"]}), "key 'size' holds ['8b']"),
        "phase4": (json.dumps({**good, "suite": "other"}), "unknown suite 'other'"),
        "lce_32k": (
            json.dumps({**good, "units": [{**first, "score": "60"}]}),
            "key 'units.score' holds '60' (str)",
        ),
        "lce_128k": (
            json.dumps({**good, "units": [{**first, "length": -4}]}),
            "mmlu@-4 has a length that is not positive",
        ),
        "lce_512k": (
            json.dumps({**good, "units": [{**first, "samples": 10**400}]}),
            "key 'units.samples' holds a number beyond all bounds",
        ),
        "sft": (json.dumps({**good, "expected": [None]}), "key 'expected' holds [None]"),
        "rlvr": (json.dumps({**good, "failures": []}), "key 'failures' holds [] (list)"),
        "rl_math": ("\udcff", "is not UTF-8 text"),
    }
    for stage, (damage, _) in damages.items():
        path = tmp_path / stage / "eval/base/evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    (tmp_path / "phase2/eval/base/gate.json").write_text("[]")
    page = report(tmp_path)
    assert page.cells("mmlu")["phase2"] == "60.00 ± 0.50"
    for stage, (_, problem) in damages.items():
        line = next(line for line in page.words.splitlines() if line.startswith(f"{stage}/eval/"))
        assert line.startswith(f"{stage}/eval/base/evaluation.json: ")
        assert problem in line


def test_a_run_without_evaluations_says_so(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert "There are no evaluations yet." in page.words
    assert "There are no evaluations yet." in (tmp_path / "evaluation.md").read_text()
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", "holds a JSON list"),
        (b'{"passed"', "is not valid JSON"),
        (b"\xff", "is not UTF-8 text (byte 0)"),
        (b'{"passed": "yes", "checks": []}', "key 'passed' holds 'yes' (str)"),
        (b'{"passed": true, "checks": {}}', "key 'checks' holds {} (dict)"),
    ],
)
def test_a_damaged_gate_is_listed(tmp_path: Path, content: bytes, problem: str) -> None:
    folder = write_scores(tmp_path, "phase1", "base", [unit("mmlu", 60.0)])
    (folder / "gate.json").write_bytes(content)
    page = report(tmp_path)
    assert f"phase1/eval/base/gate.json: {problem}" in page.words
    assert "gate" not in page.cells("phase1")
    assert page.cells("mmlu")["phase1"] == "60.00 ± 0.50"


def test_metrics_that_are_not_in_percent_are_named(tmp_path: Path) -> None:
    bits = {"percent": False, "metric": "bits_per_byte,none"}
    text = replace(unit("smoke_text", 2.5, None), **bits)
    write_scores(tmp_path, "phase1", "smoke", [unit("smoke_cloze", 60.0), text], size="tiny")
    page = report(tmp_path)
    assert page.cells("smoke_text")["phase1"] == "2.500"
    assert page.cells("smoke_text")["metric"] == "bits_per_byte"


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
        "metric": "acc",
        "IBM's setting": "5-shot",
        "IBM 8b": "73.60",
        "a": "60.00 ± 0.30",
        "b": "62.00 ± 0.30",
        "b - a": "+2.000",
        "z": "+4.7 ▲",
    }
    assert page.cells("bbh")["z"] == "+0.0"
    mean = page.cells("mean@32768")
    assert (mean["IBM 8b"], mean["b - a"], mean["z"]) == ("83.60", "+2.000", "+2.5 ▲")
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
    with pytest.raises(UserError, match="no evaluation of the same stage"):
        compare(a, other, tmp_path / "c")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a = write_scores(tmp_path / "x", "phase1", "base", [unit("mmlu", 60.0)])
    write_scores(tmp_path / "y", "phase2", "base", [unit("mmlu", 60.0)])
    for left, right in ((tmp_path / "x", a), (tmp_path / "none", tmp_path / "x")):
        with pytest.raises(
            UserError, match=r"holds no evaluations|no evaluation of the same stage"
        ):
            compare(left, right, tmp_path / "c")
    with pytest.raises(UserError, match="no evaluation of the same stage"):
        compare(tmp_path / "x", tmp_path / "y", tmp_path / "c")
    assert not list(tmp_path.glob("c.*"))


def test_lengths_are_written_as_the_field_does() -> None:
    assert [length_name(length) for length in (256, 4096, 131072, 5000)] == [
        "256",
        "4K",
        "128K",
        "5,000",
    ]
