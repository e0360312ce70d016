r"""Math: the answer in ``\boxed{}`` equals the gold answer, by math-verify.

A number is asked for as a number: ``2 + 2`` is no answer to what 2 + 2 is. For other golds an
expression that the question spells out is no answer, such as the product that is to be expanded.
"""

import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from recipes.alignment.rewards.answer import statement
from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, unreadable, wrong

# characters; a polynomial of degree twenty has fewer
_LONGEST = 400
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?")
_FRACTION = re.compile(r"([+-]?\d+)\s*/\s*(\d+)|([+-]?)\\[dt]?frac\s*\{(-?\d+)\}\s*\{(-?\d+)\}")
# the sign of a currency or a percentage, LaTeX's spaces, and the unit after a number
_AROUND = re.compile(
    r"\\text\{[^{}]*\}|\\[,;!%$ ]|[%°€£$]|(?<=\d)\s+(?!or\b|and\b)[A-Za-z]{2,}( [A-Za-z]+)*$"
)


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        answer: a number, or LaTeX without dollars.
    """

    answer: str


def example(gold: Gold) -> str:
    """Return an answer that is right.

    Raises:
        BadGold: math-verify reads nothing in it.
    """
    text = gold.answer.strip()
    if not text or len(text) > _LONGEST:
        raise BadGold(f"its answer has {len(text)} characters, expected 1 to {_LONGEST}")
    if _as_number(text) is None:
        if not _parsed(text):
            raise BadGold(f"its answer {text!r:.60} is no expression")
        # one that hangs when it is compared hangs here
        _is_equal(text, "x^2+1")
    return rf"\boxed{{{text}}}"


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    stated = statement(answer)
    if len(stated) > _LONGEST:
        return unreadable(f"it states {len(stated)} characters, of {_LONGEST} that are read")
    number = _as_number(gold.answer)
    if number is not None:
        found = _as_number(_after_equals(stated))
        if found is None:
            raise NoAnswer(f"it states {stated!r:.60}, which is no number")
        if found == number:
            return RIGHT
        return wrong(f"it states {stated!r:.60}")

    is_gold = _squeezed(stated) == _squeezed(gold.answer)
    if not is_gold and _squeezed(stated) in _squeezed(question):
        return wrong("what it states is in the question")
    if not _parsed(stated):
        raise NoAnswer(f"it states {stated!r:.60}, which is no expression")
    if _is_equal(gold.answer.strip(), stated):
        return RIGHT
    return wrong(f"it states {stated!r:.60}")


def _after_equals(text: str) -> str:
    """Return the right side of an equation, as of ``x = 3``."""
    return text.rpartition("=")[2].strip()


def _as_number(text: str) -> Fraction | None:
    """Return the number that is written out, or None."""
    plain = _AROUND.sub("", text.strip()).strip()
    if plain and _NUMBER.fullmatch(plain) and plain[-1].isdigit():
        return Fraction(plain.replace(",", ""))
    match = _FRACTION.fullmatch(plain)
    if not match:
        return None
    numerator = int(match[1] or match[4])
    denominator = int(match[2] or match[5])
    if match[3] == "-":
        numerator = -numerator
    if denominator == 0:
        return None
    return Fraction(numerator, denominator)


def _squeezed(text: str) -> str:
    return "".join(text.split()).replace("$", "")


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Return what math-verify reads: a list, empty where it reads nothing."""
    from math_verify import parse

    _silence()
    return parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None)


# the samples of a prompt often state the same
@lru_cache(maxsize=4096)
def _is_equal(gold: str, stated: str) -> bool:
    """Whether two expressions are equal, by math-verify."""
    from math_verify import verify

    _silence()
    return bool(verify(_parsed(gold), _parsed(stated), timeout_seconds=None))


def _silence() -> None:
    """Stop math-verify from saying that its timers are off: a worker's limit does their work."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
