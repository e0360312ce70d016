"""The report of a curation: ``curation.md`` and ``curation.html``, and its tables on stdout."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recipes.common.tables import print_table
from recipes.reports.document import Block, Document, Note, Section, Table, table
from recipes.reports.pages import write_pages
from recipes.runs.curated_folder import DROPPED, KEPT, UNDECIDED, CurationManifest

NAME = "curation"
Row = dict[str, Any]


def write_report(folder: Path, manifest: CurationManifest) -> Path:
    """Write the report of a curated folder into it, and return the path of ``curation.md``."""
    sentence = Note(_sentence(manifest))
    sections = [
        Section("Overview", [sentence, *tables(manifest)]),
        Section("What was not kept", _examples(manifest)),
    ]
    title = f"Curation {folder.resolve().name}"
    write_pages(folder / NAME, Document(title, [], sections))
    return folder / f"{NAME}.md"


def print_summary(manifest: CurationManifest) -> None:
    """Print the tables of the report without the examples."""
    for shown in tables(manifest):
        if not shown.rows:
            continue
        texts = []
        for cells in shown.rows:
            texts.append([cell.text for cell in cells])
        print_table(list(shown.columns), texts)
    print(_sentence(manifest))


def _sentence(manifest: CurationManifest) -> str:
    return (
        f"{manifest.read:,} conversations were read: {manifest.kept:,} are kept, "
        f"{manifest.dropped:,} dropped and {manifest.undecided:,} undecided"
    )


def tables(manifest: CurationManifest) -> list[Table]:
    """Return what became of the conversations: by step, category, and what the judge found."""
    categories = []
    for category, outcomes in sorted(manifest.categories.items()):
        row = {"category": category, **outcomes}
        categories.append(row)
    return [
        table("Steps", _steps(manifest)),
        table("Categories", categories),
        table("Verdicts of the judge", _counted("verdict", manifest.buckets)),
        table("Faults that the judge found", _counted("fault", manifest.faults)),
        table("Scores of the judge", _dimensions(manifest)),
    ]


def _steps(manifest: CurationManifest) -> Iterator[Row]:
    for step, changed, dropped, left in manifest.rows():
        yield {"step": step, "changed": changed, "dropped": dropped, "left": left}


def _counted(title: str, counts: dict[str, int]) -> Iterator[Row]:
    for name, count in counts.items():
        yield {title: name, "conversations": count}


def _dimensions(manifest: CurationManifest) -> Iterator[Row]:
    for name, scores in manifest.dimensions.items():
        row: Row = {"dimension": name}
        for outcome in (KEPT, DROPPED):
            histogram = scores.get(outcome, [])
            row[f"mean of {outcome}"] = _mean(histogram)
        yield row


def _mean(histogram: Sequence[int]) -> float | None:
    """Return the mean of scores from their counts, of 1 first."""
    total = sum(histogram)
    if not total:
        return None
    return sum(score * count for score, count in enumerate(histogram, 1)) / total


def _examples(manifest: CurationManifest) -> list[Block]:
    """Return a table a step."""
    tables: list[Block] = []
    for step in (*manifest.steps, UNDECIDED):
        rows = []
        for example in manifest.examples.get(step, []):
            row = {
                "record": f"{example.input}, record {example.record}",
                "why": example.why,
                "prompt": example.prompt,
                "reply": example.reply,
            }
            rows.append(row)
        tables.append(table(step, rows))
    return tables
