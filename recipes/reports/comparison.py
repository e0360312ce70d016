"""The report on what changes from one run or evaluation to another."""

import math
from pathlib import Path
from typing import Any

from evaluation.gates import mean_name, ruler_means
from evaluation.results import EVALUATION
from evaluation.suites import LONG_CONTEXT, ruler_references
from recipes.common.errors import UserError
from recipes.reports import scores
from recipes.reports.document import Block, Columns, Document, Note, Section, Table
from recipes.reports.evaluation import SUFFIXES, subtitle, write_documents
from recipes.reports.evaluation_files import (
    MARKED,
    Entry,
    evaluation_paths,
    read_entries,
    read_entry,
    z_score,
)
from recipes.reports.run import problem_section
from recipes.reports.values import Problems, formatted

Z_NOTE = (
    f"z: the difference in its own standard errors, positive where b is better; {scores.BETTER} "
    f"and {scores.WORSE} mark more than {MARKED:g}."
)
MODELS: Columns = {
    "": lambda row: row[0],
    "model": lambda row: row[1].evaluation.model,
    "stage and label": lambda row: row[1].name,
    "gate": lambda row: scores.gate_cell(row[1]),
    "finished": lambda row: row[1].evaluation.finished or None,
}

Pair = tuple[Entry, Entry]


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
    problems = (Problems(a), Problems(b))
    # an evaluation's folder holds its file, and no stages with evaluations
    if any(evaluation_paths(folder) or not (folder / EVALUATION).is_file() for folder in (a, b)):
        pairs = _run_pairs(*problems)
    else:
        pairs = [_evaluation_pair(*problems)]

    unread = [*problems[0], *problems[1]]
    document = Document(
        title=f"{a.resolve().name} and {b.resolve().name} compared",
        subtitle=subtitle([pair[0] for pair in pairs]),
        sections=[*problem_section(unread), *(_section(*pair) for pair in pairs)],
    )
    content: dict[str, Any] = {
        "pairs": [{"a": first.to_dict(), "b": second.to_dict()} for first, second in pairs],
        "problems": unread,
    }
    if output.suffix in SUFFIXES:
        output = output.with_suffix("")
    return write_documents(output, document, content)


def _evaluation_pair(a: Problems, b: Problems) -> Pair:
    first = read_entry(a.folder, a)
    second = read_entry(b.folder, b)
    if first.evaluation.suite != second.evaluation.suite:
        raise UserError(
            f"{a.folder} is of suite {first.evaluation.suite} and {b.folder} of "
            f"{second.evaluation.suite}; name two evaluations of one suite"
        )
    return first, second


def _run_pairs(*runs: Problems) -> list[Pair]:
    entries: list[dict[Any, Entry]] = []
    for run in runs:
        if not evaluation_paths(run.folder):
            raise UserError(
                f"{run.folder}: holds no evaluations, expected a run's folder like the other's, or "
                "two evaluations' folders; name two of the same kind"
            )
        entries.append({entry.identity: entry for entry in read_entries(run.folder, run)})

    before, after = entries
    pairs = [(entry, after[key]) for key, entry in before.items() if key in after]
    if not pairs:
        a, b = runs
        raise UserError(
            f"{a.folder} and {b.folder} have no evaluation of the same stage, suite and label; "
            "evaluate both alike"
        )
    return pairs


def _section(a: Entry, b: Entry) -> Section:
    suite = b.evaluation.suite
    blocks: list[Block] = [*scores.warnings([a, b]), Note(Z_NOTE), _score_table(a, b)]
    if suite == LONG_CONTEXT:
        blocks.append(scores.ruler_chart({f"a: {a.name}": a, f"b: {b.name}": b}))
    blocks += [
        Table.build("Models", MODELS, [("a", a), ("b", b)]),
        scores.settings_table([a, b]),
        scores.missing_table([a, b]),
    ]
    title = " ".join(filter(None, (suite, b.evaluation.stage, b.evaluation.label)))
    return Section(title, blocks, "-".join(title.split()))


def _score_table(a: Entry, b: Entry) -> Table:
    size = b.evaluation.size
    published = scores.published_scores(b.evaluation.suite, size)
    means = ruler_references(size)
    published |= {mean_name(length): score for length, score in means.items()}

    rows = _mean_rows(a, b)
    for name in dict.fromkeys((*a.units, *b.units)):
        cells = [scores.score_cell(entry, name) for entry in (a, b)]
        rows.append([name, *cells, *_difference(a, b, name)])

    header = ["unit", "a", "b", "b - a", "z"]
    references = [formatted(published.get(row[0]), ".2f") for row in rows]
    if set(references) - {"-"}:
        header.insert(1, f"IBM {size}")
        for row, reference in zip(rows, references, strict=True):
            row.insert(1, reference)
    return Table("Scores", header, rows)


def _mean_rows(a: Entry, b: Entry) -> list[list[Any]]:
    """Return a row for RULER's mean at each length that both have."""
    before = ruler_means(a.evaluation)
    after = ruler_means(b.evaluation)
    rows: list[list[Any]] = []
    for length in sorted(before.keys() & after.keys()):
        gain = after[length][0] - before[length][0]
        stderr = math.hypot(before[length][1], after[length][1])
        means = [scores.mean_text(mean[length]) for mean in (before, after)]
        z = scores.z_cell(gain / stderr if stderr else None)
        rows.append([mean_name(length), *means, f"{gain:+.2f}", z])
    return rows


def _difference(a: Entry, b: Entry, name: str) -> list[Any]:
    """Return the cells of a unit's difference and its z; dashes unless both have a score."""
    if name not in a.units or name not in b.units:
        return ["-", "-"]
    before = a.units[name]
    after = b.units[name]
    difference = after.score - before.score
    if not math.isfinite(difference):
        return ["-", "-"]
    digits = 2 if after.percent else 3
    return [f"{difference:+.{digits}f}", scores.z_cell(z_score(before, after))]
