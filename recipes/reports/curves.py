"""Curves of a chart: thinned while millions of points are read, and sampled from a schedule."""

from dataclasses import dataclass

from recipes.reports.document import Point
from recipes.spec.schedules import Schedule
from recipes.spec.tree import flatten

# a chart is a few hundred pixels wide
MOST_POINTS = 500


@dataclass(slots=True)
class Bucket:
    """Neighboring points of a curve: their number, the sums of x and y, and the bounds of y."""

    count: int
    x: float
    y: float
    low: float
    high: float

    def add(self, other: "Bucket") -> None:
        """Count the points of ``other`` here."""
        self.count += other.count
        self.x += other.x
        self.y += other.y
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def mean(self, offset: float) -> Point:
        """Return (mean x + offset, mean y, lowest y, highest y)."""
        return offset + self.x / self.count, self.y / self.count, self.low, self.high


class Curve:
    """A curve of at most :data:`MOST_POINTS` buckets, each of equally many points."""

    def __init__(self) -> None:
        self._buckets: list[Bucket] = []
        self._per_bucket = 1

    def add(self, x: float, y: float) -> None:
        """Add a point; x does not fall."""
        point = Bucket(1, x, y, y, y)
        if self._buckets and self._buckets[-1].count < self._per_bucket:
            self._buckets[-1].add(point)
            return

        if len(self._buckets) == MOST_POINTS:
            self._halve()
        self._buckets.append(point)

    def _halve(self) -> None:
        for left, right in zip(self._buckets[::2], self._buckets[1::2], strict=True):
            left.add(right)
        self._buckets = self._buckets[::2]
        self._per_bucket *= 2

    def points(self, offset: float = 0.0) -> list[Point]:
        """Return a point for every bucket, with ``offset`` added to x."""
        return [bucket.mean(offset) for bucket in self._buckets]


def curve_tokens(schedule: Schedule, end: float) -> list[float]:
    """Return tokens from 0 to ``end`` to draw ``schedule`` at: dense where it bends or nears 0."""
    import numpy as np

    warmup = flatten(schedule).get("warmup_tokens")
    bend = min(warmup.value, end) if warmup else 0
    even = np.linspace(0, end, 200)
    # dense at both ends
    close = np.geomspace(end * 1e-6, end, 200)
    return np.unique(np.concatenate([[0, bend, end], even, close, end - close])).tolist()
