"""Scales of the charts, which the template ``chart.html.j2`` writes as SVG."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recipes.reports.document import Axis, Chart, Point, Series

WIDTH = 480
HEIGHT = 270
LEFT, RIGHT, TOP, BOTTOM = 62, 470, 18, 226
# a logarithmic y axis shows so much: warm-ups start and decays end at 0
DECADES = 1e4
# named ticks that are closer, in pixels, would overlap
TICK_DISTANCE = 40
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
COLORS = [f"c{number % 6} d{number // 6}" for number in range(18)]


class Scale:
    """Maps the values of an axis to pixels from ``first`` to ``last``."""

    def __init__(self, axis: Axis, values: Sequence[float], first: float, last: float) -> None:
        self.axis = axis
        self.first = first
        self.last = last
        self.low, self.high = axis.limits or (min(values), max(values))

        # equal limits leave room on both sides
        if self.high - self.low <= 1e-12 * abs(self.high):
            room = abs(self.high) / 2 or 0.5
            self.low -= room
            self.high += room

    def pixel(self, value: float) -> float:
        """Return the pixel of ``value``, or of the end of the axis that it lies beyond."""
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        if self.axis.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return (pixel, label) of the axis' own ticks, or of about six round values."""
        if self.axis.ticks is None:
            return [(self.pixel(value), short(value)) for value in self._round_values()]

        # labels that would overlap are left out
        ticks: list[tuple[float, str]] = []
        for value, label in self.axis.ticks.items():
            pixel = self.pixel(value)
            if not ticks or pixel - ticks[-1][0] >= TICK_DISTANCE:
                ticks.append((pixel, label))
        return ticks

    def _round_values(self) -> list[float]:
        if self.axis.log:
            first = math.ceil(math.log10(self.low))
            last = math.floor(math.log10(self.high))
            if last <= first:
                return [self.low, self.high]
            step = math.ceil((last - first + 1) / 6)
            return [10.0**exponent for exponent in range(first, last + 1, step)]

        # 1, 2 or 5 times a power of ten
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / 5))
        distance = next(power * n for n in (1, 2, 5, 10) if span / (power * n) <= 5)
        first = math.ceil(self.low / distance)
        values = [index * distance for index in range(first, first + 7)]
        return [value for value in values if value <= self.high + distance * 1e-9]


@dataclass(frozen=True)
class Drawing:
    """A chart's scales, and the series that have points, with their classes of the style sheet."""

    x: Scale
    y: Scale
    series: list[tuple[Series, str]]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(name, class) of each kind of series."""
        return list(dict.fromkeys((series.name, style) for series, style in self.series))

    def line(self, points: Sequence[Point]) -> str:
        """Return SVG's list of the points."""
        return " ".join(f"{self.x.pixel(x)},{self.y.pixel(y)}" for x, y, _, _ in points)

    def band(self, points: Sequence[Point]) -> str:
        """Return SVG's list of the upper bounds, and back along the lower ones."""
        upper = [(x, high, 0.0, 0.0) for x, _, _, high in points]
        lower = [(x, low, 0.0, 0.0) for x, _, low, _ in reversed(points)]
        return self.line([*upper, *lower]).replace(" ", " L")


def draw(chart: Chart) -> Drawing | None:
    """Return how to draw ``chart``, or None where it has no points."""
    floor = -math.inf
    if chart.y.log:
        floor = max(series.highest for series in chart.series) / DECADES

    drawn: list[tuple[Series, str]] = []
    # tokens are counted from 0
    x_values = [0.0]
    y_values: list[float] = []
    # series without a style of their own take the colors in turn, then the same with dashes
    colors = itertools.cycle(COLORS)

    for series in chart.series:
        style = series.style or next(colors)
        points = [point for point in series.points if point[2] > floor]
        if points:
            drawn.append((replace(series, points=points), style))
        for x, _, low, high in points:
            x_values.append(x)
            y_values += (low, high)

    if not drawn:
        return None
    x_scale = Scale(chart.x, x_values, LEFT, RIGHT)
    return Drawing(x_scale, Scale(chart.y, y_values, BOTTOM, TOP), drawn)


def short(value: float) -> str:
    """Return a number as an axis shows it: 2.5M."""
    unit, suffix = next((pair for pair in UNITS if abs(value) >= pair[0]), (1, ""))
    return f"{value / unit:.4g}{suffix}"
