"""NVIDIA's metrics."""

import pytest

from evaluation.ruler import metrics


@pytest.mark.parametrize(
    ("task", "prediction", "references", "percent"),
    [
        ("vt", " ABC, DEF", ["ABC", "DEF"], 100),
        ("vt", "abc and xyz", ["ABC", "DEF"], 50),
        ("cwe", "", ["apple", "pear"], 0),
        ("niah_single_1", "It is 1234567.", ["1234567"], 100),
        ("qa_1", "In the year 1066.", ["1067", "1066", "the 1066"], 100),
        ("qa_1", "\x00 the\x07river ", ["the\nriver"], 100),
        ("qa_2", "no idea", ["yes"], 0),
    ],
)
def test_metrics(task: str, prediction: str, references: list[str], percent: float) -> None:
    assert metrics.score(task, prediction, references) == percent
