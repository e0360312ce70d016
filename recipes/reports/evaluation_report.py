"""Reports on evaluations: of a run, and of two runs or evaluations side by side."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.results import EVALUATION
from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.reports.evaluation_data import (
    Cell,
    Chart,
    Entry,
    Grid,
    Report,
    comparison,
    length_name,
    read_entry,
    read_run,
    run_report,
)
from recipes.reports.evaluation_html import page
from recipes.reports.run_data import text
from recipes.reports.run_report import MARKUP

_SUFFIXES = (".html", ".md", ".json")


def write_report(run_folder: Path) -> Path:
    """Write ``evaluation.html``, ``.md`` and ``.json`` for all evaluations of a run and return the first's path.

    Evaluations are at ``STAGE/eval/NAME``; one that is damaged is named in the report.

    Raises:
        UserError: there is no such folder.
    """
    if not run_folder.is_dir():
        raise UserError(
            f"{run_folder}: no such folder, expected a run's; name the one that `granite41 run` wrote"
        )
    entries, problems = read_run(run_folder)
    content = {"evaluations": [_plain(entry) for entry in entries], "problems": problems}
    return _write(
        run_folder / "evaluation", run_report(run_folder.resolve().name, entries, problems), content
    )


def compare(a: Path, b: Path, output: Path) -> Path:
    """Write what changes from ``a`` to ``b``, as ``output`` with the suffixes html, md and json; return the first.

    Args:
        a, b: two folders of runs, whose evaluations of the same stage, suite and label are compared, or of two
            evaluations of the same suite.
        output: the files' path, with or without one of the suffixes.

    Raises:
        UserError: a folder that is neither, one of each kind, or nothing that both have.
    """
    problems: list[str] = []
    if (a / EVALUATION).is_file() and (b / EVALUATION).is_file() and not (_is_run(a) or _is_run(b)):
        pair = (read_entry(a, a), read_entry(b, b))
        suites = [entry.evaluation.suite for entry in pair]
        if suites[0] != suites[1]:
            raise UserError(
                f"{a} is of suite {suites[0]} and {b} of {suites[1]}; name two evaluations of one suite"
            )
        pairs = [pair]
    else:
        sides = []
        for folder in (a, b):
            if not _is_run(folder):
                raise UserError(
                    f"{folder}: holds no evaluations, expected a run's folder like the other's, or two evaluations' "
                    f"folders; name two of the same kind"
                )
            entries, found = read_run(folder)
            problems += found
            sides.append({_identity(entry): entry for entry in entries})
        pairs = [(entry, sides[1][key]) for key, entry in sides[0].items() if key in sides[1]]
        if not pairs:
            raise UserError(
                f"{a} and {b} have no evaluation of the same stage, suite and label; evaluate both alike"
            )
    content = {
        "pairs": [{"a": _plain(first), "b": _plain(second)} for first, second in pairs],
        "problems": problems,
    }
    report = comparison(pairs, a.resolve().name, b.resolve().name, problems)
    return _write(output.with_suffix("") if output.suffix in _SUFFIXES else output, report, content)


def _is_run(folder: Path) -> bool:
    return next(folder.glob(f"*/eval/*/{EVALUATION}"), None) is not None


def _identity(entry: Entry) -> tuple[str | None, str, str]:
    return entry.evaluation.stage, entry.evaluation.suite, entry.evaluation.label


def _write(path: Path, report: Report, content: dict[str, Any]) -> Path:
    # names may hold dots, which with_suffix would cut
    html, markdown, data = (path.with_name(path.name + suffix) for suffix in _SUFFIXES)
    write_text(data, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
    write_text(markdown, _markdown(report))
    write_text(html, page(report))
    return html


def _plain(entry: Entry) -> dict[str, Any]:
    return {"path": entry.path, **asdict(entry.evaluation), "gate": entry.gate}


def _finite(value: Any) -> Any:
    """Return ``value`` with null for what JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(report: Report) -> str:
    lines = [
        f"# {_escaped(report.title)}",
        "",
        *([_escaped(report.subtitle), ""] if report.subtitle else []),
    ]
    if not report.sections:
        lines += ["There are no evaluations yet.", ""]
    if report.problems:
        lines += [
            "## What could not be read",
            "",
            *(f"- {_escaped(problem)}" for problem in report.problems),
            "",
        ]
    for section in report.sections:
        lines += [f"## {_escaped(section.title)}", ""]
        lines += [f"**{_escaped(warning)}**\n" for warning in section.warnings]
        lines += [f"{_escaped(note)}\n" for note in section.notes]
        for block in section.blocks:
            lines += _points(block) if isinstance(block, Chart) else _table(block)
    return "\n".join(lines)


def _table(grid: Grid) -> list[str]:
    rows = [grid.header, *([cell.text for cell in row] for row in grid.rows)]
    lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    note = ["", _escaped(grid.note)] if grid.note else []
    return [
        f"### {_escaped(grid.title)}",
        "",
        lines[0],
        "|" + " --- |" * len(grid.header),
        *lines[1:],
        *note,
        "",
    ]


def _points(chart: Chart) -> list[str]:
    """Return a chart's curves as a table."""
    rows = [
        [Cell(line.name), Cell(length_name(at)), Cell(f"{score:.1f}")]
        for line in chart.lines
        for at, score, _ in line.points
    ]
    return _table(Grid(chart.title, ["curve", "length", "percent"], rows)) if rows else []


def _escaped(value: str) -> str:
    """Return ``value`` on one line, for Markdown to show as it is."""
    return "".join(MARKUP.get(character, character) for character in " ".join(text(value).split()))
