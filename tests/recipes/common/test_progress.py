"""The time left follows from the cost of what is done."""

import pytest

from recipes.common.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_the_rest_takes_as_long_as_its_cost() -> None:
    clock = Clock()
    progress = Progress(total=40.0, clock=clock)
    assert progress.seconds_left is None
    assert progress.rate == 0

    clock.seconds += 5
    progress.advance(10)
    assert (progress.seconds, progress.rate) == (5, 2)
    assert progress.seconds_left == 15


def test_a_cost_beyond_the_total_leaves_nothing() -> None:
    clock = Clock()
    progress = Progress(total=1.0, clock=clock)
    clock.seconds += 1
    progress.advance(2)
    assert progress.seconds_left == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.4, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (3540, "59 min"),
        (3600, "1 h 00 min"),
        (11_100, "3 h 05 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
