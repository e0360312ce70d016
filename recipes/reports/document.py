"""Document model of the reports: sections of notes, facts, lists, tables and charts."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# title of a column -> what it shows of an item of a table
Columns = dict[str, Callable[[Any], Any]]

# what a column of numbers may hold; every other column is set flush left
NUMERIC = re.compile(
    r"-|failed|no number"
    r"|[+-]?[\d.,]+( ?%| ± [\d.]+)?( [▼▲])?"
    r"|[\d ,]+(h|min|s)( [\d ]+(min|s))?"
)


def as_text(value: Any) -> str:
    """Return ``value`` as text without control characters; a dash for None."""
    if value is None:
        return "-"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it shows.
        tone: ``bad``, ``good`` or empty.
        heat: a percentage by which the cell is colored, or None.
        href: a path relative to the report, or empty.
    """

    text: str
    tone: str = ""
    heat: float | None = None
    href: str = ""


def flagged(text: str, is_bad: bool) -> Cell:
    """Return a cell that stands out where ``is_bad`` holds."""
    return Cell(text, "bad" if is_bad else "")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: its heading, or empty.
        header: a title for each column.
        rows: a cell for each column; a value that is no :class:`Cell` is shown as text.
        note: a sentence below the table.
        folded: whether the page shows the rows only on demand.
    """

    title: str
    header: list[str]
    rows: list[list[Any]]
    note: str = ""
    folded: bool = False

    @classmethod
    def build(
        cls,
        title: str,
        columns: Columns,
        items: Iterable[Any],
        note: str = "",
        most_rows: float = math.inf,
    ) -> "Table":
        """Return a table with a row for each item, folded beyond ``most_rows``.

        A column is a function of an item.
        """
        rows = [[get(item) for get in columns.values()] for item in items]
        return cls(title, list(columns), rows, note, folded=len(rows) > most_rows)

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with every value as a cell."""
        return [list(map(_as_cell, row)) for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether all of its cells are numbers."""
        return [all(map(_is_number, column)) for column in zip(*self.cells, strict=True)]


def _as_cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(as_text(value))


def _is_number(cell: Cell) -> bool:
    return NUMERIC.fullmatch(cell.text) is not None


@dataclass(frozen=True)
class Note:
    """A paragraph.

    Attributes:
        text: what it says.
        tone: ``soft``, ``warning`` or ``error``.
        href: a path relative to the report, or empty.
    """

    text: str
    tone: str = "soft"
    href: str = ""


@dataclass(frozen=True)
class Facts:
    """Single values by name."""

    values: Mapping[str, Cell]


@dataclass(frozen=True)
class Listing:
    """A bulleted list."""

    items: Sequence[str]


# a point of a curve: x, y, and the lower and upper bound of y
Point = tuple[float, float, float, float]


@dataclass(frozen=True)
class Series:
    """A curve of a chart.

    Attributes:
        name: in the legend.
        points: x does not fall.
        style: one of the charts' own; empty for the next color in turn.
        marked: whether each point has a mark, and its bounds are an error bar in place of a band.
    """

    name: str
    points: Sequence[Point]
    style: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Span:
    """A named stretch of the x axis, every other one shaded."""

    name: str
    start: float
    end: float
    is_hatched: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over a common x axis.

    Attributes:
        title: its heading and accessible name.
        series: the curves.
        x, y: names of the axes, with their units.
        spans: stretches of the x axis.
        log_x, log_y: whether an axis is logarithmic.
        x_limits, y_limits: first and last value; None for those of the points.
        x_ticks: value -> label; None for round values.
        as_table: whether Markdown, which has no pictures, lists the points.
    """

    title: str
    series: Sequence[Series]
    x: str
    y: str
    spans: Sequence[Span] = ()
    log_x: bool = False
    log_y: bool = False
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    x_ticks: Mapping[float, str] | None = None
    as_table: bool = False

    @property
    def drawn(self) -> list[Series]:
        """The curves that have points, on a logarithmic axis positive ones."""
        floor = 0.0 if self.log_y else -math.inf
        return [series for series in self.series if any(high > floor for *_, high in series.points)]


Block = Note | Facts | Listing | Table | Chart


@dataclass
class Section:
    """A part of a document.

    Attributes:
        title: its heading.
        blocks: what it holds, in order.
        anchor: its id in the page; empty for one that the navigation does not list.
        short: its name in the navigation.

    Tables without rows are left out.
    """

    title: str
    blocks: list[Block] = field(default_factory=list)
    anchor: str = ""
    short: str = ""

    def __post_init__(self) -> None:
        self.blocks = [block for block in self.blocks if getattr(block, "rows", True)]


@dataclass
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: list[Section]
