"""What an answer is worth."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How the scoring of an answer ended."""

    RIGHT = "right"
    WRONG = "wrong"
    # it states nothing that can be compared with the gold answer
    UNREADABLE = "unreadable"
    # the answer made the reward function take too long, or too much memory
    TIMED_OUT = "timed_out"
    # nothing is known of the answer: the step is to be repeated
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Reward:
    """The reward of one answer.

    Attributes:
        value: from 0 to 1, of a reward model any finite number; NaN where the outcome is
            ``infrastructure``, as that says nothing of the answer.
        outcome: how it came about.
        reason: half a sentence for a log; empty where the answer is right.
    """

    value: float
    outcome: Outcome
    reason: str = ""


RIGHT = Reward(1.0, Outcome.RIGHT)


def wrong(reason: str) -> Reward:
    """Return the reward of a wrong answer."""
    return Reward(0.0, Outcome.WRONG, reason)


def unreadable(reason: str) -> Reward:
    """Return the reward of an answer that cannot be read."""
    return Reward(0.0, Outcome.UNREADABLE, reason)


def timed_out(reason: str) -> Reward:
    """Return the reward of an answer that cannot be scored within the limits."""
    return Reward(0.0, Outcome.TIMED_OUT, reason)


def infrastructure(reason: str) -> Reward:
    """Return what stands for the reward of an answer that could not be scored."""
    return Reward(math.nan, Outcome.INFRASTRUCTURE, reason)


class NoAnswer(Exception):
    """An answer states nothing that can be read; the argument says why, half a sentence."""


class SeveralAnswers(Exception):
    """An answer states several things, of which one may be right."""


class BadGold(Exception):
    """A gold answer cannot be used; the argument says why, half a sentence."""
