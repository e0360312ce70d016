"""Curves of a chart: thinned while millions of points are read, and sampled from a schedule."""

from collections.abc import Sequence
from statistics import fmean

from recipes.reports.document import Point
from recipes.spec.schedules import Schedule
from recipes.spec.tree import flatten

# a chart is a few hundred pixels wide
MOST_POINTS = 500


class Curve:
    """A curve of at most :data:`MOST_POINTS` points, each the mean of equally many."""

    def __init__(self) -> None:
        self._means: list[Point] = []
        self._pending: list[Point] = []
        self._per_mean = 1

    def add(self, x: float, y: float) -> None:
        """Add a point; x does not fall."""
        self._pending.append((x, y, y, y))
        if len(self._pending) == self._per_mean:
            self._means.append(_mean(self._pending))
            self._pending = []

        if len(self._means) == MOST_POINTS:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [_mean(pair) for pair in pairs]
            self._per_mean *= 2

    def points(self, offset: float = 0.0) -> list[Point]:
        """Return (mean x + ``offset``, mean y, lowest y, highest y) of neighboring points."""
        means = list(self._means)
        if self._pending:
            means.append(_mean(self._pending))
        return [(x + offset, y, low, high) for x, y, low, high in means]


def _mean(points: Sequence[Point]) -> Point:
    x, y, low, high = zip(*points, strict=True)
    return fmean(x), fmean(y), min(low), max(high)


def curve_tokens(schedule: Schedule, end: float) -> list[float]:
    """Return tokens from 0 to ``end`` to draw ``schedule`` at: dense where it bends or nears 0."""
    import numpy as np

    warmup = flatten(schedule).get("warmup_tokens")
    bend = min(warmup.value, end) if warmup else 0
    even = np.linspace(0, end, 200)
    # dense at both ends
    close = np.geomspace(end * 1e-6, end, 200)
    return np.unique(np.concatenate([[0, bend, end], even, close, end - close])).tolist()
