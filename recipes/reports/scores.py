"""Tables and charts of scores, for the reports of one run and of a comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.gates import ruler_means
from evaluation.results import Unit
from evaluation.suites import get_suite
from recipes.reports.document import Axis, Cell, Chart, Note, Series, Table
from recipes.reports.evaluation_files import MARKED, Entry
from recipes.reports.values import formatted, listed
from recipes.spec.sizes import SIZES

FALLBACK = "fallback corpus: not comparable with published numbers"
WORSE = "▼"
BETTER = "▲"

# mean and standard error
Score = tuple[float, float]


def length_name(length: int) -> str:
    """Return a length in tokens as the field writes it: 128K for 131072."""
    return f"{length // 1024}K" if length >= 1024 and length % 1024 == 0 else f"{length:,}"


def score_text(unit: Unit) -> str:
    """Return score ± standard error; a standard error that lm-eval does not give is left out."""
    if not math.isfinite(unit.score):
        return "no number"
    digits = 2 if unit.percent else 3
    score = f"{unit.score:.{digits}f}"
    has_error = unit.stderr is not None and math.isfinite(unit.stderr)
    return f"{score} ± {unit.stderr:.{digits}f}" if has_error else score


def score_cell(entry: Entry, name: str, is_worse: bool = False, heat: bool = False) -> Cell:
    """Return the cell of a unit, which may have failed or not been run."""
    unit = entry.units.get(name)
    if unit is None:
        return Cell("failed", "bad") if name in entry.evaluation.failures else Cell("-")
    if not math.isfinite(unit.score):
        return Cell(score_text(unit), "bad")

    color = unit.score if heat and unit.percent else None
    if is_worse:
        return Cell(f"{score_text(unit)} {WORSE}", "bad", color)
    return Cell(score_text(unit), heat=color)


def mean_cell(mean: Score | None, heat: bool = False) -> Cell:
    """Return the cell of a mean of RULER."""
    if mean is None:
        return Cell("-")
    return Cell(f"{mean[0]:.2f} ± {mean[1]:.2f}", heat=mean[0] if heat else None)


def published_cell(score: float | None) -> Cell:
    """Return the cell of a score that IBM publishes, or does not."""
    return Cell(formatted(score, ".2f"))


def z_cell(z: float | None) -> Cell:
    """Return the cell of a difference in its own standard errors."""
    if z is None:
        return Cell("-")
    if abs(z) <= MARKED:
        return Cell(f"{z:+.1f}")
    return Cell(f"{z:+.1f} {BETTER}", "good") if z > 0 else Cell(f"{z:+.1f} {WORSE}", "bad")


def gate_cell(entry: Entry) -> Cell:
    """Return the cell of a gate."""
    if entry.gate is None:
        return Cell("-")
    return Cell("passed", "good") if entry.gate.get("passed") is True else Cell("failed", "bad")


def warnings(entries: Sequence[Entry]) -> list[Note]:
    """Return what a reader must know before any number."""
    names: list[str] = []
    for entry in entries:
        if any(unit.corpus == "fallback" for unit in entry.evaluation.units):
            names.append(entry.name)
    if not names:
        return []
    return [Note(f"{FALLBACK} ({', '.join(dict.fromkeys(names))})", "warning")]


def ruler_chart(
    published: Mapping[str, Mapping[int, float]], entries: Mapping[str, Entry]
) -> Chart:
    """Return RULER's means over the lengths, by name of the curve."""
    series: list[Series] = []
    for name, scores in published.items():
        points = [(float(length), score, score, score) for length, score in scores.items()]
        series.append(Series(name, points, "ibm", marked=True))

    for name, entry in entries.items():
        means = ruler_means(entry.evaluation)
        points = [
            (float(length), mean, mean - stderr, mean + stderr)
            for length, (mean, stderr) in means.items()
        ]
        if points:
            series.append(Series(name, points, marked=True))

    lengths = sorted({int(point[0]) for line in series for point in line.points}) or [1]
    x = Axis(
        "tokens",
        log=True,
        limits=(lengths[0] / 1.2, lengths[-1] * 1.2),
        ticks={length: length_name(length) for length in lengths},
    )
    y = Axis("percent ± standard error", limits=(0.0, 100.0))
    return Chart("RULER by length", series, x, y, as_table=True)


def missing_table(entries: Sequence[Entry]) -> Table:
    """Return the units that have no result, with the reason."""
    rows = []
    for entry in entries:
        failures = entry.evaluation.failures
        for name in dict.fromkeys((*entry.evaluation.expected, *failures)):
            if name not in entry.units:
                reason = Cell(failures.get(name, "has not been run"), "bad")
                rows.append([entry.name, name, reason])
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

    rows = [[model, setting, listed(names)] for (model, setting), names in units.items()]
    return Table("Other settings than published", ["model", "setting", "units"], rows)


def _other_settings(entry: Entry, unit: Unit) -> list[str]:
    settings: list[str] = []
    variant = unit.settings.get("rung")
    if variant not in (None, "published"):
        settings.append(f"RULER's settings are {variant}, not the published ones")

    task = get_suite(entry.evaluation.suite, entry.evaluation.size).tasks.get(unit.task)
    expected = task.num_fewshot if task else None
    shots: Any = unit.settings.get("num_fewshot")
    if None not in (expected, shots) and shots != expected:
        settings.append(f"{shots} examples in the prompt, not {expected}")
    return settings


def without_empty_column(table: Table, index: int) -> Table:
    """Return ``table`` without the column at ``index`` if that holds only dashes."""
    if any(row[index].text != "-" for row in table.cells):
        return table
    kept = [column for column in range(len(table.header)) if column != index]
    header = [table.header[column] for column in kept]
    rows = [[row[column] for column in kept] for row in table.cells]
    return Table(table.title, header, rows, table.note, table.folded)
