"""Values of files that may be damaged, and how the reports write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from recipes.common.errors import UserError

Value = TypeVar("Value")

# sums of numbers below the bound stay finite
IMPLAUSIBLE = 1e100
MOST_NAMES = 6
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


class Problems(list[str]):
    """Files that could not be read, a sentence each, with paths relative to a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def note(self, problem: object) -> None:
        """Add a problem, an error or a sentence."""
        sentence = " ".join(str(problem).split())
        self.append(sentence.replace(f"{self.folder}/", "")[:400])

    def read_or_note(self, read: Callable[[Path], Value], path: Path) -> Value | None:
        """Return what ``read`` returns for ``path``; None and a note for a file that is damaged."""
        try:
            return read(path)
        except UserError as error:
            self.note(error)
            return None


def as_number(value: Any) -> float | None:
    """Return ``value`` if it is a plausible number; None for all else, such as NaN."""
    # not isinstance: a bool is an int
    if type(value) not in (float, int) or not -IMPLAUSIBLE < value < IMPLAUSIBLE:
        return None
    # the scales of the charts could not divide by less
    return value if abs(value) > 1 / IMPLAUSIBLE else 0.0


def formatted(value: Any, form: str, suffix: str = "") -> str:
    """Return a number in a format of :func:`format`, with its unit; a dash for all else."""
    number = as_number(value)
    if number is None:
        return "-"
    return f"{number:{form}}{suffix}"


def count(value: Any) -> str:
    """Return a whole number with commas; a dash for all else."""
    return formatted(value, ",.0f")


def listed(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    shown = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        shown += f" and {len(names) - MOST_NAMES} more"
    return shown


def short(value: float) -> str:
    """Return a number as an axis shows it: 2.5M."""
    for unit, suffix in UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}"
