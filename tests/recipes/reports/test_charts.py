"""Curves of many points are drawn as means of neighbors, within their bounds."""

import math
import re

import pytest

from recipes.reports.charts import MOST_POINTS, chart_svg
from recipes.reports.document import Chart, Series

pytestmark = pytest.mark.slow


def path(svg: str, name: str) -> list[tuple[float, float]]:
    """Return the points of a curve's or a band's path, in pixels."""
    group = svg.partition(f'<g class="{name}">')[2]
    outline = re.search(' d="([^"]*)"', group)
    assert outline
    points = re.findall(r"[ML] (\S+) (\S+)", outline[1])
    return [(float(x), float(y)) for x, y in points]


def test_a_curve_keeps_the_bounds_and_the_mean_of_many_points() -> None:
    x = range(12_345)
    y = [math.sin(value) + (50 if value == 7_000 else 0) for value in x]
    svg = chart_svg(Chart("many", [Series("curve", x, y)], {"ylim": (-10, 60)}))
    points = path(svg, "curve")
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert [x for x, _ in points] == sorted(x for x, _ in points)

    # the mean of 25 points of which one is 50, and the bounds of all of them
    mean = [y for _, y in points]
    bounds = [y for _, y in path(svg, "curve band")]
    assert (max(bounds) - min(bounds)) / (max(mean) - min(mean)) == pytest.approx(25, rel=0.1)


def test_a_short_curve_is_drawn_as_it_is_without_a_band() -> None:
    svg = chart_svg(Chart("few", [Series("curve", [0, 1, 2], [5, 6, 4])], {}))
    assert len(path(svg, "curve")) == 3
    assert "band" not in svg


def test_what_a_name_holds_is_text() -> None:
    name = '<script>$x^2$ & "q"'
    svg = chart_svg(Chart(name, [Series(name, [0, 1], [5, 6])], {}))
    assert "<script" not in svg
    assert "&lt;script&gt;$x^2$ &amp;" in svg
