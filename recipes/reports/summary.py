"""Summary of a run in one screen: a row a stage with its tokens, loss, scores and gates."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from evaluation.results import Unit
from recipes.reports.document import Table
from recipes.reports.evaluation_files import Entry, read_entries
from recipes.reports.run import stage_cells
from recipes.reports.run_files import read_run

HEADER = ("stage", "status", "tokens", "loss", "below entropy", "gates", "mean scores")


def run_summary(run_folder: Path) -> Table:
    """Return a row a stage: what it read, its validation loss, and the scores of its final model.

    ``below entropy`` is the share by which the loss lies below the unigram entropy of the training
    blend. A score is the unweighted mean of a suite's units, in percent unless its metric is named.
    """
    entries, _ = read_entries(run_folder)
    rows = []

    for stage in read_run(run_folder).stages:
        cells = stage_cells(stage)
        final = [
            entry
            for entry in entries
            if entry.evaluation.stage == stage.name and not entry.evaluation.label
        ]
        rows.append(
            [
                stage.name,
                cells["status"],
                cells["tokens done"],
                cells["validation loss"],
                cells["below entropy"],
                _gates(final),
                "; ".join(_scores(entry) for entry in final) or "-",
            ]
        )

    return Table("Summary", HEADER, rows)


def summary_text(table: Table, width: int = 100) -> str:
    """Return ``table`` as aligned text, its last column wrapped to lines of ``width`` characters."""
    rows = [list(table.header), *([cell.text for cell in row] for row in table.cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    indent = sum(widths) + 2 * len(widths)
    # numbers are flush right
    right = table.numeric if table.rows else [False] * len(table.header)

    lines: list[str] = []
    for row in rows:
        first = "".join(
            (text.rjust(size) if flush else text.ljust(size)) + "  "
            for text, size, flush in zip(row, widths, right, strict=False)
        )
        last = textwrap.wrap(row[-1], max(width - indent, 20), break_on_hyphens=False) or [""]
        lines.append(first + last[0])
        lines += [" " * indent + line for line in last[1:]]

    return "\n".join(lines)


def _gates(entries: Sequence[Entry]) -> str:
    verdicts = [entry.gate.get("passed") is True for entry in entries if entry.gate is not None]
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
            metric = "" if unit.percent else unit.metric.partition(",")[0]
            by_metric.setdefault(metric, []).append(unit)

    means = []
    for metric, units in by_metric.items():
        mean = sum(unit.score for unit in units) / len(units)
        means.append(f"{mean:.2f} {metric}" if metric else f"{mean:.1f}")

    return f"{entry.evaluation.suite} {', '.join(means) or '-'}"
