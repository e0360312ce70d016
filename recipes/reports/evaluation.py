"""The report on a run's evaluations: ``evaluation.html``, ``.md`` and ``.json``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.gates import ruler_means
from evaluation.results import Unit
from evaluation.suites import (
    LONG_CONTEXT,
    get_suite,
    ruler_references,
    setting,
    suite_names,
    unavailable,
)
from recipes.common.files import write_text
from recipes.reports import scores
from recipes.reports.document import Block, Cell, Document, Note, Section, Table, flagged
from recipes.reports.evaluation_files import MARKED, Entry, read_entries, regressions
from recipes.reports.html import write_html
from recipes.reports.markdown import write_markdown
from recipes.reports.run import problem_section, require_run_folder
from recipes.reports.values import as_number, formatted

# rows beyond which a table of details is folded
MOST_ROWS = 10
SUFFIXES = (".html", ".md", ".json")
SCORE_NOTE = (
    f"Score ± standard error, in percent unless said otherwise; {scores.WORSE} marks what is worse "
    f"than after the stage before by more than {MARKED:g} standard errors of the difference."
)

Row = list[Any]
Worse = dict[tuple[int, str], float]


def write_report(run_folder: Path) -> Path:
    """Write ``evaluation.html``, ``.md`` and ``.json`` for a run and return the first's path.

    Evaluations are at ``STAGE/eval/NAME``; damaged ones are listed in the report.

    Raises:
        UserError: the folder does not exist.
    """
    require_run_folder(run_folder)
    entries, problems = read_entries(run_folder)

    sections = [*problem_section(problems), _overview(entries)]
    for suite in suite_names():
        members = [entry for entry in entries if entry.evaluation.suite == suite]
        if members:
            sections.append(_suite_section(suite, members))

    document = Document(f"Evaluation of {run_folder.resolve().name}", subtitle(entries), sections)
    content = {"evaluations": [entry.to_dict() for entry in entries], "problems": problems}
    return write_documents(run_folder / "evaluation", document, content)


def write_documents(path: Path, document: Document, content: dict[str, Any]) -> Path:
    """Write a report as HTML, Markdown and JSON and return the first's path."""
    # names may hold dots, which with_suffix would cut
    html, markdown, data = (path.with_name(path.name + suffix) for suffix in SUFFIXES)
    # JSON has no NaN and no infinity
    finite = json.loads(json.dumps(content), parse_constant=lambda constant: None)
    write_text(data, json.dumps(finite, indent=2) + "\n")
    write_text(markdown, write_markdown(document))
    write_text(html, write_html(document))
    return html


def subtitle(entries: Sequence[Entry]) -> str:
    """Return the sizes of the models."""
    sizes = dict.fromkeys(entry.evaluation.size for entry in entries)
    return f"Granite 4.1, size {', '.join(sizes)}" if sizes else ""


def _overview(entries: Sequence[Entry]) -> Section:
    if not entries:
        return Section("Overview", [Note("There are no evaluations yet.")])

    rows = []
    for entry in entries:
        evaluation = entry.evaluation
        expected = len(evaluation.expected)
        done = len(entry.units.keys() & set(evaluation.expected))
        rows.append(
            {
                "stage": evaluation.stage,
                "label": evaluation.label or None,
                "suite": evaluation.suite,
                "units": flagged(f"{done} of {expected}", done < expected),
                "gate": scores.gate_cell(entry),
                "samples per task": evaluation.limit or "all",
                "backend": evaluation.backend.get("name"),
                "model": evaluation.model,
                "finished": evaluation.finished or None,
            }
        )

    cells = [list(row.values()) for row in rows]
    table = Table("Evaluations", list(rows[0]), cells)
    return Section("Overview", [*scores.warnings(entries), table], "overview")


def _suite_section(suite: str, entries: Sequence[Entry]) -> Section:
    worse = regressions(entries)
    blocks: list[Block] = [Note(SCORE_NOTE)]
    if suite == LONG_CONTEXT:
        blocks = [*scores.warnings(entries), *blocks, *_ruler_blocks(entries, worse)]
    else:
        blocks.append(_scores(suite, entries, worse))
    blocks += [
        _regressions(entries, worse),
        scores.missing_table(entries),
        scores.settings_table(entries),
        _gates(entries),
        _benchmarks(suite, entries),
    ]
    title = get_suite(suite, entries[0].evaluation.size).title
    return Section(f"{suite}: {title}", blocks, suite)


def _scores(suite: str, entries: Sequence[Entry], worse: Worse) -> Table:
    published: dict[str, dict[str, float]] = {}
    requested: dict[str, None] = {}
    for entry in entries:
        size = entry.evaluation.size
        if references := scores.published_scores(suite, size):
            published[f"IBM {size}"] = references
        requested |= dict.fromkeys((*entry.evaluation.expected, *entry.units))

    # benchmarks that were requested, or that IBM has a score for
    rows = []
    for name in dict.fromkeys((*get_suite(suite, entries[0].evaluation.size).tasks, *requested)):
        columns = [column.get(name) for column in published.values()]
        if name in requested or any(columns):
            row: Row = [name, setting(suite, name)]
            row += [formatted(score, ".2f") for score in columns]
            for position, entry in enumerate(entries):
                row.append(scores.score_cell(entry, name, (position, name) in worse))
            rows.append(row)

    header = ["benchmark", "IBM's setting", *published, *(entry.name for entry in entries)]
    return scores.without_empty_column(Table("Scores", header, rows, _metrics(entries)), 1)


def _metrics(entries: Sequence[Entry]) -> str:
    """Return the metrics of the units that are not in percent."""
    metrics: dict[str, None] = {}
    for entry in entries:
        for unit in entry.evaluation.units:
            if not unit.percent:
                metrics[f"{unit.name} ({unit.metric.partition(',')[0]})"] = None
    return f"Not in percent: {', '.join(metrics)}." if metrics else ""


def _ruler_blocks(entries: Sequence[Entry], worse: Worse) -> list[Block]:
    published: dict[str, dict[int, float]] = {}
    lengths: set[int] = set()
    for entry in entries:
        size = entry.evaluation.size
        if references := ruler_references(size):
            published[f"IBM {size}"] = references
        lengths |= {*references, *entry.by_length}
    means = {entry.name: ruler_means(entry.evaluation) for entry in entries}

    # IBM's columns, then one for each model
    rows = []
    for length in sorted(lengths):
        row: Row = [scores.length_name(length)]
        row += [formatted(column.get(length), ".2f") for column in published.values()]
        for column in means.values():
            mean = column.get(length)
            row.append(Cell(scores.mean_text(mean), heat=mean[0]) if mean else "-")
        rows.append(row)

    note = "The unweighted mean of the suite's tasks, where all of them have a score."
    blocks: list[Block] = [
        Table("Mean by length", ["length", *published, *means], rows, note),
        scores.ruler_chart(published, means),
    ]
    for position, entry in enumerate(entries):
        blocks += [_heat_map(entry, position, worse), _prompts(entry)]
    return blocks


def _heat_map(entry: Entry, position: int, worse: Worse) -> Table:
    rows = []
    for task in dict.fromkeys(unit.task for unit in entry.evaluation.units):
        row: Row = [task]
        for length in entry.by_length:
            name = f"{task}@{length}"
            row.append(scores.score_cell(entry, name, (position, name) in worse, heat=True))
        rows.append(row)
    header = ["task", *map(scores.length_name, entry.by_length)]
    metrics = dict.fromkeys(unit.metric for unit in entry.evaluation.units)
    return Table(f"{entry.name}: tasks by length", header, rows, f"Metric: {', '.join(metrics)}.")


def _prompts(entry: Entry) -> Table:
    rows = [_prompt_row(length, units) for length, units in entry.by_length.items()]
    header = ["length", "samples", "least fill", "mean fill", "truncated", "corpus"]
    note = "Fill: the share of the length that prompt and answer take."
    return Table(f"{entry.name}: prompts", header, rows, note)


def _prompt_row(length: int, units: Sequence[Unit]) -> Row:
    least = [unit.fill_min for unit in units if unit.fill_min is not None]
    means = [unit.fill_mean for unit in units if unit.fill_mean is not None]
    truncated = sum(unit.truncated for unit in units)
    corpora = dict.fromkeys(unit.corpus for unit in units if unit.corpus)
    return [
        scores.length_name(length),
        f"{sum(unit.samples for unit in units):,}",
        formatted(min(least, default=None), ".1%"),
        formatted(sum(means) / len(means) if means else None, ".1%"),
        flagged(f"{truncated:,}", truncated > 0),
        flagged(", ".join(corpora) or "-", "fallback" in corpora),
    ]


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
        gate = entry.gate or {"checks": []}
        for check in gate["checks"]:
            # a check that only says that a unit is whole is not worth a row
            passed = check.get("ok") is True
            if passed and check.get("expected") is None:
                continue
            failed += not passed
            row: Row = [entry.name, scores.verdict_cell(passed), check.get("name")]
            row += [_short(check.get(key)) for key in ("found", "expected", "reason")]
            rows.append(row)

    title = f"Gate: {failed} of {len(rows)} checks failed"
    if not failed:
        title = f"Gate: {len(rows)} checks passed"
    header = ["model", "verdict", "check", "found", "expected", "reason"]
    return Table(title, header, rows, folded=len(rows) > MOST_ROWS)


def _short(value: Any) -> Any:
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
