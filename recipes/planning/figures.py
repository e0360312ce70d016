"""A number of a plan with its unit and the arithmetic that gives it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A number of a plan.

    Attributes:
        unit: of ``value``; empty for a count.
        formula: the arithmetic with its numbers, and the origin of what is assumed.
    """

    value: float
    unit: str
    formula: str

    def __str__(self) -> str:
        text = number(self.value)
        return f"{text} {self.unit}" if self.unit else text


def number(value: float) -> str:
    """Return a number for a reader: whole with commas from 1,000 on, else three figures."""
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return str(int(value))
    return f"{value:.3g}"
