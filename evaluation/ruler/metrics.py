"""NVIDIA's two RULER metrics for one answer, in percent."""

import re
from collections.abc import Sequence

from evaluation.ruler.settings import QUESTION_TASKS

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean(prediction: str) -> str:
    """Return ``prediction`` as NVIDIA scores it: stripped, with control characters as line ends."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the percentage of ``references`` that ``prediction`` has, in any case of letters."""
    text = clean(prediction).lower()
    return 100.0 * sum(reference.lower() in text for reference in references) / len(references)


def match_any(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where ``prediction`` has one of ``references``, in any case of letters, else 0."""
    text = clean(prediction).lower()
    return 100.0 * any(reference.lower() in text for reference in references)


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Return the percentage for one answer: ``match_any`` for questions, else ``match_all``."""
    # a question has several right wordings, a needle task several needles
    if task in QUESTION_TASKS:
        return match_any(prediction, references)
    return match_all(prediction, references)
