"""Charts, drawn by matplotlib for the pages and for ``granite41 plot``."""

import html
import io
import itertools
import math
from typing import TYPE_CHECKING, Any

from recipes.reports.document import Chart, Series, as_text
from recipes.reports.values import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    "text.color": PALETTE["ink"],
    "axes.labelcolor": PALETTE["soft"],
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": PALETTE["line"],
    "grid.color": PALETTE["line"],
    "xtick.color": PALETTE["soft"],
    "ytick.color": PALETTE["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
}
CURVES: dict[str, dict[str, Any]] = {
    "train": {"color": PALETTE["c0"]},
    "validation": {"color": PALETTE["c1"]},
    "entropy": {"color": PALETTE["soft"], "linestyle": ":"},
    "applied": {"color": PALETTE["c0"], "linewidth": 4, "alpha": 0.55},
    "recipe": {"color": PALETTE["c1"], "linestyle": "--"},
    "ibm": {"color": PALETTE["ink"], "linestyle": ":", "markerfacecolor": "none"},
    "assumed": {"color": PALETTE["c0"], "linestyle": "--", "linewidth": 2},
    "published": {"color": PALETTE["c0"], "linewidth": 2},
}
# series without a style take the colors in turn, then the same with dashes
TURNS = [
    {"color": PALETTE[f"c{color}"], "linestyle": dashes}
    for dashes in ("-", "--", ":")
    for color in range(6)
]
# a logarithmic y axis shows so much: warm-ups start and decays end at 0
DECADES = 1e4
# inches of a page's chart and of a row of its legend, and the axes' margins
WIDTH = 5.2
HEIGHT = 2.8
ROW = 0.2
LEFT, RIGHT, TOP, BOTTOM = 0.8, 0.1, 0.25, 0.5
LEGEND_COLUMNS = 3
# inches of a character of a span's name
CHARACTER = 0.065


def chart_svg(chart: Chart) -> str:
    """Return ``chart`` as an element of a page, in the variables of its style sheet."""
    import matplotlib
    from matplotlib.figure import Figure

    names = {series.name for series in chart.drawn}
    legend = ROW * math.ceil(len(names) / LEGEND_COLUMNS)
    height = HEIGHT + legend
    bottom = BOTTOM + legend
    area = (LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, 1 - (bottom + TOP) / height)
    buffer = io.StringIO()
    # ids differ from those of other charts, and are the same each time
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.title}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes(area)
        draw(axes, chart)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="lower center", ncols=LEGEND_COLUMNS)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)

    _, _, svg = buffer.getvalue().partition("<svg ")
    svg = svg.replace('<g id="', '<g class="')
    for name, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{name})")
    return f'<svg role="img" aria-label="{html.escape(chart.title)}" {svg}'


def draw(axes: "Axes", chart: Chart) -> None:
    """Draw the spans and the curves of ``chart``, with their bands or error bars."""
    turns = itertools.cycle(TURNS)
    for series in chart.drawn:
        curve = CURVES.get(series.style) or next(turns)
        _draw_series(axes, series, curve)

    _set_axes(axes, chart)
    if len(chart.spans) > 1:
        _draw_spans(axes, chart)


def _draw_series(axes: "Axes", series: Series, curve: dict[str, Any]) -> None:
    x, y, low, high = zip(*series.points, strict=True)
    if low != high:
        if series.marked:
            axes.vlines(x, low, high, color=curve["color"])
        else:
            axes.fill_between(
                x,
                low,
                high,
                color=curve["color"],
                alpha=0.25,
                linewidth=0,
                gid=f"{series.style} band",
            )
    marker = "o" if series.marked else ""
    style = {"linewidth": 1.5, "markersize": 4, "marker": marker, **curve}
    axes.plot(x, y, label=as_text(series.name), gid=series.style or "model", **style)


def _set_axes(axes: "Axes", chart: Chart) -> None:
    axes.set(xlabel=chart.x, ylabel=chart.y)
    axes.margins(x=0)
    axes.grid(axis="y")
    if chart.log_y:
        values = [y for series in chart.drawn for _, y, _, _ in series.points if y > 0]
        axes.set_yscale("log")
        axes.set_ylim(max(min(values), max(values) / DECADES) / 1.5, max(values) * 1.5)
    if chart.log_x:
        axes.set_xscale("log")
    else:
        # tokens are counted from 0 where the limits do not say otherwise
        axes.set_xlim(0)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.yaxis.set_major_formatter(lambda value, _: short(value))

    if chart.x_ticks:
        axes.set_xticks(list(chart.x_ticks), list(chart.x_ticks.values()))
    if chart.x_limits:
        axes.set_xlim(chart.x_limits)
    if chart.y_limits:
        axes.set_ylim(chart.y_limits)


def _draw_spans(axes: "Axes", chart: Chart) -> None:
    """Shade every other span, and name those that are wide enough."""
    first, last = axes.get_xlim()
    tokens_per_inch = (last - first) / axes.get_window_extent().width * axes.figure.dpi
    for position, span in enumerate(chart.spans):
        axes.axvspan(
            span.start,
            span.end,
            facecolor="none" if position % 2 else PALETTE["shade"],
            edgecolor=PALETTE["soft"],
            hatch="////" if span.is_hatched else None,
            linewidth=0,
            zorder=0,
        )
        characters = max(map(len, span.name.split("\n")))
        if span.end - span.start > CHARACTER * characters * tokens_per_inch:
            middle = (span.start + span.end) / 2
            place = axes.get_xaxis_transform()
            axes.text(middle, 1.02, span.name, transform=place, ha="center")
