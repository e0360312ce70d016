"""NVIDIA's two RULER metrics for one answer, in percent."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the percentage of ``references`` that ``prediction`` has, in any case of letters.

    For the tasks with several answers, such as needles.
    """
    text = _clean(prediction)
    found = [reference for reference in references if reference.lower() in text]
    return 100.0 * len(found) / len(references)


def match_any(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where ``prediction`` has one of ``references``, in any case of letters, else 0.

    For the question tasks, whose answer has several right wordings.
    """
    return 100.0 if match_all(prediction, references) else 0.0


def _clean(prediction: str) -> str:
    """Return ``prediction`` as NVIDIA scores it: stripped, with control characters as line ends."""
    text = _CONTROL.sub("\n", prediction.strip())
    return text.strip().lower()
