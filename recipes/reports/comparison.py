"""The report on what changes from one run or evaluation to another."""

import math
from pathlib import Path
from typing import Any

from evaluation.gates import mean_name, ruler_means
from evaluation.results import EVALUATION
from evaluation.suites import LONG_CONTEXT, ruler_references
from recipes.common.errors import UserError
from recipes.reports import scores
from recipes.reports.document import Block, Document, Note, Section, Table
from recipes.reports.evaluation import SUFFIXES, Row, subtitle, write_documents
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
    # an evaluation's folder holds its file, and no stages with evaluations
    problems = Problems(a)
    if any(evaluation_paths(folder) or not (folder / EVALUATION).is_file() for folder in (a, b)):
        pairs = _run_pairs(a, b, problems)
    else:
        pairs = [_evaluation_pair(a, b, problems)]

    document = Document(
        title=f"{a.resolve().name} and {b.resolve().name} compared",
        subtitle=subtitle([pair[0] for pair in pairs]),
        sections=[*problem_section(problems), *(_section(*pair) for pair in pairs)],
    )
    content: dict[str, Any] = {
        "pairs": [{"a": first.to_dict(), "b": second.to_dict()} for first, second in pairs],
        "problems": problems,
    }
    if output.suffix in SUFFIXES:
        output = output.with_suffix("")
    return write_documents(output, document, content)


def _evaluation_pair(a: Path, b: Path, problems: Problems) -> Pair:
    first = read_entry(a, problems)
    second = read_entry(b, Problems(b))
    if first.evaluation.suite != second.evaluation.suite:
        raise UserError(
            f"{a} is of suite {first.evaluation.suite} and {b} of {second.evaluation.suite}; "
            "name two evaluations of one suite"
        )
    return first, second


def _run_pairs(a: Path, b: Path, problems: list[str]) -> list[Pair]:
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

    before, after = runs
    pairs = [(entry, after[key]) for key, entry in before.items() if key in after]
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
        references = ruler_references(size)
        published = {f"IBM {size}": references} if references else {}
        means = {
            f"a: {a.name}": ruler_means(a.evaluation),
            f"b: {b.name}": ruler_means(b.evaluation),
        }
        blocks.append(scores.ruler_chart(published, means))

    models: list[Row] = []
    for side, entry in (("a", a), ("b", b)):
        finished = entry.evaluation.finished or None
        gate = scores.gate_cell(entry)
        models.append([side, entry.evaluation.model, entry.name, gate, finished])
    blocks += [
        Table("Models", ["", "model", "stage and label", "gate", "finished"], models),
        scores.settings_table([a, b]),
        scores.missing_table([a, b]),
    ]
    title = " ".join(filter(None, (suite, b.evaluation.stage, b.evaluation.label)))
    return Section(title, blocks, "-".join(title.split()))


def _score_table(a: Entry, b: Entry) -> Table:
    suite = b.evaluation.suite
    size = b.evaluation.size
    rows = _mean_rows(a, b)
    published = scores.published_scores(suite, size)
    for name in dict.fromkeys((*a.units, *b.units)):
        cells = [scores.score_cell(entry, name) for entry in (a, b)]
        reference = formatted(published.get(name), ".2f")
        rows.append([name, reference, *cells, *_difference(a, b, name)])

    header = ["unit", f"IBM {size}", "a", "b", "b - a", "z"]
    return scores.without_empty_column(Table("Scores", header, rows), 1)


def _mean_rows(a: Entry, b: Entry) -> list[Row]:
    """Return a row for RULER's mean at each length that both have."""
    before = ruler_means(a.evaluation)
    after = ruler_means(b.evaluation)
    published = ruler_references(b.evaluation.size)
    rows = []
    for length in sorted(before.keys() & after.keys()):
        gain = after[length][0] - before[length][0]
        stderr = math.hypot(before[length][1], after[length][1])
        rows.append(
            [
                mean_name(length),
                formatted(published.get(length), ".2f"),
                scores.mean_text(before[length]),
                scores.mean_text(after[length]),
                f"{gain:+.2f}",
                scores.z_cell(gain / stderr if stderr else None),
            ]
        )
    return rows


def _difference(a: Entry, b: Entry, name: str) -> Row:
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
