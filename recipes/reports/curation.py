"""The report of a curation: ``curation.md`` and ``curation.html``, and its tables on stdout."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recipes.common.tables import print_table
from recipes.reports.document import Block, Document, Note, Section, Table, table
from recipes.reports.pages import write_pages
from recipes.runs.curated_folder import DROPPED, KEPT, OUTCOMES, CurationManifest

NAME = "curation"


def write_report(folder: Path, manifest: CurationManifest) -> Path:
    """Write the report of a curated folder into it, and return the path of ``curation.md``."""
    overview: list[Block] = [Note(_sentence(manifest))]
    sections = [
        Section("Overview", [*overview, *_tables(manifest)]),
        Section("What was not kept", list(_examples(manifest))),
    ]
    write_pages(folder / NAME, Document(f"Curation {folder.resolve().name}", [], sections))
    return folder / f"{NAME}.md"


def print_summary(manifest: CurationManifest) -> None:
    """Print the tables of the report without the examples."""
    for block in _tables(manifest):
        texts = []
        for cells in block.rows:
            texts.append([cell.text for cell in cells])
        print_table([block.title, *list(block.columns)[1:]], texts)
    print(_sentence(manifest))


def _sentence(manifest: CurationManifest) -> str:
    return (
        f"{manifest.read:,} conversations were read: {manifest.kept:,} are kept, "
        f"{manifest.dropped:,} dropped and {manifest.undecided:,} undecided"
    )


def _tables(manifest: CurationManifest) -> Iterator[Table]:
    steps = []
    for step, changed, dropped, left in manifest.rows():
        steps.append({"step": step, "changed": changed, "dropped": dropped, "left": left})
    yield table("step", steps)

    categories = []
    for category, outcomes in sorted(manifest.categories.items()):
        categories.append({"category": category, **outcomes})
    yield table("category", categories)
    if not manifest.buckets:
        return

    yield table("verdict", _counted("verdict", manifest.buckets))
    yield table("fault", _counted("fault", manifest.faults))
    dimensions: list[dict[str, Any]] = []
    for name, scores in manifest.dimensions.items():
        row: dict[str, Any] = {"dimension": name}
        for outcome in (KEPT, DROPPED):
            row[f"mean of {outcome}"] = _mean(scores.get(outcome, []))
        dimensions.append(row)
    yield table("dimension", dimensions)


def _counted(title: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    return [{title: name, "conversations": count} for name, count in counts.items()]


def _mean(histogram: Sequence[int]) -> float | None:
    """Return the mean of scores from their counts, of 1 first."""
    total = sum(histogram)
    if not total:
        return None
    return sum(score * count for score, count in enumerate(histogram, 1)) / total


def _examples(manifest: CurationManifest) -> Iterator[Block]:
    for step in (*manifest.steps, OUTCOMES[-1]):
        rows = []
        for example in manifest.examples.get(step, []):
            row = {
                "record": f"{example.input}, record {example.record}",
                "why": example.why,
                "prompt": example.prompt,
                "reply": example.reply,
            }
            rows.append(row)
        if rows:
            yield table(step, rows)
