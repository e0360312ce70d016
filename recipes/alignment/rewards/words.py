"""Rules over the words of a free answer, for general chat, identity and calibration."""

import re
from collections.abc import Iterable

from recipes.alignment.rewards.answer import normalized

# an answer that repeats itself: this share of its runs of words stands there already
_REPEATED_SHARE = 0.3
_RUN_WORDS = 6


def has_words(text: str, phrase: str) -> bool:
    """Whether the words of ``phrase`` stand next to each other in ``text``, case aside."""
    wanted = normalized(phrase)
    return bool(wanted) and f" {wanted} " in f" {normalized(text)} "


def has_any(text: str, phrases: Iterable[str]) -> bool:
    """Whether one of the phrases is in ``text``."""
    return any(has_words(text, phrase) for phrase in phrases)


def clauses(text: str) -> list[str]:
    """Return the parts of sentences, cut at marks and before "but"."""
    pieces = re.split(r"[.!?;,:\n]|\bbut\b|\bhowever\b", text, flags=re.IGNORECASE)
    return [piece.strip() for piece in pieces if piece.strip()]


def repeats_itself(text: str) -> bool:
    """Whether a large share of the runs of six words stands in the text before."""
    words = normalized(text).split()
    runs = []
    for start in range(len(words) - _RUN_WORDS + 1):
        runs.append(tuple(words[start : start + _RUN_WORDS]))
    if not runs:
        return False
    return 1 - len(set(runs)) / len(runs) > _REPEATED_SHARE
