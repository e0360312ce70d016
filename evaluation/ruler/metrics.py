"""NVIDIA's two RULER metrics for one answer, in percent."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean(prediction: str) -> str:
    """Return ``prediction`` as NVIDIA scores it: stripped, control characters as line ends, stripped again."""
    return _CONTROL.sub("\n", prediction.strip()).strip()


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the percentage (0..100) of ``references`` that ``prediction`` contains, in any case of letters."""
    found = clean(prediction).lower()
    return 100.0 * sum(reference.lower() in found for reference in references) / len(references)


def match_any(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where ``prediction`` contains one of ``references``, in any case of letters, else 0."""
    found = clean(prediction).lower()
    return 100.0 * any(reference.lower() in found for reference in references)


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Return the percentage for one answer: any reference in the question tasks, the share of all in the others."""
    return (match_any if task.startswith("qa_") else match_all)(prediction, references)
