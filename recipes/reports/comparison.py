"""The report on what changes from one run or evaluation to another."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.gates import mean_name, ruler_means
from evaluation.results import EVALUATION, Unit
from evaluation.suites import LONG_CONTEXT, get_suite, reference, ruler_references
from recipes.common.errors import UserError
from recipes.reports import scores
from recipes.reports.document import Block, Document, Note, Section, Table
from recipes.reports.evaluation import SUFFIXES, plain, subtitle, write_documents
from recipes.reports.evaluation_files import (
    MARKED,
    Entry,
    evaluation_paths,
    read_entries,
    read_entry,
    z_score,
)
from recipes.reports.run import problem_section

Z_NOTE = (
    f"z: the difference in its own standard errors, positive where b is better; {scores.BETTER} "
    f"and {scores.WORSE} mark more than {MARKED:g}."
)


def compare(a: Path, b: Path, output: Path) -> Path:
    """Write what changes from ``a`` to ``b``, as HTML, Markdown and JSON; return the first's path.

    Args:
        a: the folder of a run or of an evaluation.
        b: another of the same kind. Of two runs the evaluations of the same stage, suite and label
            are compared; two evaluations are of the same suite.
        output: the files' path, with or without one of their suffixes.

    Raises:
        UserError: a folder that is neither, one of each kind, or nothing that both have.
    """
    problems: list[str] = []
    if any(evaluation_paths(folder) or not (folder / EVALUATION).is_file() for folder in (a, b)):
        pairs = _run_pairs(a, b, problems)
    else:
        pairs = [_evaluation_pair(a, b)]

    content = {
        "pairs": [{"a": plain(first), "b": plain(second)} for first, second in pairs],
        "problems": problems,
    }
    sections = [*problem_section(problems), *(_section(*pair) for pair in pairs)]
    title = f"{a.resolve().name} and {b.resolve().name} compared"
    document = Document(title, subtitle([pair[0] for pair in pairs]), sections)
    stem = output.with_suffix("") if output.suffix in SUFFIXES else output
    return write_documents(stem, document, content)


def _evaluation_pair(a: Path, b: Path) -> tuple[Entry, Entry]:
    first = read_entry(a, a)
    second = read_entry(b, b)
    if first.evaluation.suite != second.evaluation.suite:
        raise UserError(
            f"{a} is of suite {first.evaluation.suite} and {b} of {second.evaluation.suite}; "
            "name two evaluations of one suite"
        )
    return first, second


def _run_pairs(a: Path, b: Path, problems: list[str]) -> list[tuple[Entry, Entry]]:
    runs: list[dict[Any, Entry]] = []
    for folder in (a, b):
        if not evaluation_paths(folder):
            raise UserError(
                f"{folder}: holds no evaluations, expected a run's folder like the other's, or two "
                "evaluations' folders; name two of the same kind"
            )
        entries, damaged = read_entries(folder)
        problems += damaged
        runs.append({entry.identity: entry for entry in entries})

    pairs = [(entry, runs[1][key]) for key, entry in runs[0].items() if key in runs[1]]
    if not pairs:
        raise UserError(
            f"{a} and {b} have no evaluation of the same stage, suite and label; "
            "evaluate both alike"
        )
    return pairs


def _section(a: Entry, b: Entry) -> Section:
    suite = b.evaluation.suite
    size = b.evaluation.size
    blocks: list[Block] = [*scores.warnings([a, b]), Note(Z_NOTE), _score_table(a, b)]
    if suite == LONG_CONTEXT:
        published = {f"IBM {size}": references} if (references := ruler_references(size)) else {}
        sides = {f"a: {a.name}": a, f"b: {b.name}": b}
        blocks.append(scores.ruler_chart(published, sides))

    facts = []
    for side, entry in (("a", a), ("b", b)):
        finished = entry.evaluation.finished or None
        gate = scores.gate_cell(entry)
        facts.append([side, entry.evaluation.model, entry.name, gate, finished])
    blocks += [
        Table("Models", ["", "model", "stage and label", "gate", "finished"], facts),
        scores.settings_table([a, b]),
        scores.missing_table([a, b]),
    ]

    shown = [block for block in blocks if not isinstance(block, Table) or block.rows]
    title = " ".join(filter(None, (suite, b.evaluation.stage, b.evaluation.label)))
    return Section(title, shown, "-".join(title.split()))


def _score_table(a: Entry, b: Entry) -> Table:
    suite = b.evaluation.suite
    size = b.evaluation.size
    rows = _mean_rows(a, b, size) if suite == LONG_CONTEXT else []
    tasks = get_suite(suite, size).tasks

    for name in dict.fromkeys((*a.units, *b.units)):
        published = reference(suite, name, size) if name in tasks else None
        cells = [scores.score_cell(entry, name) for entry in (a, b)]
        difference = _difference(a.units.get(name), b.units.get(name))
        rows.append([name, scores.published_cell(published), *cells, *difference])

    header = ["unit", f"IBM {size}", "a", "b", "b - a", "z"]
    return scores.without_empty_column(Table("Scores", header, rows), 1)


def _mean_rows(a: Entry, b: Entry, size: str) -> list[list[Any]]:
    before = ruler_means(a.evaluation)
    after = ruler_means(b.evaluation)
    published = ruler_references(size)
    rows = []
    for length in sorted(before.keys() & after.keys()):
        gain = after[length][0] - before[length][0]
        stderr = math.hypot(before[length][1], after[length][1])
        cells = [scores.mean_cell(means[length]) for means in (before, after)]
        z = scores.z_cell(gain / stderr if stderr else None)
        reference_cell = scores.published_cell(published.get(length))
        rows.append([mean_name(length), reference_cell, *cells, f"{gain:+.2f}", z])
    return rows


def _difference(before: Unit | None, after: Unit | None) -> Sequence[Any]:
    """Return the cells of the difference and its z."""
    if before is None or after is None:
        return "-", "-"
    difference = after.score - before.score
    if not math.isfinite(difference):
        return "-", "-"
    digits = 2 if after.percent else 3
    return f"{difference:+.{digits}f}", scores.z_cell(z_score(before, after))
