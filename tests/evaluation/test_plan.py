"""The units of an evaluation: which ones, with how many samples, and how much each costs."""

from pathlib import Path

import pytest

from evaluation.lm_eval_result import LmEvalResult
from evaluation.lm_eval_worker import UnitFailed
from evaluation.plan import Plan, PlannedUnit, plan_evaluation
from evaluation.runner import build_unit
from evaluation.suites import get_suite
from recipes.common.errors import UserError
from recipes.common.progress import Progress
from recipes.model_folder.folder import ModelFolder
from recipes.runs.commands import EvaluateOptions


def plan(suite: str = "long-context", size: str = "tiny", **more) -> Plan:
    options = EvaluateOptions(suite=suite, model="hf", size=size, **more)
    return plan_evaluation(options, ModelFolder(Path("hf"), 8192, "00"))


def test_a_long_unit_of_tiny_scores_fewer_samples() -> None:
    samples = {unit.length: unit.samples for unit in plan().units}
    assert samples == {256: 32, 8192: 2}
    assert {unit.samples for unit in plan(samples=5).units} == {5}
    assert {unit.samples for unit in plan(size="8b").units} == {500}


def test_chosen_units_are_a_part_of_all() -> None:
    chosen = plan(tasks=("niah_single_2",), lengths=(2048,))
    assert [unit.name for unit in chosen.chosen] == ["niah_single_2@2048"]
    assert {unit.length for unit in chosen.units} == {256, 2048, 8192}
    assert chosen.longest == 2048
    assert plan("smoke").longest == 0


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(UserError, match="--lengths: suite smoke has no lengths"):
        plan("smoke", lengths=(256,))
    with pytest.raises(UserError, match="hf: has 8,192 positions, but 16,384 tokens are asked for"):
        plan(lengths=(16384,))


def test_code_is_left_out_unless_allowed() -> None:
    left_out = plan("base", "8b").left_out
    assert "--allow-code" in left_out["humaneval"]
    assert "antlr" in left_out["minerva_math"]
    assert "humaneval" not in plan("base", "8b", allow_code=True).left_out


def test_the_time_left_weighs_units_by_their_tokens() -> None:
    now = 0.0
    units = plan(samples=2).chosen
    assert [unit.length for unit in units] == [256] * 3 + [8192] * 3
    progress = Progress(sum(unit.cost for unit in units), clock=lambda: now)
    # half a second a unit, and one more for 10,000 tokens
    seconds = [0.5 + unit.length * 2 / 10_000 for unit in units]
    for number, unit in enumerate(units, 1):
        now += seconds[number - 1]
        progress.advance(unit.cost)
        left = sum(seconds[number:])
        assert progress.seconds_left == pytest.approx(left, rel=0.4)


def test_a_result_without_samples_or_without_the_metric_is_none() -> None:
    unit = PlannedUnit(get_suite("smoke", "tiny").tasks["smoke_cloze"], None, None, 1.0)
    reasons = {
        "lm-eval returned no samples": result({"acc,none": 0.5}, samples=0),
        "lm-eval reported acc_norm,none, but not acc,none": result({"acc_norm,none": 0.5}, 1),
    }
    for reason, scored in reasons.items():
        with pytest.raises(UnitFailed, match=reason):
            build_unit(unit, scored, None, 0.0, "key")


def result(row: dict[str, float], samples: int) -> LmEvalResult:
    return LmEvalResult(
        row=row,
        samples=samples,
        expected=1,
        truncated=0,
        higher_is_better={},
        version=1,
        num_fewshot=0,
        task_hashes={},
    )
