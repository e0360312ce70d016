"""The report on a run's evaluations: ``evaluation.html``, ``evaluation.md`` and ``evaluation.json``."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.gates import ruler_means
from evaluation.suites import (
    LONG_CONTEXT,
    get_suite,
    reference,
    ruler_references,
    setting,
    suite_names,
    unavailable,
)
from recipes.common.files import write_text
from recipes.common.json_files import write_json
from recipes.reports import scores
from recipes.reports.document import Block, Cell, Document, Note, Section, Table
from recipes.reports.evaluation_files import MARKED, Entry, read_entries, regressions
from recipes.reports.html import write_html
from recipes.reports.markdown import write_markdown
from recipes.reports.run import problem_section, require_run_folder
from recipes.reports.values import as_list, as_number, formatted

# rows beyond which a table of details is folded
MOST_ROWS = 10
SUFFIXES = (".html", ".md", ".json")
SCORE_NOTE = (
    f"Score ± standard error, in percent unless said otherwise; {scores.WORSE} marks what is worse "
    f"than after the stage before by more than {MARKED:g} standard errors of the difference."
)

Worse = dict[tuple[int, str], float]


def write_report(run_folder: Path) -> Path:
    """Write ``evaluation.html``, ``.md`` and ``.json`` for a run and return the first's path.

    Evaluations are at ``STAGE/eval/NAME``; damaged ones are listed in the report.

    Raises:
        UserError: the folder does not exist.
    """
    require_run_folder(run_folder)
    entries, problems = read_entries(run_folder)
    sections = problem_section(problems)
    if entries:
        sections.append(_overview(entries))
    else:
        sections.append(Section("Overview", [Note("There are no evaluations yet.")]))
    for suite in suite_names():
        members = [entry for entry in entries if entry.evaluation.suite == suite]
        if members:
            sections.append(_suite_section(suite, members))

    document = Document(f"Evaluation of {run_folder.resolve().name}", subtitle(entries), sections)
    content = {"evaluations": [plain(entry) for entry in entries], "problems": problems}
    return write_documents(run_folder / "evaluation", document, content)


def write_documents(path: Path, document: Document, content: dict[str, Any]) -> Path:
    """Write a report as HTML, Markdown and JSON and return the first's path."""
    # names may hold dots, which with_suffix would cut
    html, markdown, data = (path.with_name(path.name + suffix) for suffix in SUFFIXES)
    write_json(data, _finite(content))
    write_text(markdown, write_markdown(document))
    write_text(html, write_html(document))
    return html


def plain(entry: Entry) -> dict[str, Any]:
    """Return an entry for JSON."""
    return {"path": entry.path, **asdict(entry.evaluation), "gate": entry.gate}


def subtitle(entries: Sequence[Entry]) -> str:
    """Return the sizes of the models."""
    sizes = dict.fromkeys(entry.evaluation.size for entry in entries)
    return f"Granite 4.1, size {', '.join(sizes)}" if sizes else ""


def _finite(value: Any) -> Any:
    """Return ``value`` with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _overview(entries: Sequence[Entry]) -> Section:
    rows = []
    for entry in entries:
        evaluation = entry.evaluation
        expected = evaluation.expected
        done = sum(name in entry.units for name in expected)
        rows.append(
            [
                evaluation.stage,
                evaluation.label or None,
                evaluation.suite,
                Cell(f"{done} of {len(expected)}", "" if done == len(expected) else "bad"),
                scores.gate_cell(entry),
                "all" if evaluation.limit is None else evaluation.limit,
                evaluation.backend.get("name"),
                evaluation.model,
                evaluation.finished or None,
            ]
        )

    header = [
        "stage",
        "label",
        "suite",
        "units",
        "gate",
        "samples per task",
        "backend",
        "model",
        "finished",
    ]
    blocks: list[Block] = [*scores.warnings(entries), Table("Evaluations", header, rows)]
    return Section("Overview", blocks, "overview")


def _suite_section(suite: str, entries: Sequence[Entry]) -> Section:
    worse = regressions(entries)
    is_ruler = suite == LONG_CONTEXT
    blocks: list[Block] = [*scores.warnings(entries)] if is_ruler else []
    blocks.append(Note(SCORE_NOTE))
    blocks += _ruler_blocks(entries, worse) if is_ruler else [_scores(suite, entries, worse)]
    blocks += [
        _regressions(entries, worse),
        scores.missing_table(entries),
        scores.settings_table(entries),
        _gates(entries),
        _benchmarks(suite, entries),
    ]

    title = get_suite(suite, entries[0].evaluation.size).title
    shown = [block for block in blocks if not isinstance(block, Table) or block.rows]
    return Section(f"{suite}: {title}", shown, suite)


def _scores(suite: str, entries: Sequence[Entry], worse: Worse) -> Table:
    tasks = get_suite(suite, entries[0].evaluation.size).tasks
    requested: dict[str, None] = {}
    for entry in entries:
        requested |= dict.fromkeys((*entry.evaluation.expected, *entry.units))
    available = [task.name for task in tasks.values() if not task.unavailable]
    names = list(dict.fromkeys((*available, *requested)))

    def score(name: str, size: str) -> float | None:
        return reference(suite, name, size) if name in tasks else None

    published = _published(entries, score, names)
    rows = []
    for name in names:
        references = [column[name] for column in published.values()]
        if name not in requested and not any(references):
            continue
        row = [name, setting(suite, name), *map(scores.published_cell, references)]
        for position, entry in enumerate(entries):
            row.append(scores.score_cell(entry, name, (position, name) in worse))
        rows.append(row)

    header = ["benchmark", "IBM's setting", *published, *(entry.name for entry in entries)]
    return scores.without_empty_column(Table("Scores", header, rows), 1)


def _published(
    entries: Sequence[Entry], score: Callable[[Any, str], float | None], names: Iterable[Any]
) -> dict[str, dict[Any, float | None]]:
    """Return the columns of IBM's scores, one for each size that has any."""
    columns = {}
    for size in dict.fromkeys(entry.evaluation.size for entry in entries):
        column = {name: score(name, size) for name in names}
        if any(value is not None for value in column.values()):
            columns[f"IBM {size}"] = column
    return columns


def _ruler_blocks(entries: Sequence[Entry], worse: Worse) -> list[Block]:
    means = [ruler_means(entry.evaluation) for entry in entries]
    lengths: set[int] = set()
    for entry in entries:
        lengths |= {unit.length for unit in entry.evaluation.units if unit.length}
        lengths |= ruler_references(entry.evaluation.size).keys()

    published = _published(entries, lambda n, size: ruler_references(size).get(n), lengths)
    rows = []
    for length in sorted(lengths):
        row: list[Any] = [scores.length_name(length)]
        row += [scores.published_cell(column[length]) for column in published.values()]
        row += [scores.mean_cell(mean.get(length), heat=True) for mean in means]
        rows.append(row)

    header = ["length", *published, *(entry.name for entry in entries)]
    note = "The unweighted mean of the thirteen tasks, where all of them have a score."
    curves = {f"IBM {entry.evaluation.size}": entry.evaluation.size for entry in entries}
    references = {name: ruler_references(size) for name, size in curves.items()}
    chart = scores.ruler_chart(
        {name: column for name, column in references.items() if column},
        {entry.name: entry for entry in entries},
    )
    blocks: list[Block] = [Table("Mean by length", header, rows, note), chart]
    for position, entry in enumerate(entries):
        blocks += [_heat_map(entry, position, worse), _prompts(entry)]
    return blocks


def _heat_map(entry: Entry, position: int, worse: Worse) -> Table:
    units = entry.evaluation.units
    lengths = sorted({unit.length for unit in units if unit.length})
    rows = []
    for task in dict.fromkeys(unit.task for unit in units):
        row: list[Any] = [task]
        for length in lengths:
            name = f"{task}@{length}"
            row.append(scores.score_cell(entry, name, (position, name) in worse, heat=True))
        rows.append(row)
    header = ["task", *map(scores.length_name, lengths)]
    return Table(f"{entry.name}: tasks by length", header, rows)


def _prompts(entry: Entry) -> Table:
    rows = []
    for length in sorted({unit.length for unit in entry.evaluation.units if unit.length}):
        units = [unit for unit in entry.evaluation.units if unit.length == length]
        least = [unit.fill_min for unit in units if unit.fill_min is not None]
        means = [unit.fill_mean for unit in units if unit.fill_mean is not None]
        truncated = sum(unit.truncated for unit in units)
        corpora = dict.fromkeys(unit.corpus for unit in units if unit.corpus)
        rows.append(
            [
                scores.length_name(length),
                f"{sum(unit.samples for unit in units):,}",
                formatted(min(least, default=None), ".1%"),
                formatted(sum(means) / len(means) if means else None, ".1%"),
                Cell(f"{truncated:,}", "bad" if truncated else ""),
                Cell(", ".join(corpora) or "-", "bad" if "fallback" in corpora else ""),
            ]
        )

    header = ["length", "samples", "least fill", "mean fill", "truncated", "corpus"]
    note = "Fill: the share of the length that prompt and answer take."
    return Table(f"{entry.name}: prompts", header, rows, note)


def _regressions(entries: Sequence[Entry], worse: Worse) -> Table:
    rows = []
    for (position, name), z in worse.items():
        entry = entries[position]
        rows.append([entry.name, name, scores.score_text(entry.units[name]), f"{z:.1f}"])
    header = ["model", "unit", "score", "standard errors"]
    return Table("Regressions", header, rows, "Compared with the model of the stage before.")


def _gates(entries: Sequence[Entry]) -> Table:
    """Return the checks that failed or compared something."""
    rows = []
    failed = 0
    for entry in entries:
        for check in as_list(entry.gate and entry.gate.get("checks")):
            if not isinstance(check, dict):
                continue
            is_ok = check.get("ok") is True
            if is_ok and check.get("expected") is None:
                continue
            failed += not is_ok
            verdict = Cell("passed", "good") if is_ok else Cell("failed", "bad")
            values = [_value(check.get(key)) for key in ("found", "expected")]
            rows.append([entry.name, verdict, check.get("name"), *values, check.get("reason")])

    title = f"{failed} of {len(rows)} checks failed" if failed else f"{len(rows)} checks passed"
    header = ["model", "verdict", "check", "found", "expected", "reason"]
    return Table(f"Gate: {title}", header, rows, folded=len(rows) > MOST_ROWS)


def _value(value: Any) -> Any:
    number = as_number(value)
    return value if number is None else f"{number:.4g}"


def _benchmarks(suite: str, entries: Sequence[Entry]) -> Table:
    """Return what is assumed about benchmarks, and those that were not run."""
    size = entries[0].evaluation.size
    reasons: dict[str, str] = {}
    for entry in entries:
        reasons |= entry.evaluation.left_out
    reasons |= unavailable(suite, size)

    rows = [[name, "not run", reason] for name, reason in reasons.items()]
    for task in get_suite(suite, size).tasks.values():
        if task.note:
            rows.append([task.name, "note", task.note])
    header = ["benchmark", "", "what to know"]
    return Table("About the benchmarks", header, rows, folded=len(rows) > MOST_ROWS)
