"""The report on a run's evaluations: ``evaluation.html``, ``.md`` and ``.json``."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation.gates import ruler_means
from evaluation.suites import (
    LONG_CONTEXT,
    get_suite,
    ruler_references,
    setting,
    suite_names,
    unavailable,
)
from recipes.common.check_result import CheckResult
from recipes.common.files import write_text
from recipes.reports import scores
from recipes.reports.document import Block, Cell, Columns, Document, Note, Section, Table, flagged
from recipes.reports.evaluation_files import MARKED, Entry, mark_regressions, read_entries
from recipes.reports.html import write_html
from recipes.reports.markdown import write_markdown
from recipes.reports.run import problem_section, require_run_folder
from recipes.reports.values import Problems, as_number, formatted

# rows beyond which a table of details is folded
MOST_ROWS = 10
SUFFIXES = (".html", ".md", ".json")
SCORE_NOTE = (
    f"Score ± standard error, in percent unless said otherwise; {scores.WORSE} marks what is worse "
    f"than after the stage before by more than {MARKED:g} standard errors of the difference."
)


def _units_done(entry: Entry) -> Cell:
    expected = entry.evaluation.expected
    done = len(entry.units.keys() & set(expected))
    return flagged(f"{done} of {len(expected)}", done < len(expected))


OVERVIEW: Columns = {
    "stage": lambda entry: entry.evaluation.stage,
    "label": lambda entry: entry.evaluation.label or None,
    "suite": lambda entry: entry.evaluation.suite,
    "units": _units_done,
    "gate": scores.gate_cell,
    "samples per task": lambda entry: entry.evaluation.limit or "all",
    "backend": lambda entry: entry.evaluation.backend.get("name"),
    "model": lambda entry: entry.evaluation.model,
    "finished": lambda entry: entry.evaluation.finished or None,
}
REGRESSIONS: Columns = {
    "model": lambda row: row[0].name,
    "unit": lambda row: row[1],
    "score": lambda row: scores.score_text(row[0].units[row[1]]),
    "standard errors": lambda row: f"{row[0].worse[row[1]]:.1f}",
}
CHECKS: Columns = {
    "model": lambda row: row[0].name,
    "verdict": lambda row: scores.verdict_cell(row[1].ok),
    "check": lambda row: row[1].name,
    "found": lambda row: _short(row[1].found),
    "expected": lambda row: _short(row[1].expected),
    "reason": lambda row: row[1].reason,
}


def write_report(run_folder: Path) -> Path:
    """Write ``evaluation.html``, ``.md`` and ``.json`` for a run and return the first's path.

    Evaluations are at ``STAGE/eval/NAME``; damaged ones are listed in the report.

    Raises:
        UserError: the folder does not exist.
    """
    require_run_folder(run_folder)
    problems = Problems(run_folder)
    entries = read_entries(run_folder, problems)

    overview = Section("Overview", [Note("There are no evaluations yet.")])
    if entries:
        table = Table.build("Evaluations", OVERVIEW, entries)
        overview = Section("Overview", [*scores.warnings(entries), table], "overview")
    sections = [*problem_section(problems), overview]
    for suite in suite_names():
        members = [entry for entry in entries if entry.evaluation.suite == suite]
        if members:
            mark_regressions(members)
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


def _suite_section(suite: str, entries: Sequence[Entry]) -> Section:
    blocks: list[Block] = [Note(SCORE_NOTE)]
    if suite == LONG_CONTEXT:
        blocks = [*scores.warnings(entries), *blocks, *_ruler_blocks(entries)]
    else:
        blocks.append(_scores(suite, entries))

    worse = [(entry, name) for entry in entries for name in sorted(entry.worse)]
    note = "Compared with the model of the stage before."
    blocks += [
        Table.build("Regressions", REGRESSIONS, worse, note),
        scores.missing_table(entries),
        scores.settings_table(entries),
        _gates(entries),
        _benchmarks(suite, entries),
    ]
    title = get_suite(suite, entries[0].evaluation.size).title
    return Section(f"{suite}: {title}", blocks, suite)


def _scores(suite: str, entries: Sequence[Entry]) -> Table:
    columns: Columns = {"benchmark": str}
    tasks = get_suite(suite, entries[0].evaluation.size).tasks
    if any(setting(suite, name) for name in tasks):
        columns["IBM's setting"] = partial(setting, suite)

    # benchmarks that were requested, or that IBM has a score for
    requested: dict[str, None] = {}
    referenced: set[str] = set()
    for entry in entries:
        size = entry.evaluation.size
        published = scores.published_scores(suite, size)
        if published:
            columns[f"IBM {size}"] = partial(_reference, published)
            referenced |= published.keys()
        requested |= dict.fromkeys((*entry.evaluation.expected, *entry.units))

    columns |= {entry.name: partial(scores.score_cell, entry) for entry in entries}
    names = dict.fromkeys((*tasks, *requested))
    rows = [name for name in names if name in requested or name in referenced]
    return Table.build("Scores", columns, rows, _metrics(entries))


def _reference(published: Mapping[Any, float], key: Any) -> str:
    return formatted(published.get(key), ".2f")


def _metrics(entries: Sequence[Entry]) -> str:
    """Return the metrics of the units that are not in percent."""
    units = [unit for entry in entries for unit in entry.evaluation.units if not unit.percent]
    names = dict.fromkeys(f"{unit.name} ({unit.metric.partition(',')[0]})" for unit in units)
    return f"Not in percent: {', '.join(names)}." if names else ""


def _ruler_blocks(entries: Sequence[Entry]) -> list[Block]:
    columns: Columns = {"length": scores.length_name}
    lengths: set[int] = set()
    for entry in entries:
        references = ruler_references(entry.evaluation.size)
        if references:
            columns[f"IBM {entry.evaluation.size}"] = partial(_reference, references)
        lengths |= {*references, *entry.lengths}
    for entry in entries:
        columns[entry.name] = partial(_mean_cell, ruler_means(entry.evaluation))

    note = "The unweighted mean of the suite's tasks, where all of them have a score."
    blocks: list[Block] = [
        Table.build("Mean by length", columns, sorted(lengths), note),
        scores.ruler_chart({entry.name: entry for entry in entries}),
    ]
    for entry in entries:
        blocks += [_heat_map(entry), _prompts(entry)]
    return blocks


def _mean_cell(means: Mapping[int, scores.Score], length: int) -> Cell:
    mean = means.get(length)
    return Cell(scores.mean_text(mean), heat=mean[0]) if mean else Cell("-")


def _heat_map(entry: Entry) -> Table:
    tasks = dict.fromkeys(unit.task for unit in entry.evaluation.units)
    rows: list[list[Any]] = []
    for task in tasks:
        cells = [scores.heat_cell(entry, f"{task}@{length}") for length in entry.lengths]
        rows.append([task, *cells])
    header = ["task", *map(scores.length_name, entry.lengths)]
    metrics = dict.fromkeys(unit.metric for unit in entry.evaluation.units)
    return Table(f"{entry.name}: tasks by length", header, rows, f"Metric: {', '.join(metrics)}.")


def _prompts(entry: Entry) -> Table:
    rows = [_prompt_row(entry, length) for length in entry.lengths]
    header = ["length", "samples", "least fill", "mean fill", "truncated", "corpus"]
    note = "Fill: the share of the length that prompt and answer take."
    return Table(f"{entry.name}: prompts", header, rows, note)


def _prompt_row(entry: Entry, length: int) -> list[Any]:
    units = [unit for unit in entry.evaluation.units if unit.length == length]
    least = [unit.fill_min for unit in units if unit.fill_min is not None]
    means = [unit.fill_mean for unit in units if unit.fill_mean is not None]
    truncated = sum(unit.truncated for unit in units)
    corpora = dict.fromkeys(unit.corpus for unit in units if unit.corpus)
    return [
        scores.length_name(length),
        f"{sum(unit.samples for unit in units):,}",
        formatted(min(least, default=None), ".1%"),
        formatted(fmean(means) if means else None, ".1%"),
        flagged(f"{truncated:,}", truncated > 0),
        flagged(", ".join(corpora) or "-", "fallback" in corpora),
    ]


def _gates(entries: Sequence[Entry]) -> Table:
    """Return the checks that failed or compared something."""
    rows: list[tuple[Entry, CheckResult]] = []
    for entry in entries:
        # a check that only says that a unit is whole is not worth a row
        checks = entry.gate.checks if entry.gate else []
        rows += [(entry, check) for check in checks if not check.ok or check.expected is not None]

    failed = sum(not check.ok for _, check in rows)
    title = f"Gate: {failed} of {len(rows)} checks failed"
    if not failed:
        title = f"Gate: {len(rows)} checks passed"
    return Table.build(title, CHECKS, rows, most_rows=MOST_ROWS)


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

    rows: list[list[Any]] = [[name, "not run", reason] for name, reason in reasons.items()]
    for task in get_suite(suite, size).tasks.values():
        if task.note:
            rows.append([task.name, "note", task.note])
    header = ["benchmark", "", "what to know"]
    return Table("About the benchmarks", header, rows, folded=len(rows) > MOST_ROWS)
