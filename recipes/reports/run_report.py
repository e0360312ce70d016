"""The run's report: ``report.md`` and ``report.html``, from what the stages have written so far."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.reports.run_data import EVALUATIONS, RunReport, Table, merge_table, read_run, text
from recipes.reports.run_html import page

COLUMNS = (
    "stage",
    "status",
    "tokens",
    "validation loss",
    "unigram entropy",
    "below entropy",
    "seconds",
    "checkpoint",
    "Hugging Face folder",
    "steps",
    "tokens done",
    "tokens of the run",
    "tokens/s",
)
# what Markdown and the HTML inside it take for markup
MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\`*[]|#"}}


def write_report(run_folder: Path) -> Path:
    """Write ``report.md`` and ``report.html`` for what the run has done so far and return the former's path.

    Losses and entropies are in nats per token. The unigram entropy is that of the training blend's token counts: what
    a model that knows how often each token occurs, and nothing else, would score. A file that is missing or damaged is
    named in the report.

    Raises:
        UserError: there is no such folder.
    """
    if not run_folder.is_dir():
        raise UserError(
            f"{run_folder}: no such folder, expected a run's; name the one that `granite41 run` wrote"
        )
    report = read_run(run_folder)
    path = run_folder / "report.md"
    write_text(path, _markdown(report))
    write_text(path.with_suffix(".html"), page(report))
    return path


def _markdown(report: RunReport) -> str:
    rows = [[stage.cells()[column] for column in COLUMNS] for stage in report.stages]
    lines = [f"# Run {_escaped(report.name)}", "", *_rows(COLUMNS, rows)]
    if not report.stages:
        lines += ["", "No stage has begun."]
    if report.evaluated:
        lines += ["", f"Evaluations: [{EVALUATIONS}]({EVALUATIONS})"]
    lines += [
        "",
        "Losses and entropies in nats per token; the unigram entropy is that of the training blend.",
    ]
    for stage in report.stages:
        lines += ["", f"## {stage.name}: {stage.title}", ""]
        if stage.error:
            lines += [f"**Failed:** {_escaped(stage.error)}", ""]
        lines += [f"- {name}: {_escaped(value)}" for name, value in stage.facts().items()]
        for table in stage.tables():
            lines += _table(table)
    for path, merge in report.merges.items():
        lines += _table(merge_table(path, merge))
    if report.problems:
        lines += [
            "",
            "## What could not be read",
            "",
            *(f"- {_escaped(problem)}" for problem in report.problems),
        ]
    return "\n".join([*lines, ""])


def _table(table: Table) -> list[str]:
    return ["", f"### {_escaped(table.title)}", "", *_rows(table.header, table.rows)]


def _rows(header: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([_escaped(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _escaped(value: str) -> str:
    """Return ``value`` on one line, for Markdown to show as it is."""
    return "".join(MARKUP.get(character, character) for character in " ".join(text(value).split()))
