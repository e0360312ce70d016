"""NVIDIA's metrics."""

import pytest

from evaluation.ruler import metrics


@pytest.mark.parametrize(
    ("prediction", "references", "percent"),
    [
        (" ABC, DEF", ["ABC", "DEF"], 100),
        ("abc and xyz", ["ABC", "DEF"], 50),
        ("", ["apple", "pear"], 0),
        ("It is 1234567.", ["1234567"], 100),
    ],
)
def test_match_all(prediction: str, references: list[str], percent: float) -> None:
    assert metrics.match_all(prediction, references) == percent


@pytest.mark.parametrize(
    ("prediction", "references", "percent"),
    [
        ("In the year 1066.", ["1067", "1066", "the 1066"], 100),
        ("\x00 the\x07river ", ["the\nriver"], 100),
        ("no idea", ["yes"], 0),
    ],
)
def test_match_any(prediction: str, references: list[str], percent: float) -> None:
    assert metrics.match_any(prediction, references) == percent
