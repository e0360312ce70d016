"""Charts, drawn by matplotlib for the pages and for ``granite41 plot``."""

import html
import io
import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.common.tables import human
from recipes.reports.document import Chart, Series, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# variables of the style sheet with their light colors, which a picture has
PALETTE = {
    "ink": "#1b1f24",
    "soft": "#59626d",
    "line": "#d5dae0",
    "shade": "#eef1f5",
    "c0": "#0b62a8",
    "c1": "#c2410c",
    "c2": "#00795a",
    "c3": "#a13d7a",
    "c4": "#7a5c00",
    "c5": "#4b5563",
}
STYLE: dict[Any, Any] = {
    # text of an SVG stays text, and a $ a $
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.edgecolor": PALETTE["line"],
    "axes.xmargin": 0,
    "grid.color": PALETTE["line"],
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
}
# colors in turn, then the same with dashes, or in bars with a hatch
TURNS = list(itertools.product((("o-", ""), ("o--", "//"), ("o:", "..")), list(PALETTE)[4:]))
# a logarithmic y axis shows so much: warm-ups start and decays end at 0
SPREAD = 1e4
# a chart is a few hundred pixels wide; a curve of fewer points has marks
MOST_POINTS = 500
MOST_MARKS = 40
# inches of a character of a span's name
CHARACTER = 0.07


def chart_svg(chart: Chart) -> str:
    """Return ``chart`` as an element of a page, in the variables of its style sheet."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _style(chart.title):
        figure = _figure([chart], (5.2, 3.1), "lower center", 3)
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)

    _, _, svg = buffer.getvalue().partition("<svg ")
    svg = svg.replace('<g id="', '<g class="')
    for name, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{name})")
    return f'<svg role="img" aria-label="{html.escape(chart.title)}" {svg}'


def write_picture(
    output: Path, title: str, charts: Sequence[Chart], height: float, caption: Sequence[str]
) -> None:
    """Write ``charts`` below each other, 1,200 pixels wide and ``height`` x 100 high.

    Raises:
        UserError: a suffix other than ``.png`` and ``.svg``.
    """
    if output.suffix not in (".png", ".svg"):
        raise UserError(
            f"{output}: ends in {output.suffix!r}, expected a picture's .png or .svg; rename it"
        )
    # the same recipes give the same file
    metadata = {"Date": None} if output.suffix == ".svg" else None
    lines = "\n".join(textwrap.fill(line, 165) for line in caption)
    with _style(title):
        figure = _figure(charts, (12, height), "right upper", 1)
        figure.suptitle(title, fontsize=13, fontweight="bold")
        figure.supxlabel(lines, fontsize=8.5, x=0.01, ha="left", linespacing=1.4)
        with atomic_write(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:], dpi=100, metadata=metadata)


def _style(title: str) -> AbstractContextManager[None]:
    import matplotlib

    # ids differ from those of other charts, and are the same each time
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": title})


def _figure(
    charts: Sequence[Chart], size: tuple[float, float], legend: str, columns: int
) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(charts), squeeze=False)
    handles: dict[str, Any] = {}
    for axes, chart in zip(grid.flat, charts, strict=True):
        if len(charts) > 1:
            axes.set_title(chart.title, loc="left", pad=20)
        _draw(axes, chart)
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    place: Any = f"outside {legend}"
    figure.legend(list(handles.values()), list(handles), loc=place, ncols=columns)
    return figure


def _draw(axes: "Axes", chart: Chart) -> None:
    ends: Counter[float] = Counter()
    for series, turn in zip(chart.drawn, itertools.cycle(TURNS), strict=False):
        (line, hatch), color = turn
        color = PALETTE[series.color or color]
        if chart.is_stacked:
            _draw_bars(axes, series, ends, color, hatch)
        else:
            _draw_curve(axes, series, color, series.line or line)

    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.grid(axis="x" if chart.is_stacked else "y")
    if chart.axes.get("yscale") == "log":
        top = max(max(series.y) for series in chart.drawn)
        axes.set_ylim(top / SPREAD, top * 1.5)
    axes.set(**{"xlim": (0, None), **chart.axes})
    axes.minorticks_off()
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        if f"{axis.axis_name}ticks" not in chart.axes:
            axis.set_major_formatter(lambda value, _: human(value if value % 1 else int(value)))
    _draw_spans(axes, chart.spans)


def _draw_curve(axes: "Axes", series: Series, color: str, line: str) -> None:
    """Draw a curve; one of many points as means of neighbors, in a band of their bounds."""
    import numpy as np

    x = np.asarray(series.x)
    y = np.asarray(series.y)
    if len(x) > MOST_POINTS:
        # the last point may be of fewer
        starts = np.arange(0, len(x), math.ceil(len(x) / MOST_POINTS))
        counts = np.diff(starts, append=len(x))
        low = np.minimum.reduceat(y, starts)
        high = np.maximum.reduceat(y, starts)
        x = np.add.reduceat(x, starts) / counts
        y = np.add.reduceat(y, starts) / counts
        gid = f"{series.name} band"
        axes.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, gid=gid)

    if len(x) > MOST_MARKS:
        line = line.removeprefix("o")
    # a line of one point would not show
    if len(x) == 1:
        line = "o-"
    style: dict[str, Any] = {"color": color, "linewidth": 1.5, "markersize": 4}
    curve = axes.errorbar(x, y, series.error, fmt=line, label=series.name, **style)
    curve[0].set_gid(series.name)


def _draw_bars(axes: "Axes", series: Series, ends: Counter[float], color: str, hatch: str) -> None:
    """Draw bars that start at ``ends``, which moves to where they end."""
    starts = [ends[place] for place in series.x]
    style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white"}
    bars = axes.barh(series.x, series.y, 0.62, starts, label=series.name, **style)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    lengths = [f"{length:g}" for length in series.y]
    axes.bar_label(bars, lengths, label_type="center", fontsize=8, bbox=box)
    ends.update(dict(zip(series.x, series.y, strict=True)))


def _draw_spans(axes: "Axes", spans: Sequence[Span]) -> None:
    """Shade every other span, and name those that are wide enough."""
    first, last = axes.get_xlim()
    for position, (name, start, end, is_hatched) in enumerate(spans):
        axes.axvspan(
            start,
            end,
            facecolor="none" if position % 2 else PALETTE["shade"],
            edgecolor=PALETTE["soft"],
            hatch="////" if is_hatched else None,
            linewidth=0,
            zorder=0,
        )
        middle = (start + end) / 2
        inches = (end - start) / (last - first) * axes.get_window_extent().width / axes.figure.dpi
        if inches > CHARACTER * len(name) and first < middle < last:
            axes.text(middle, 1.02, name, transform=axes.get_xaxis_transform(), ha="center")
