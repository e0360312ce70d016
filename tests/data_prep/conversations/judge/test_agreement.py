"""Accuracy, kappa and their intervals."""

import random

import pytest

from data_prep.conversations.judge.agreement import agreement, mean_estimate

pytestmark = pytest.mark.slow


def test_kappa_is_scikit_learns() -> None:
    from sklearn.metrics import cohen_kappa_score

    choice = random.Random(1).choice
    for _ in range(20):
        ours = [choice("abc") for _ in range(30)]
        theirs = [choice((label, "a", "d")) for label in ours]
        found = agreement(ours, theirs)
        assert found.kappa.value == pytest.approx(cohen_kappa_score(ours, theirs))
        assert found.kappa.low <= found.kappa.value <= found.kappa.high
        assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
        assert found == agreement(ours, theirs)


def test_an_interval_is_the_binomials() -> None:
    found = agreement(["a"] * 80 + ["b"] * 20, ["a"] * 100).accuracy
    assert found.value == 0.8
    assert found.low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.015)
    assert found.high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.015)


def test_a_kappa_that_is_undefined() -> None:
    found = agreement(["a", "a"], ["a", "a"])
    assert found.accuracy.value == 1
    assert found.kappa.value is None


def test_a_mean() -> None:
    found = mean_estimate([1.0] * 50 + [3.0] * 50)
    assert found.value == 2
    assert found.low == pytest.approx(2 - 0.196, abs=0.03)
    assert found.high == pytest.approx(2 + 0.196, abs=0.03)
