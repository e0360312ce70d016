"""In-context learning: exactly the output that the examples of the prompt imply."""

import re
from dataclasses import dataclass

from recipes.alignment.rewards.answer import LONGEST_STATEMENT
from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, wrong

_LABEL = re.compile(r"(?:the\s+)?(?:output|answer)(?:\s+is)?\s*:?\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with, in every character: the examples may be about case.

    Attributes:
        answer: the output, one line.
    """

    answer: str


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: it is empty, longer than an answer may be, or of several lines.
    """
    text = gold.answer.strip()
    if not 0 < len(text) <= LONGEST_STATEMENT or "\n" in text:
        raise BadGold(f"its answer is {text!r:.60}, expected one line")
    return text


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    lines = answer.strip().splitlines()
    if len(lines) > 1 or len(lines[0]) > 2 * LONGEST_STATEMENT:
        raise NoAnswer("it is more than one line")
    if _bare(lines[0]) == _bare(gold.answer):
        return RIGHT
    return wrong(f"it states {lines[0]!r:.60}")


def _bare(text: str) -> str:
    """Return text without a label, and without one pair of quotation marks or backquotes."""
    bare = text.strip()
    label = _LABEL.match(bare)
    if label:
        bare = bare[label.end() :]
    if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'`":
        bare = bare[1:-1]
    return bare.strip()
