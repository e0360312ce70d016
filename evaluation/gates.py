"""Whether an evaluation is good enough: against IBM's numbers, a calibrated reference and the model before a merge."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from evaluation.results import Evaluation, Unit, unit_name
from evaluation.suites import LONG_CONTEXT, get_suite, reference, ruler_references
from recipes.common.errors import UserError
from recipes.common.files import write_text
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
# settings that tell models or runs apart and not how the model was asked
_NOT_COMPARED = ("key",)


@dataclass(frozen=True)
class Verdict:
    """The result of one check.

    Attributes:
        name: the unit, ``mean@LENGTH`` or ``baseline``, and what was checked.
        ok: whether it passed; what has no reference passes.
        found, expected: numbers or words; None where there is nothing to compare.
        reason: half a sentence.
    """

    name: str
    ok: bool
    found: float | str | None
    expected: float | str | None
    reason: str


@dataclass(frozen=True)
class Reference:
    """What scores are held against.

    Attributes:
        kind: ``published``, or ``calibrated``: measured by this pipeline on IBM's released model.
        source: where it comes from, for the record.
        scores: name of a unit, for RULER ``mean@LENGTH`` -> (score, standard error or None), in the metric's unit.
        units: the units that were measured; empty where published.
    """

    kind: Kind
    source: str
    scores: dict[str, tuple[float, float | None]]
    units: dict[str, Unit]


def published(suite: str, size: str) -> Reference:
    """Return IBM's numbers for a suite and size.

    Raises:
        UserError: an unknown suite or size, or one that has no published numbers.
    """
    if suite == LONG_CONTEXT:
        found = {mean_name(length): score for length, score in ruler_references(size).items()}
    else:
        every = {task: reference(suite, task, size) for task in get_suite(suite, size).tasks}
        found = {task: score for task, score in every.items() if score is not None}
    if not found:
        raise UserError(
            f"no numbers are published for suite {suite} at size {size}; use a calibrated reference or none at all"
        )
    return Reference(
        "published", "IBM, facts.yaml", {name: (score, None) for name, score in found.items()}, {}
    )


def calibrate(evaluation: Evaluation, file: Path) -> Path:
    """Write ``evaluation``, of IBM's released model, as a calibrated reference and return its path.

    Raises:
        UserError: the evaluation fails its own checks, the fallback corpus apart: a gate compares the corpora.
    """
    failed = [
        verdict for verdict in _correctness(evaluation, allow_fallback=True) if not verdict.ok
    ]
    if failed:
        raise UserError(
            f"{evaluation.model}: its evaluation is no reference, {failed[0].name}: {failed[0].reason} "
            f"({len(failed)} checks failed); evaluate again until every unit is whole"
        )
    write_text(file, json.dumps({"kind": "calibrated", **asdict(evaluation)}, indent=2) + "\n")
    return file


def read_calibrated(file: Path, evaluation: Evaluation) -> Reference:
    """Read what :func:`calibrate` wrote, for a gate on ``evaluation``.

    Raises:
        UserError: no such file, a damaged one, or one of another suite, size or settings than the evaluation.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("kind") != "calibrated":
            raise ValueError("it is of another kind")
        found = Evaluation(**{**content, "units": [Unit(**unit) for unit in content["units"]]})
        units = {unit.name: unit for unit in found.units}
        scores = {unit.name: (float(unit.score), unit.stderr) for unit in found.units}
    except FileNotFoundError as error:
        raise UserError(
            f"{file}: no such file; write one with `granite41 eval calibrate`"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: is no calibrated reference ({error}); calibrate again") from error
    require_comparable(evaluation, found, str(file))
    if found.suite == LONG_CONTEXT:
        scores = {
            mean_name(length): mean(of)
            for length, of in _by_length(found).items()
            if _is_whole(found, of)
        }
    source = f"{file}: {found.model}, {found.fingerprint}"
    return Reference("calibrated", source, scores, units)


def require_comparable(evaluation: Evaluation, other: Evaluation, name: str) -> None:
    """Raise :class:`UserError` unless ``other`` asked its model the same as ``evaluation`` did, as far as both went."""
    if (evaluation.suite, evaluation.size) != (other.suite, other.size):
        raise UserError(
            f"{name}: is of suite {other.suite} at size {other.size}, expected {evaluation.suite} at "
            f"{evaluation.size}; name one of the same"
        )
    theirs = {unit.name: unit for unit in other.units}
    pairs = [(unit, theirs[unit.name]) for unit in evaluation.units if unit.name in theirs]
    if not pairs:
        raise UserError(
            f"{name}: has no unit in common with the evaluation; evaluate both with the same tasks and lengths"
        )
    for ours, unit in pairs:
        if differences := _differences(ours, unit):
            raise UserError(
                f"{name}: was made with other settings, {unit.name} differs in {'; '.join(differences)}; evaluate both "
                f"the same way"
            )


def gate(
    evaluation: Evaluation,
    against: Reference | None,
    *,
    baseline: Evaluation | None = None,
    allow_fallback: bool = False,
) -> list[Verdict]:
    """Return every check of ``evaluation``.

    A score passes that is at least ``reference - tolerance - Z * SE`` with the SE of both; where lower is better, at
    most its mirror image. RULER is held against references by its mean over the tasks at each length.

    Args:
        evaluation: what was measured.
        against: IBM's or calibrated numbers; None checks only that the evaluation is whole.
        baseline: the same suite on the model before a merge or a long-context stage, whose mean must not fall.
        allow_fallback: whether RULER's fallback texts are accepted.

    Raises:
        UserError: the baseline is of another suite, size or settings, or has no unit in common.
    """
    verdicts = _correctness(evaluation, allow_fallback)
    if against is not None:
        verdicts += _scores(evaluation, against)
    if baseline is not None:
        require_comparable(evaluation, baseline, f"baseline {baseline.model}")
        verdicts += _short_context(evaluation, baseline)
    return verdicts


def write_gate(
    folder: Path,
    verdicts: Sequence[Verdict],
    *,
    against: Reference | None,
    baseline: Evaluation | None = None,
    allow_fallback: bool = False,
) -> bool:
    """Write ``gate.json`` into an evaluation's folder and return whether every check passed."""
    passed = all(verdict.ok for verdict in verdicts)
    content = {
        "passed": passed,
        "reference": against and {"kind": against.kind, "source": against.source},
        "baseline": baseline and {"model": baseline.model, "fingerprint": baseline.fingerprint},
        "allow_fallback": allow_fallback,
        "z": Z.value,
        "tolerance": TOLERANCE[against.kind].value if against else None,
        "mean_drop": MEAN_DROP.value if baseline else None,
        "checks": [asdict(verdict) for verdict in verdicts],
    }
    write_text(folder / GATE, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return passed


def mean_name(length: int) -> str:
    """Return the name of RULER's mean over the tasks at ``length`` tokens."""
    return unit_name("mean", length)


def mean(units: Sequence[Unit]) -> tuple[float, float]:
    """Return the unweighted mean of the units' scores and its standard error, sqrt(sum of squares) / n."""
    return (
        sum(unit.score for unit in units) / len(units),
        math.sqrt(sum(standard_error(unit) ** 2 for unit in units)) / len(units),
    )


def ruler_means(evaluation: Evaluation) -> dict[int, tuple[float, float]]:
    """Return RULER's mean and its standard error at every length that has all tasks and finite scores."""
    return {
        length: mean(of)
        for length, of in _by_length(evaluation).items()
        if _is_whole(evaluation, of)
    }


def standard_error(unit: Unit) -> float:
    """Return the unit's standard error; where it has none, the largest that its score allows.

    The variance of n numbers between 0 and 1 with mean p is at most p (1 - p), so that the standard error of the mean
    is at most sqrt(p (1 - p) / n). A metric that is no share and has no standard error counts as exact.
    """
    if unit.stderr is not None and math.isfinite(unit.stderr):
        return unit.stderr
    if not unit.percent or unit.samples < 1 or not 0 <= unit.score <= 100:
        return 0.0
    return math.sqrt(unit.score * (100 - unit.score) / unit.samples)


def _correctness(evaluation: Evaluation, allow_fallback: bool) -> list[Verdict]:
    units = {unit.name: unit for unit in evaluation.units}
    names = list(dict.fromkeys((*evaluation.expected, *units, *evaluation.failures)))
    if not names:
        return [Verdict("units", False, 0, "1 or more", "the evaluation has no units")]
    verdicts = []
    for name in names:
        if name in units:
            found = list(_problems(units[name], allow_fallback))
            verdicts += found or [Verdict(name, True, None, None, "whole")]
        elif name in evaluation.failures:
            verdicts.append(
                Verdict(name, False, None, "a result", f"failed: {evaluation.failures[name]}")
            )
        else:
            verdicts.append(Verdict(name, False, None, "a result", "missing: it has not been run"))
    return verdicts


def _problems(unit: Unit, allow_fallback: bool) -> Iterator[Verdict]:
    """Yield what is wrong with a unit's result."""
    name = unit.name
    if not math.isfinite(unit.score):
        yield Verdict(
            f"{name} score",
            False,
            str(unit.score),
            "a finite number",
            "the score is no finite number",
        )
    if unit.samples != unit.expected:
        yield Verdict(
            f"{name} samples",
            False,
            unit.samples,
            unit.expected,
            "the number of samples is another",
        )
    if unit.truncated:
        yield Verdict(
            f"{name} truncated", False, unit.truncated, 0, "prompts were cut to the model's context"
        )
    # `not >=` also catches NaN, which JSON could not hold
    if unit.fill_min is not None and not unit.fill_min >= FILL_MIN.value:
        yield Verdict(
            f"{name} fill",
            False,
            f"{unit.fill_min:.3f}",
            FILL_MIN.value,
            "a prompt is too short for its length",
        )
    if unit.corpus == "fallback":
        allowed = "allowed: " if allow_fallback else ""
        reason = f"{allowed}the fallback corpus is not comparable with published numbers"
        yield Verdict(f"{name} corpus", allow_fallback, unit.corpus, "published", reason)


def _scores(evaluation: Evaluation, against: Reference) -> Iterator[Verdict]:
    tolerance = TOLERANCE[against.kind].value
    for name, units, expected in _measured(evaluation):
        if name not in against.scores:
            yield Verdict(name, True, None, None, f"no {against.kind} reference")
        elif len(units) < expected:
            yield Verdict(
                name, False, len(units), expected, "too few of its tasks have a finite score"
            )
        else:
            score, stderr = mean(units)
            known, known_stderr = against.scores[name]
            yield _bounded(
                name, units[0], score, known, tolerance, math.hypot(stderr, known_stderr or 0.0)
            )


def _measured(evaluation: Evaluation) -> Iterator[tuple[str, list[Unit], int]]:
    """Yield (name, units with a finite score, number that it should have) of all that a reference can be for."""
    if evaluation.suite != LONG_CONTEXT:
        yield from (
            (unit.name, [unit], 1) for unit in evaluation.units if math.isfinite(unit.score)
        )
        return
    for length, units in _by_length(evaluation).items():
        yield mean_name(length), units, len(get_suite(LONG_CONTEXT, evaluation.size).tasks)


def _short_context(evaluation: Evaluation, baseline: Evaluation) -> Iterator[Verdict]:
    before = {unit.name: unit for unit in baseline.units if math.isfinite(unit.score)}
    after = [unit for unit in evaluation.units if unit.name in before and math.isfinite(unit.score)]
    for percent in (True, False):
        ours = [unit for unit in after if unit.percent == percent]
        if ours:
            theirs = [before[unit.name] for unit in ours]
            (score, stderr), (known, known_stderr) = mean(ours), mean(theirs)
            name = f"baseline, mean of {len(ours)}" + ("" if percent else f", {ours[0].metric}")
            yield _bounded(
                name, ours[0], score, known, MEAN_DROP.value, math.hypot(stderr, known_stderr)
            )


def _bounded(
    name: str, like: Unit, score: float, known: float, points: float, stderr: float
) -> Verdict:
    """Return whether ``score`` is at most tolerance and Z standard errors worse than ``known``."""
    tolerance = points if like.percent else RELATIVE.value * points * abs(known)
    slack = tolerance + Z.value * stderr
    ok, bound = (
        (score >= known - slack, known - slack)
        if like.higher_is_better
        else (score <= known + slack, known + slack)
    )
    sign = "-" if like.higher_is_better else "+"
    reason = (
        f"bound {bound:.4g} = {known:.4g} {sign} {tolerance:.3g} {sign} {Z.value:g} x {stderr:.3g}"
    )
    return Verdict(name, ok, score, bound, reason if ok else f"worse than the {reason}")


def _differences(ours: Unit, theirs: Unit) -> list[str]:
    """Return in words how two results of a unit were got differently."""

    def facts(unit: Unit) -> dict[str, Any]:
        settings = {
            name: value for name, value in unit.settings.items() if name not in _NOT_COMPARED
        }
        return settings | {"metric": unit.metric, "corpus": unit.corpus, "samples": unit.samples}

    mine, other = facts(ours), facts(theirs)
    return [
        f"{name}: {_short(other.get(name))} there and {_short(mine.get(name))} here"
        for name in sorted(mine.keys() | other.keys())
        if mine.get(name) != other.get(name)
    ]


def _short(value: Any, most: int = 60) -> str:
    # the hashes of a group's tasks fill pages
    return repr(value) if len(repr(value)) <= most else f"{repr(value)[:most]}..."


def _by_length(evaluation: Evaluation) -> dict[int, list[Unit]]:
    """Return RULER's units with a finite score at each length, in tokens and ascending."""
    lengths = sorted({unit.length for unit in evaluation.units if unit.length is not None})
    return {
        length: [
            unit for unit in evaluation.units if unit.length == length and math.isfinite(unit.score)
        ]
        for length in lengths
    }


def _is_whole(evaluation: Evaluation, units: Iterable[Unit]) -> bool:
    return {unit.task for unit in units} == set(get_suite(LONG_CONTEXT, evaluation.size).tasks)
