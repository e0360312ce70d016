"""Cells, tables and charts of scores, for the reports of one run and of a comparison."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluation.gates import ruler_means
from evaluation.results import Unit
from evaluation.suites import get_suite, reference, ruler_references
from recipes.reports.document import Block, Cell, Chart, Note, Series, Table, flagged
from recipes.reports.evaluation_files import MARKED, Entry
from recipes.reports.values import listed
from recipes.spec.sizes import SIZES

FALLBACK = "fallback corpus: not comparable with published numbers"
WORSE = "▼"
BETTER = "▲"

# mean and standard error
Score = tuple[float, float]


def length_name(length: int) -> str:
    """Return a length in tokens as the field writes it: 128K for 131072."""
    if length >= 1024 and length % 1024 == 0:
        return f"{length // 1024}K"
    return f"{length:,}"


def score_text(unit: Unit) -> str:
    """Return score ± standard error; a standard error that lm-eval does not give is left out."""
    if not math.isfinite(unit.score):
        return "no number"

    digits = 2 if unit.percent else 3
    score = f"{unit.score:.{digits}f}"
    if unit.stderr is None or not math.isfinite(unit.stderr):
        return score
    return f"{score} ± {unit.stderr:.{digits}f}"


def score_cell(entry: Entry, name: str) -> Cell:
    """Return the cell of a unit, which may have failed, not been run, or be worse than before."""
    unit = entry.units.get(name)
    if unit is None:
        return flagged("failed", True) if name in entry.evaluation.failures else Cell("-")

    text = score_text(unit)
    if name in entry.worse:
        return flagged(f"{text} {WORSE}", True)
    return flagged(text, not math.isfinite(unit.score))


def heat_cell(entry: Entry, name: str) -> Cell:
    """Return :func:`score_cell` colored by its percentage."""
    cell = score_cell(entry, name)
    unit = entry.units.get(name)
    if unit and unit.percent and math.isfinite(unit.score):
        return replace(cell, heat=unit.score)
    return cell


def mean_text(mean: Score) -> str:
    """Return a mean of RULER ± its standard error."""
    return f"{mean[0]:.2f} ± {mean[1]:.2f}"


def z_cell(z: float | None) -> Cell:
    """Return the cell of a difference in its own standard errors."""
    if z is None:
        return Cell("-")
    if z > MARKED:
        return Cell(f"{z:+.1f} {BETTER}", "good")
    if z < -MARKED:
        return Cell(f"{z:+.1f} {WORSE}", "bad")
    return Cell(f"{z:+.1f}")


def verdict_cell(passed: bool) -> Cell:
    """Return the cell of a gate or of one of its checks."""
    return Cell("passed", "good") if passed else Cell("failed", "bad")


def gate_cell(entry: Entry) -> Cell:
    """Return the cell of an evaluation's gate, which may not have been run."""
    return verdict_cell(entry.gate.passed) if entry.gate else Cell("-")


def warnings(entries: Sequence[Entry]) -> list[Block]:
    """Return what a reader must know before any number."""
    names = dict.fromkeys(entry.name for entry in entries if entry.is_fallback)
    return [Note(f"{FALLBACK} ({', '.join(names)})", "warning")] if names else []


def published_scores(suite: str, size: str) -> dict[str, float]:
    """Return IBM's scores of the benchmarks that can be run here; RULER's means are not of them."""
    published = {}
    for name, task in get_suite(suite, size).tasks.items():
        score = reference(suite, name, size)
        if score is not None and not task.unavailable:
            published[name] = score
    return published


def ruler_chart(entries: Mapping[str, Entry]) -> Chart:
    """Return IBM's and the entries' means of RULER over the lengths, by name of the curve."""
    series: dict[str, Series] = {}
    lengths: set[int] = set()
    for entry in entries.values():
        size = entry.evaluation.size
        published = ruler_references(size)
        lengths |= published.keys()
        # published means have no standard error
        points = [(float(length), score, score, score) for length, score in published.items()]
        series[f"IBM {size}"] = Series(f"IBM {size}", points, "ibm", marked=True)

    for name, entry in entries.items():
        means = ruler_means(entry.evaluation)
        lengths |= means.keys()
        points = [
            (float(length), mean, mean - stderr, mean + stderr)
            for length, (mean, stderr) in means.items()
        ]
        series[name] = Series(name, points, marked=True)

    # the axis is labeled at the lengths that have a score
    return Chart(
        title="RULER by length",
        series=list(series.values()),
        x="tokens",
        y="percent ± standard error",
        log_x=True,
        x_limits=(min(lengths, default=1) / 1.2, max(lengths, default=1) * 1.2),
        y_limits=(0.0, 100.0),
        x_ticks={length: length_name(length) for length in sorted(lengths)},
        as_table=True,
    )


def missing_table(entries: Sequence[Entry]) -> Table:
    """Return the units that have no result, with the reason."""
    rows: list[list[Any]] = []
    for entry in entries:
        failures = entry.evaluation.failures
        for name in dict.fromkeys((*entry.evaluation.expected, *failures)):
            if name not in entry.units:
                reason = failures.get(name, "has not been run")
                rows.append([entry.name, name, flagged(reason, True)])
    return Table("Units without a result", ["model", "unit", "reason"], rows)


def settings_table(entries: Sequence[Entry]) -> Table:
    """Return the units that were run with other settings than the suite's."""
    units: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for unit in entry.evaluation.units:
            for setting in _other_settings(entry, unit):
                units.setdefault((entry.name, setting), []).append(unit.name)

        limit = entry.evaluation.limit
        if limit is not None and not SIZES[entry.evaluation.size].is_tiny:
            units[entry.name, f"{limit} samples of each task"] = ["all"]

    rows: list[list[Any]] = [[*key, listed(names)] for key, names in units.items()]
    return Table("Other settings than published", ["model", "setting", "units"], rows)


def _other_settings(entry: Entry, unit: Unit) -> Iterator[str]:
    variant = unit.settings.get("settings_variant", "published")
    if variant != "published":
        yield f"RULER's settings are {variant}, not the published ones"

    task = get_suite(entry.evaluation.suite, entry.evaluation.size).tasks.get(unit.task)
    shots = unit.settings.get("num_fewshot")
    if task and None not in (task.num_fewshot, shots) and shots != task.num_fewshot:
        yield f"{shots} examples in the prompt, not {task.num_fewshot}"
