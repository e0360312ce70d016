"""Metrics of a step's answers, by hand."""

import pytest

from recipes.alignment.rewards.reward import Outcome
from recipes.alignment.rl.answers import AnswerRecord, reward_metrics


def record(draw, reward, outcome, tokens=10, domain="math", is_finished=True) -> AnswerRecord:
    return AnswerRecord(draw, f"p{draw}", domain, reward, outcome, tokens, is_finished)


RIGHT, WRONG = Outcome.RIGHT, Outcome.WRONG


def test_metrics() -> None:
    metrics = reward_metrics(
        [
            record(0, 1.0, RIGHT),
            record(0, 0.0, WRONG, tokens=30),
            record(1, 1.0, RIGHT, tokens=20),
            record(1, 1.0, RIGHT, tokens=30),
            record(2, 0.0, Outcome.TIMED_OUT, domain="logic", tokens=50, is_finished=False),
            record(2, 0.0, Outcome.UNREADABLE, domain="logic"),
            record(3, 0.25, WRONG, domain="logic"),
            record(3, 0.5, WRONG, domain="logic"),
        ]
    )
    assert metrics == {
        "reward": 3.75 / 8,
        "reward/logic": 0.75 / 4,
        "reward/math": 0.75,
        "response_length": 170 / 8,
        "response_length/right": 20,
        "response_length/timed_out": 50,
        "response_length/unreadable": 10,
        "response_length/wrong": pytest.approx(50 / 3),
        "truncated": 1 / 8,
        "timed_out": 1 / 8,
        "unreadable": 1 / 8,
        "no_signal": 2 / 4,
        "all_right": 1 / 4,
        "all_wrong": 2 / 4,
    }


def test_draws_of_one_prompt_are_two_groups() -> None:
    """A step at the end of a pass may hold a prompt twice."""
    again = AnswerRecord(9, "p0", "math", 0.0, WRONG, 1, True)
    metrics = reward_metrics([record(0, 1.0, RIGHT), record(0, 1.0, RIGHT), again, again])
    assert metrics["no_signal"] == 1
    assert metrics["all_right"] == metrics["all_wrong"] == 0.5
