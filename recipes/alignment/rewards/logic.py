"""Logical reasoning: who is what, in which order, or a short answer."""

import re
from dataclasses import dataclass, field

from recipes.alignment.rewards.answer import normalized, statement
from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, SeveralAnswers, wrong

_PAIR = re.compile(r"(\w+)\s*(?:is\s+(?:an?\s+)?|[:=]\s*)(\w+)", re.IGNORECASE)
_BETWEEN_PAIRS = re.compile(r"\s*(?:[,;.\n]\s*(?:and\s+)?|\band\s+)")
_BETWEEN_PLACES = re.compile(r"\s*(?:,|<|>|->|→)\s*")


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with: one of the three.

    Attributes:
        kinds: name -> what it is, such as ``{"Ann": "knave"}``.
        order: names from the first place on.
        answer: a word or a few.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    answer: str = ""


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: it is not one of the three.
    """
    given = [bool(gold.kinds), bool(gold.order), bool(normalized(gold.answer))]
    if sum(given) != 1:
        raise BadGold("it has not exactly one of kinds, order and answer")
    if gold.kinds:
        return "Answer: " + ", ".join(f"{name}: {kind}" for name, kind in gold.kinds.items())
    if len(set(gold.order)) < len(gold.order):
        raise BadGold("its order has a name twice")
    return "Answer: " + (", ".join(gold.order) or gold.answer)


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    stated = statement(answer)
    if gold.kinds:
        found = _kinds(stated)
        expected = {normalized(name): normalized(kind) for name, kind in gold.kinds.items()}
        is_right = found == expected
    elif gold.order:
        places = [normalized(name) for name in _BETWEEN_PLACES.split(stated)]
        is_right = places == [normalized(name) for name in gold.order]
    else:
        is_right = normalized(stated) == normalized(gold.answer)
    return RIGHT if is_right else wrong(f"it states {stated!r:.60}")


def _kinds(stated: str) -> dict[str, str]:
    """Return name -> what it is.

    Raises:
        NoAnswer: something else stands between them.
        SeveralAnswers: a name is two things.
    """
    found: dict[str, str] = {}
    for piece in _BETWEEN_PAIRS.split(stated):
        match = _PAIR.fullmatch(piece.strip())
        if not match:
            raise NoAnswer(f"it states {piece!r:.60}, expected as 'NAME: KIND'")
        name = normalized(match[1])
        kind = normalized(match[2])
        if found.setdefault(name, kind) != kind:
            raise SeveralAnswers(f"it states two things of {match[1]}")
    return found
