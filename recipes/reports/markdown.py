"""Markdown writer of the reports."""

from collections.abc import Iterable, Sequence

from recipes.reports.document import (
    Block,
    Chart,
    Document,
    Facts,
    Listing,
    Note,
    Section,
    Table,
    as_text,
)

# characters that Markdown, and the HTML inside it, take for markup
MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\`*[]|#"}}


def write_markdown(document: Document) -> str:
    """Return ``document`` as Markdown."""
    blocks = [f"# {_escaped(document.title)}"]
    if document.subtitle:
        blocks.append(_escaped(document.subtitle))
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join(filter(None, blocks)) + "\n"


def _section(section: Section) -> Iterable[str]:
    yield f"## {_escaped(section.title)}"
    for block in section.blocks:
        yield _block(block)


def _block(block: Block) -> str:
    match block:
        case Note(text, tone, href):
            return _note(text, tone, href)
        case Facts(values):
            items = [f"- {name}: {_escaped(cell.text)}" for name, cell in values.items()]
            return "\n".join(items)
        case Listing(items):
            return "\n".join(f"- {_escaped(item)}" for item in items)
        case Table():
            return _table(block)
        case Chart(as_table=True):
            return _table(_points(block))
    return ""


def _note(text: str, tone: str, href: str) -> str:
    if href:
        return f"[{_escaped(text)}]({href})"
    return _escaped(text) if tone == "soft" else f"**{_escaped(text)}**"


def _points(chart: Chart) -> Table:
    labels = chart.x_ticks or {}
    rows = []
    for series in chart.series:
        for x, y, _, _ in series.points:
            rows.append([series.name, labels.get(x, f"{x:g}"), f"{y:.1f}"])
    return Table(chart.title, ["curve", chart.x, chart.y], rows)


def _table(table: Table) -> str:
    rows = [[cell.text for cell in row] for row in table.cells]
    lines = [f"### {_escaped(table.title)}", ""] if table.title else []
    lines += [
        _row(table.header),
        "|" + " --- |" * len(table.header),
        *map(_row, rows),
    ]
    if table.note:
        lines += ["", _escaped(table.note)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(value: str) -> str:
    """Return ``value`` on one line, for Markdown to show as it is."""
    line = " ".join(as_text(value).split())
    return "".join(MARKUP.get(character, character) for character in line)
