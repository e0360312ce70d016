"""Gates on an evaluation: IBM's numbers, a calibrated reference, the model before a merge."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evaluation.results import Evaluation, Unit, read_evaluation, unit_name
from evaluation.suites import LONG_CONTEXT, get_suite, reference, ruler_references
from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json, write_json
from recipes.spec.origin import assumed

GATE = "gate.json"
Kind = Literal["published", "calibrated"]

Z = assumed(2.0, "a score that is as good as the reference fails in about one of 40 checks")
TOLERANCE = {
    "published": assumed(
        2.0,
        "percentage points: IBM does not state its harness, and prompts alone move scores so much",
    ),
    "calibrated": assumed(
        1.0, "percentage points: same pipeline and settings, so that only the model differs"
    ),
}
MEAN_DROP = assumed(
    1.0, "percentage points of a suite's mean that a merge or a long-context stage may cost"
)
RELATIVE = assumed(0.01, "share of a metric that is no percentage, in place of a percentage point")
FILL_MIN = assumed(0.95, "a shorter prompt does not test its length")
# settings that identify a model or a run, and are no part of the prompt
_NOT_COMPARED = ("key",)


@dataclass(frozen=True)
class Reference:
    """Scores to compare with.

    Attributes:
        kind: ``published``, or ``calibrated``: measured by this pipeline on IBM's released model.
        source: where it comes from, for the record.
        scores: name of a unit, for RULER ``mean@LENGTH`` -> (score, standard error or None), in
            the metric's unit.
    """

    kind: Kind
    source: str
    scores: dict[str, tuple[float, float | None]]


def published(suite: str, size: str) -> Reference:
    """Return IBM's numbers for a suite and size.

    Raises:
        UserError: an unknown suite or size, or one that has no published numbers.
    """
    scores: dict[str, tuple[float, float | None]] = {}
    # IBM publishes RULER's means and the other suites' benchmarks, all without errors
    if suite == LONG_CONTEXT:
        for length, mean_score in ruler_references(size).items():
            scores[mean_name(length)] = (mean_score, None)
    else:
        for task in get_suite(suite, size).tasks:
            score = reference(suite, task, size)
            if score is not None:
                scores[task] = (score, None)

    if not scores:
        raise UserError(
            f"no numbers are published for suite {suite} at size {size}; "
            f"use a calibrated reference or none at all"
        )
    return Reference("published", "IBM, facts.yaml", scores)


def calibrate(evaluation: Evaluation, file: Path) -> Path:
    """Write ``evaluation``, of IBM's released model, as a calibrated reference; return its path.

    Raises:
        UserError: the evaluation fails its own checks. The fallback corpus is allowed, since a
            gate compares the corpora.
    """
    checks = _check_units(evaluation, allow_fallback=True)
    # a reference must be whole: a gate on it would pass what it lacks
    failed = [check for check in checks if not check.ok]
    if failed:
        raise UserError(
            f"{evaluation.model}: its evaluation is no reference, {failed[0].name}: "
            f"{failed[0].reason} ({len(failed)} checks failed); "
            f"evaluate again until every unit is whole"
        )
    write_json(file, {"kind": "calibrated", **asdict(evaluation)})
    return file


def read_calibrated(file: Path, evaluation: Evaluation) -> Reference:
    """Read the file of :func:`calibrate`, for a gate on ``evaluation``.

    Raises:
        UserError: no such file, a damaged one, or one of another suite, size or settings.
    """
    remedy = "write one with `granite41 eval calibrate`"
    content = read_json(file, remedy)
    if content.get("kind") != "calibrated":
        raise UserError(
            f"{file}: is no calibrated reference, kind is {content.get('kind')!r:.60}; {remedy}"
        )
    calibrated = parse_record(Evaluation, content, str(file), remedy)
    require_comparable(evaluation, calibrated, str(file))

    # RULER is compared by its mean at each length
    scores: dict[str, tuple[float, float | None]] = {}
    if calibrated.suite == LONG_CONTEXT:
        for length, value in ruler_means(calibrated).items():
            scores[mean_name(length)] = value
    else:
        for unit in calibrated.units:
            scores[unit.name] = (unit.score, unit.stderr)
    source = f"{file}: {calibrated.model}, {calibrated.fingerprint}"
    return Reference("calibrated", source, scores)


def require_comparable(
    evaluation: Evaluation,
    other: Evaluation,
    name: str,
) -> None:
    """Raise :class:`UserError` unless both have the same suite, size and settings of shared units.

    Args:
        name: of ``other``, for the sentence of an error.
    """
    if (evaluation.suite, evaluation.size) != (other.suite, other.size):
        raise UserError(
            f"{name}: is of suite {other.suite} at size {other.size}, expected {evaluation.suite} "
            f"at {evaluation.size}; name one of the same"
        )
    # the settings of the units that both have
    others = {unit.name: unit for unit in other.units}
    shared = [unit for unit in evaluation.units if unit.name in others]
    if not shared:
        raise UserError(
            f"{name}: has no unit in common with the evaluation; "
            f"evaluate both with the same tasks and lengths"
        )
    for unit in shared:
        differences = _differences(unit, others[unit.name])
        if differences:
            raise UserError(
                f"{name}: was made with other settings, {unit.name} differs in "
                f"{'; '.join(differences)}; evaluate both the same way"
            )


def gate_folder(
    folder: Path,
    reference_name: str,
    *,
    baseline: Evaluation | None = None,
    allow_fallback: bool = False,
) -> list[CheckResult]:
    """Check the evaluation in ``folder``, write ``gate.json`` into it and return the checks.

    Args:
        folder: an evaluation's.
        reference_name: ``published``, ``none`` or a calibrated reference's file.
        baseline: see :func:`gate`; ignored where it is of another suite.
        allow_fallback: see :func:`gate`.

    Raises:
        UserError: a damaged file, or a reference or baseline that cannot be compared.
    """
    evaluation = read_evaluation(folder)
    against = None
    if reference_name == "published":
        against = published(evaluation.suite, evaluation.size)
    elif reference_name != "none":
        against = read_calibrated(Path(reference_name), evaluation)
    # one baseline is given for all folders of a stage, whose suites differ
    if baseline and baseline.suite != evaluation.suite:
        baseline = None

    checks = gate(
        evaluation,
        against,
        baseline=baseline,
        allow_fallback=allow_fallback,
    )
    write_gate(
        folder,
        checks,
        against=against,
        baseline=baseline,
        allow_fallback=allow_fallback,
    )
    return checks


def gate(
    evaluation: Evaluation,
    against: Reference | None,
    *,
    baseline: Evaluation | None = None,
    allow_fallback: bool = False,
) -> list[CheckResult]:
    """Return every check of ``evaluation``.

    A score passes when it is at least ``reference - tolerance - Z * SE`` with the SE of both;
    where lower is better, at most ``reference + tolerance + Z * SE``. RULER is compared with
    references by its mean over the tasks at each length. Some benchmarks have a least score of
    their own in ``suites.yaml``.

    Args:
        evaluation: the one to check.
        against: IBM's or calibrated numbers; None for none.
        baseline: the same suite on the model before a merge or a long-context stage, whose mean
            must not fall.
        allow_fallback: whether RULER's fallback texts are accepted.

    Raises:
        UserError: the baseline is of another suite, size or settings, or has no unit in common.
    """
    checks = _check_units(evaluation, allow_fallback)
    checks += _check_least(evaluation)
    if against is not None:
        checks += _check_scores(evaluation, against)
    if baseline is not None:
        require_comparable(evaluation, baseline, f"baseline {baseline.model}")
        checks += _check_baseline(evaluation, baseline)
    return checks


def write_gate(
    folder: Path,
    checks: Sequence[CheckResult],
    *,
    against: Reference | None,
    baseline: Evaluation | None = None,
    allow_fallback: bool = False,
) -> bool:
    """Write ``gate.json`` into an evaluation's folder and return whether every check passed."""
    passed = all(check.ok for check in checks)
    content: dict[str, Any] = {
        "passed": passed,
        "reference": None,
        "baseline": None,
        "allow_fallback": allow_fallback,
        "z": Z.value,
        "tolerance": None,
        "mean_drop": None,
        "checks": [asdict(check) for check in checks],
    }
    if against:
        content["reference"] = {"kind": against.kind, "source": against.source}
        content["tolerance"] = TOLERANCE[against.kind].value
    if baseline:
        content["baseline"] = {"model": baseline.model, "fingerprint": baseline.fingerprint}
        content["mean_drop"] = MEAN_DROP.value
    write_json(folder / GATE, content)
    return passed


def has_passed(folder: Path) -> bool:
    """Whether the gate of the evaluation in ``folder`` has run and passed.

    Raises:
        UserError: its ``gate.json`` is damaged.
    """
    file = folder / GATE
    if not file.exists():
        return False
    remedy = "remove it and run `granite41 eval gate` again"
    passed = read_json(file, remedy).get("passed")
    if not isinstance(passed, bool):
        raise UserError(f"{file}: key 'passed' is {passed!r:.60}, expected true or false; {remedy}")
    return passed


def mean_name(length: int) -> str:
    """Return the name of RULER's mean over the tasks at ``length`` tokens."""
    return unit_name("mean", length)


def mean(units: Sequence[Unit]) -> tuple[float, float]:
    """Return the mean of the units' scores and its standard error, sqrt(sum of squares) / n."""
    score = sum(unit.score for unit in units) / len(units)
    squares = sum(standard_error(unit) ** 2 for unit in units)
    return score, math.sqrt(squares) / len(units)


def ruler_means(evaluation: Evaluation) -> dict[int, tuple[float, float]]:
    """Return RULER's mean and its standard error, for lengths with all tasks and finite scores."""
    tasks = set(get_suite(LONG_CONTEXT, evaluation.size).tasks)
    means = {}
    for length, units in _units_by_length(evaluation).items():
        if {unit.task for unit in units} == tasks:
            means[length] = mean(units)
    return means


def standard_error(unit: Unit) -> float:
    """Return the unit's standard error; where it has none, the largest that its score allows.

    The variance of n numbers between 0 and 1 with mean p is at most p (1 - p), so that the
    standard error of the mean is at most sqrt(p (1 - p) / n). A metric that is no share and has no
    standard error counts as exact.
    """
    if unit.stderr is not None and math.isfinite(unit.stderr):
        return unit.stderr
    if not unit.percent or unit.samples < 1 or not 0 <= unit.score <= 100:
        return 0.0
    return math.sqrt(unit.score * (100 - unit.score) / unit.samples)


def _check_units(evaluation: Evaluation, allow_fallback: bool) -> list[CheckResult]:
    """Check that every expected unit has a sound result."""
    units = {unit.name: unit for unit in evaluation.units}
    # in the suite's order, each once
    names = list(dict.fromkeys((*evaluation.expected, *units, *evaluation.failures)))
    if not names:
        reason = "the evaluation has no units"
        return [CheckResult("units", False, 0, "1 or more", reason)]

    checks = []
    for name in names:
        if name in units:
            problems = list(_unit_problems(units[name], allow_fallback))
            checks += problems or [CheckResult(name, True, None, None, "whole")]
            continue

        # no result: an attempt failed, or there was none
        reason = "missing: it has not been run"
        if name in evaluation.failures:
            reason = f"failed: {evaluation.failures[name]}"
        checks.append(CheckResult(name, False, None, "a result", reason))
    return checks


def _unit_problems(unit: Unit, allow_fallback: bool) -> Iterator[CheckResult]:
    """Yield a check for each problem of a unit's result."""

    def failed(
        name: str,
        found: str | float,
        expected: str | float,
        reason: str,
    ) -> CheckResult:
        return CheckResult(f"{unit.name} {name}", False, found, expected, reason)

    if not math.isfinite(unit.score):
        score = str(unit.score)
        yield failed(
            "score",
            score,
            "a finite number",
            "the score is no finite number",
        )
    if unit.samples != unit.expected:
        yield failed(
            "samples",
            unit.samples,
            unit.expected,
            "the number of samples is not the expected one",
        )
    if unit.truncated:
        yield failed(
            "truncated",
            unit.truncated,
            0,
            "prompts were cut to the model's context",
        )
    # `not >=` also catches NaN, which JSON could not hold
    if unit.fill_min is not None and not unit.fill_min >= FILL_MIN.value:
        fill = f"{unit.fill_min:.3f}"
        yield failed(
            "fill",
            fill,
            FILL_MIN.value,
            "a prompt is too short for its length",
        )
    if unit.corpus == "fallback":
        reason = "the fallback corpus is not comparable with published numbers"
        check = failed("corpus", unit.corpus, "published", reason)
        if allow_fallback:
            check = replace(check, ok=True, reason=f"allowed: {reason}")
        yield check


def _check_least(evaluation: Evaluation) -> Iterator[CheckResult]:
    """Check the scores that must reach what the suite states."""
    tasks = get_suite(evaluation.suite, evaluation.size).tasks
    for unit in _finite(evaluation.units):
        least = tasks[unit.task].least if unit.task in tasks else None
        if least is not None:
            ok = unit.score >= least
            reason = "the least score of suites.yaml" if ok else "below the least score"
            yield CheckResult(f"{unit.name} least", ok, unit.score, least, reason)


def _check_scores(evaluation: Evaluation, against: Reference) -> Iterator[CheckResult]:
    tolerance = TOLERANCE[against.kind].value
    # what has no reference passes, and says so
    for name, units, num_tasks in _scored(evaluation):
        if name not in against.scores:
            reason = f"no {against.kind} reference"
            yield CheckResult(name, True, None, None, reason)
        elif len(units) < num_tasks:
            reason = "too few of its tasks have a finite score"
            yield CheckResult(name, False, len(units), num_tasks, reason)
        else:
            yield _check_bound(name, units, against.scores[name], tolerance)


def _scored(evaluation: Evaluation) -> Iterator[tuple[str, list[Unit], int]]:
    """Yield what a reference can be for: (name, units with a finite score, number of tasks)."""
    if evaluation.suite == LONG_CONTEXT:
        num_tasks = len(get_suite(LONG_CONTEXT, evaluation.size).tasks)
        for length, units in _units_by_length(evaluation).items():
            yield mean_name(length), units, num_tasks
    else:
        for unit in _finite(evaluation.units):
            yield unit.name, [unit], 1


def _check_baseline(evaluation: Evaluation, baseline: Evaluation) -> Iterator[CheckResult]:
    """Check the mean over the units that both have, shares and other metrics apart."""
    # a unit that has no finite score is a failed check already
    before = {unit.name: unit for unit in _finite(baseline.units)}
    shared = [unit for unit in _finite(evaluation.units) if unit.name in before]
    # points of a share and bits per byte have no common mean
    for percent in (True, False):
        units = [unit for unit in shared if unit.percent == percent]
        if units:
            name = f"baseline, mean of {len(units)}"
            if not percent:
                name += f", {units[0].metric}"
            former = mean([before[unit.name] for unit in units])
            yield _check_bound(name, units, former, MEAN_DROP.value)


def _check_bound(
    name: str,
    units: Sequence[Unit],
    known: tuple[float, float | None],
    tolerance: float,
) -> CheckResult:
    """Check that the units' mean is at most tolerance and Z standard errors worse than ``known``.

    Args:
        name: of the check.
        units: of one kind of metric.
        known: the score to compare with, and its standard error.
        tolerance: percentage points; for other metrics their relative counterpart is used.
    """
    score, stderr = mean(units)
    expected, expected_stderr = known
    # the errors of two independent measurements add in squares
    stderr = math.hypot(stderr, expected_stderr or 0.0)
    if not units[0].percent:
        tolerance *= RELATIVE.value * abs(expected)
    slack = tolerance + Z.value * stderr

    # worse is below the bound, or above it where lower is better
    if units[0].higher_is_better:
        bound = expected - slack
        ok = score >= bound
        sign = "-"
    else:
        bound = expected + slack
        ok = score <= bound
        sign = "+"
    terms = f"{expected:.4g} {sign} {tolerance:.3g} {sign} {Z.value:g} x {stderr:.3g}"
    reason = f"bound {bound:.4g} = {terms}"
    if not ok:
        reason = f"worse than the {reason}"
    return CheckResult(name, ok, score, bound, reason)


def _differences(unit: Unit, other: Unit) -> list[str]:
    """Return the settings in which two results of a unit differ, in words."""
    settings = _compared_settings(unit)
    other_settings = _compared_settings(other)
    differences = []
    for name in sorted(settings | other_settings):
        value = settings.get(name)
        other_value = other_settings.get(name)
        if value != other_value:
            differences.append(f"{name}: {_shorten(other_value)} there and {_shorten(value)} here")
    return differences


def _compared_settings(unit: Unit) -> dict[str, Any]:
    settings = {name: value for name, value in unit.settings.items() if name not in _NOT_COMPARED}
    return settings | {"metric": unit.metric, "corpus": unit.corpus, "samples": unit.samples}


def _shorten(value: Any, most: int = 60) -> str:
    # the hashes of a group's tasks fill pages
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _finite(units: Iterable[Unit]) -> list[Unit]:
    return [unit for unit in units if math.isfinite(unit.score)]


def _units_by_length(evaluation: Evaluation) -> dict[int, list[Unit]]:
    """Return RULER's units with a finite score at each length, in tokens and ascending."""
    # a length whose scores are all NaN stays, with no unit, as its mean must not pass unseen
    lengths = {unit.length for unit in evaluation.units if unit.length is not None}
    by_length: dict[int, list[Unit]] = {length: [] for length in sorted(lengths)}
    for unit in _finite(evaluation.units):
        if unit.length is not None:
            by_length[unit.length].append(unit)
    return by_length
