"""Summary of a run in one screen: a row a stage with its tokens, loss, scores and gates."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from evaluation.results import Unit
from recipes.reports.document import Table
from recipes.reports.evaluation_files import Entry, read_entries
from recipes.reports.run import FACTS
from recipes.reports.run_files import read_run
from recipes.reports.values import Problems

PERCENT = "percent"
COLUMNS = ("stage", "status", "tokens done", "validation loss", "below entropy")
HEADER = ["stage", "status", "tokens", "loss", "below entropy", "gates", "mean scores"]


def run_summary(run_folder: Path) -> Table:
    """Return a row a stage: what it read, its validation loss, and the scores of its final model.

    ``below entropy`` is the share by which the loss lies below the unigram entropy of the training
    blend. A score is the unweighted mean of a suite's units, in percent unless its metric is named.
    """
    entries = read_entries(run_folder, Problems(run_folder))
    rows = []

    for stage in read_run(run_folder).stages:
        final = [
            entry
            for entry in entries
            if entry.evaluation.stage == stage.name and not entry.evaluation.label
        ]
        rows.append(
            [
                *(FACTS[name](stage) for name in COLUMNS),
                _gates(final),
                "; ".join(_scores(entry) for entry in final) or "-",
            ]
        )

    return Table("Summary", HEADER, rows)


def summary_text(table: Table, width: int = 100) -> str:
    """Return ``table`` as aligned text; the last column is wrapped to stay within ``width``."""
    rows = [table.header]
    for cells in table.cells:
        rows.append([cell.text for cell in cells])
    # columns of numbers are flush right
    numeric = table.numeric or [False] * len(table.header)
    formats = []
    for column, is_numeric in zip(zip(*rows, strict=True), numeric, strict=True):
        side = ">" if is_numeric else "<"
        formats.append(f"{side}{max(map(len, column))}")

    lines: list[str] = []
    for *first, last in rows:
        aligned = [f"{text:{form}}  " for text, form in zip(first, formats, strict=False)]
        start = "".join(aligned)
        wrapped = textwrap.wrap(last, max(width - len(start), 20), break_on_hyphens=False)
        lines.append(start + wrapped[0])
        lines += [" " * len(start) + line for line in wrapped[1:]]
    return "\n".join(lines)


def _gates(entries: Sequence[Entry]) -> str:
    verdicts = [entry.gate.passed for entry in entries if entry.gate is not None]
    if not verdicts:
        return "-"
    if all(verdicts):
        return "passed"
    return f"{verdicts.count(False)} of {len(verdicts)} failed"


def _scores(entry: Entry) -> str:
    """Return the mean of a suite's units for each metric: "smoke 41.2, 3.12 bits_per_byte"."""
    by_metric: dict[str, list[Unit]] = {}
    for unit in entry.evaluation.units:
        if math.isfinite(unit.score):
            metric, _, _ = unit.metric.partition(",")
            if unit.percent:
                metric = PERCENT
            by_metric.setdefault(metric, []).append(unit)

    # units of one metric are averaged, such as percent or bits per byte
    means = []
    for metric, units in by_metric.items():
        mean = sum(unit.score for unit in units) / len(units)
        means.append(f"{mean:.1f}" if metric == PERCENT else f"{mean:.2f} {metric}")

    return f"{entry.evaluation.suite} {', '.join(means) or '-'}"
