"""Document model of the reports: sections of notes, tables and charts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, NamedTuple

from recipes.common.json_files import is_number

# how a cell of numbers starts; columns of others are set flush left
NUMBER = re.compile(r"[-+]?[\d.]|-$|failed$|no number$")


def printable(text: str) -> str:
    """Return ``text`` without control characters."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return "\N{REPLACEMENT CHARACTER}"


def number(value: Any, form: str) -> str | None:
    """Return a number in a format; None for all else, such as NaN."""
    return format(value, form) if is_number(value) else None


class Cell(NamedTuple):
    """A cell of a table: ``good``, ``bad`` or neither, with a link or colored by a percentage."""

    text: str
    tone: str = ""
    href: str = ""
    heat: float | None = None


def flagged(text: str, is_bad: bool) -> Cell:
    """Return a cell that stands out where ``is_bad`` holds."""
    return Cell(text, "bad" if is_bad else "")


@dataclass(frozen=True)
class Table:
    """A table: title of a column -> its cells."""

    kind: ClassVar = "table"
    title: str
    columns: Mapping[str, Sequence[Cell]]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """A cell of each column."""
        return list(zip(*self.columns.values(), strict=True))

    def is_numeric(self, title: str) -> bool:
        """Whether all cells of a column are numbers."""
        return all(NUMBER.match(cell.text) for cell in self.columns[title])


def table(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table from rows of title of a column -> text, number, :class:`Cell` or nothing.

    Columns without any value are left out.
    """
    rows = list(rows)
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(rows)):
        cells = [_cell(row.get(name)) for row in rows]
        if any(cell.text != "-" for cell in cells):
            columns[name] = cells
    return Table(title, columns)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, int):
        value = f"{value:,}"
    if isinstance(value, float):
        value = number(value, ".4g")
    return Cell("-" if value in (None, "") else str(value))


@dataclass(frozen=True)
class Note:
    """A paragraph: ``soft``, a ``warning`` or an ``error``, or a link."""

    kind: ClassVar = "note"
    text: str
    tone: str = "soft"
    href: str = ""


@dataclass(frozen=True)
class Series:
    """A curve of a chart, or a color of its stacked bars.

    Attributes:
        name: in the legend.
        x, y: of the points; of bars the place and the length.
        color: of the style sheet; empty for the next in turn.
        line: matplotlib's format of line and marks; empty for the next in turn.
        error: half the length of each point's error bar.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = ""
    line: str = ""
    error: Sequence[float] | None = None


class Span(NamedTuple):
    """A named stretch of the x axis, every other one shaded."""

    name: str
    start: float
    end: float
    is_hatched: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over a common x axis, or horizontal bars that are stacked.

    Attributes:
        axes: properties of matplotlib's axes, such as ``xlabel``, ``yscale``, ``xlim``.
    """

    kind: ClassVar = "chart"
    title: str
    series: Sequence[Series]
    axes: Mapping[str, Any]
    spans: Sequence[Span] = ()
    is_stacked: bool = False

    @property
    def drawn(self) -> list[Series]:
        """The curves that have points, on a logarithmic axis positive ones."""
        drawn = [series for series in self.series if len(series.x)]
        if self.axes.get("yscale") == "log":
            drawn = [series for series in drawn if max(series.y) > 0]
        return drawn


Block = Note | Table | Chart


class Section(NamedTuple):
    """A part of a document; the navigation lists those that have an anchor, by that."""

    title: str
    blocks: Sequence[Block]
    anchor: str = ""

    @property
    def shown(self) -> list[Block]:
        """The blocks without tables that have no row."""
        return [block for block in self.blocks if getattr(block, "rows", True)]


class Document(NamedTuple):
    """A whole report; sections without a block are left out."""

    title: str
    sizes: Iterable[str]
    sections: Sequence[Section]

    @property
    def subtitle(self) -> str:
        """The sizes of the models."""
        return ", ".join(f"Granite 4.1, size {size}" for size in dict.fromkeys(self.sizes))
