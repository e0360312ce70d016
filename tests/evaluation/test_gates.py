"""Gates: both sides of each bound, every reason to fail, calibrated references, the baseline."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import gates
from evaluation.results import (
    UNIT,
    Evaluation,
    Unit,
    read_unit,
)
from evaluation.suites import get_suite, units
from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from recipes.common.json_files import write_record

SETTINGS = {"num_fewshot": 5, "chat_template": False, "key": "depends on the model"}


def unit(task: str = "mmlu", score: float = 75.0, stderr: float | None = 0.5, **more: Any) -> Unit:
    values: dict[str, Any] = {"length": None, "metric": "acc,none", "samples": 100, "expected": 100}
    return Unit(
        task=task, score=score, stderr=stderr, settings=dict(SETTINGS), **{**values, **more}
    )


def evaluation(found: list[Unit], suite: str = "base", **more: Any) -> Evaluation:
    values: dict[str, Any] = {
        "size": "8b",
        "stage": "phase4",
        "label": "",
        "model": "hf",
        "fingerprint": "00",
        "backend": {},
        "limit": None,
        "expected": [unit.name for unit in found],
        "failures": {},
        "versions": {"lm-eval": "0.4.13"},
        "finished": "2026-05-01T00:00:00+00:00",
    }
    return Evaluation(suite=suite, units=found, **{**values, **more})


def ruler(score: float = 80.0, lengths: tuple[int, ...] = (32768,), **more: Any) -> Evaluation:
    found = [
        unit(task.name, score, 2.0, length=length, corpus="published", fill_min=0.97, **more)
        for task, length in units("long-context", "8b", lengths)
    ]
    return evaluation(found, "long-context")


def failed(checks: list[CheckResult]) -> list[CheckResult]:
    return [check for check in checks if not check.ok]


def test_the_bound_against_published_scores() -> None:
    # IBM's 73.60, tolerance 2.0, two standard errors of 0.5
    against = gates.published("base", "8b")
    (_, check) = gates.gate(evaluation([unit(score=70.61)]), against)
    assert check.ok
    assert check.name == "mmlu"
    assert check.expected == pytest.approx(70.60)
    (check,) = failed(gates.gate(evaluation([unit(score=70.59)]), against))
    assert check.name == "mmlu"
    assert check.found == 70.59
    assert check.reason == "worse than the bound 70.6 = 73.6 - 2 - 2 x 0.5"


def test_a_benchmark_may_have_a_least_score() -> None:
    least = get_suite("chat", "tiny").tasks["chat_string"].least
    assert least
    for score, ok in ((least, True), (least - 0.1, False)):
        found = evaluation([unit("chat_string", score, None)], "chat", size="tiny")
        whole, check = gates.gate(found, None)
        assert (whole.ok, check.ok) == (True, ok)
        assert (check.name, check.found, check.expected) == ("chat_string least", score, least)
    # nothing is asked of the others
    found = evaluation([unit("chat_arithmetic", 0.0, None)], "chat", size="tiny")
    assert len(gates.gate(found, None)) == 1


def test_rulers_mean_is_compared_with_ibms() -> None:
    # IBM's 83.6 at 32K; the standard error of the mean is sqrt(13 x 4) / 13
    stderr = math.sqrt(13 * 4) / 13
    bound = 83.6 - 2 - 2 * stderr
    against = gates.published("long-context", "8b")
    for score, passes in ((bound + 0.01, True), (bound - 0.01, False)):
        check = gates.gate(ruler(score), against)[-1]
        assert check.name == "mean@32768"
        assert check.expected == pytest.approx(bound)
        assert check.ok is passes
    assert gates.ruler_means(ruler(80.0)) == {32768: (pytest.approx(80.0), pytest.approx(stderr))}


def test_a_length_or_unit_without_reference_is_said_and_passes() -> None:
    check = gates.gate(ruler(1.0, (4096,)), gates.published("long-context", "8b"))[-1]
    assert check == CheckResult("mean@4096", True, None, None, "no published reference")
    check = gates.gate(evaluation([unit("extra")]), gates.published("base", "8b"))[-1]
    assert check.reason == "no published reference"


def test_a_reference_that_does_not_exist_is_an_error() -> None:
    for suite in ("base", "long-context"):
        with pytest.raises(
            UserError, match=f"no numbers are published for suite {suite} at size tiny"
        ):
            gates.published(suite, "tiny")
    with pytest.raises(UserError, match="suite smoke at size 8b"):
        gates.published("smoke", "8b")


@pytest.mark.parametrize(
    ("result", "name", "reason"),
    [
        ({"samples": 99}, "mmlu samples", "number of samples is not the expected one"),
        ({"truncated": 1}, "mmlu truncated", "were cut"),
        ({"fill_min": 0.949}, "mmlu fill", "too short"),
        ({"fill_min": math.nan}, "mmlu fill", "too short"),
        ({"corpus": "fallback"}, "mmlu corpus", "fallback corpus"),
        ({"score": math.nan}, "mmlu score", "no finite number"),
        ({"score": math.inf}, "mmlu score", "no finite number"),
    ],
)
def test_what_fails_a_unit(result: dict[str, Any], name: str, reason: str) -> None:
    (check,) = failed(gates.gate(evaluation([unit(**result)]), None))
    assert check.name == name
    assert reason in check.reason


def test_what_just_passes() -> None:
    checks = gates.gate(evaluation([unit(fill_min=0.95, corpus="published")]), None)
    assert checks == [CheckResult("mmlu", True, None, None, "whole")]


def test_missing_and_failed_units_and_no_units_at_all() -> None:
    found = evaluation(
        [unit()], expected=["mmlu", "drop", "bbh"], failures={"bbh": "took more than 5 s"}
    )
    missing, broken = failed(gates.gate(found, None))
    assert (missing.name, missing.reason) == ("drop", "missing: it has not been run")
    assert (broken.name, broken.reason) == ("bbh", "failed: took more than 5 s")
    (nothing,) = failed(gates.gate(evaluation([]), None))
    assert nothing.reason == "the evaluation has no units"


def test_rulers_mean_needs_every_task() -> None:
    whole = ruler(99.0)
    part = replace(whole, units=whole.units[1:])
    checks = failed(gates.gate(part, gates.published("long-context", "8b")))
    assert [check.name for check in checks] == ["niah_single_1@32768", "mean@32768"]
    assert gates.ruler_means(part) == {}


def test_the_fallback_corpus_may_be_allowed_and_is_recorded(tmp_path: Path) -> None:
    found = evaluation([unit(corpus="fallback")])
    assert not gates.write_gate(tmp_path, gates.gate(found, None), against=None)
    checks = gates.gate(found, None, allow_fallback=True)
    assert gates.write_gate(tmp_path, checks, against=None, allow_fallback=True)
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written["passed"] is written["allow_fallback"] is True
    assert written["checks"][0]["reason"].startswith("allowed: the fallback corpus")


def test_a_calibrated_reference_comes_back_with_its_errors(tmp_path: Path) -> None:
    reference = evaluation([unit(score=70.0, stderr=0.3), unit("drop", 60.0, 0.4)], model="ibm")
    file = gates.calibrate(reference, tmp_path / "reference.json")
    # tolerance 1.0, two standard errors of 0.5 (ours 0.4 and the reference's 0.3)
    ours = evaluation(
        [replace(unit(score=68.01, stderr=0.4), settings={**SETTINGS, "key": "another model"})]
    )
    against = gates.read_calibrated(file, ours)
    assert "ibm" in against.source
    check = gates.gate(ours, against)[-1]
    assert (check.name, check.ok, check.expected) == ("mmlu", True, pytest.approx(68.0))
    worse = replace(ours, units=[replace(ours.units[0], score=67.99)])
    assert not gates.gate(worse, against)[-1].ok
    assert gates.write_gate(tmp_path, gates.gate(ours, against), against=against)
    assert json.loads((tmp_path / "gate.json").read_text())["reference"]["kind"] == "calibrated"


def test_calibrated_ruler_is_compared_by_its_mean(tmp_path: Path) -> None:
    file = gates.calibrate(ruler(90.0, (4096, 8192)), tmp_path / "reference.json")
    stderr = math.sqrt(2) * math.sqrt(13 * 4) / 13
    ours = ruler(89.0 - 2 * stderr + 0.01, (8192, 16384))
    with_reference, without = gates.gate(ours, gates.read_calibrated(file, ours))[-2:]
    assert (with_reference.name, with_reference.ok) == ("mean@8192", True)
    assert (without.name, without.reason) == ("mean@16384", "no calibrated reference")
    worse = ruler(89.0 - 2 * stderr - 0.01, (8192,))
    assert not gates.gate(worse, gates.read_calibrated(file, worse))[-1].ok


def test_an_evaluation_with_cut_prompts_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no reference, mmlu truncated"):
        gates.calibrate(evaluation([unit(truncated=3)]), tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_a_merge_may_cost_little_of_the_mean() -> None:
    before = evaluation([unit(score=70.0, stderr=0.6), unit("drop", 60.0, 0.8)])
    # means of two: sqrt(0.36 + 0.64) / 2 = 0.5 each, so 1.0 + 2 x sqrt(0.5)
    allowed = 1.0 + 2 * math.sqrt(0.5)
    for loss, passes in ((allowed - 0.01, True), (allowed + 0.01, False)):
        after = evaluation(
            [unit(score=70.0 - 2 * loss, stderr=0.6), unit("drop", 60.0, 0.8), unit("bbh", 1.0)]
        )
        check = gates.gate(after, None, baseline=before)[-1]
        assert check.name == "baseline, mean of 2"
        assert check.expected == pytest.approx(65.0 - allowed)
        assert check.ok is passes


def test_bits_per_byte_may_rise_by_one_percent() -> None:
    text = {"metric": "bits_per_byte,none", "percent": False, "higher_is_better": False}
    before = evaluation([unit("smoke_text", 2.0, None, **text)], "smoke")
    for score, passes in ((2.0199, True), (2.0201, False), (1.0, True)):
        check = gates.gate(
            evaluation([unit("smoke_text", score, None, **text)], "smoke"), None, baseline=before
        )[-1]
        assert check.name == "baseline, mean of 1, bits_per_byte,none"
        assert check.ok is passes


def test_a_baseline_of_another_kind_is_refused() -> None:
    found = evaluation([unit()])
    with pytest.raises(UserError, match="baseline hf: is of suite smoke"):
        gates.gate(found, None, baseline=evaluation([unit()], "smoke"))
    with pytest.raises(UserError, match="samples: 50 there and 100 here"):
        gates.gate(found, None, baseline=evaluation([unit(samples=50, expected=50)]))


def test_a_standard_error_that_is_missing_is_bounded_by_the_scores() -> None:
    # sqrt(0.5 x 0.5 / 100) = 5 percent
    assert gates.standard_error(unit(score=50.0, stderr=None)) == pytest.approx(5.0)
    assert gates.standard_error(unit(score=50.0, stderr=math.nan)) == pytest.approx(5.0)
    assert gates.standard_error(unit(score=100.0, stderr=None)) == 0.0
    assert gates.standard_error(unit(score=0.9, stderr=None, percent=False)) == 0.0
    assert gates.standard_error(unit(stderr=0.7)) == 0.7


def test_every_constant_has_a_reason() -> None:
    for constant in (
        gates.Z,
        gates.MEAN_DROP,
        gates.RELATIVE,
        gates.FILL_MIN,
        *gates.TOLERANCE.values(),
    ):
        assert constant.origin == "assumed"
        assert len(constant.why) > 20
    assert len(get_suite("long-context", "8b").tasks) == 13


def test_a_gate_that_has_run_is_read(tmp_path: Path) -> None:
    assert not gates.has_passed(tmp_path)
    gates.write_gate(tmp_path, gates.gate(evaluation([unit()]), None), against=None)
    assert gates.has_passed(tmp_path)


def test_a_damaged_unit_has_no_result(tmp_path: Path) -> None:
    write_record(tmp_path / UNIT, unit())
    assert read_unit(tmp_path) == unit()
    text = (tmp_path / UNIT).read_text()
    damaged = (text[:-9], text.replace("75.0", '"75"'), text.replace('"task"', '"tsk"'), "[]")
    for content in damaged:
        (tmp_path / UNIT).write_text(content)
        assert read_unit(tmp_path) is None
