"""Curves: thinned with their bounds, and dense where a schedule bends."""

import math

import pytest

from recipes.registry.resolve import resolve
from recipes.reports.curves import MOST_POINTS, Curve, curve_tokens


def test_a_curve_keeps_the_bounds_and_the_mean_of_many_points() -> None:
    curve, count = Curve(), 12_345
    for x in range(count):
        curve.add(x, math.sin(x) + (50 if x == 7_000 else 0))
    points = curve.points()
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert [x for x, *_ in points] == sorted(x for x, *_ in points)
    assert min(low for _, _, low, _ in points) == min(math.sin(x) for x in range(count))
    assert max(high for *_, high in points) == math.sin(7_000) + 50
    assert all(low <= y <= high for _, y, low, high in points)
    # buckets of 32 points, the last one shorter
    assert points[0][:2] == (15.5, pytest.approx(sum(map(math.sin, range(32))) / 32))


def test_an_override_moves_the_points() -> None:
    schedule = resolve("phase1", "8b", ["schedule.warmup_tokens=2000000000"]).schedule
    assert 2 * 10**9 in curve_tokens(schedule, 10**13)
