"""Values with their origin: published, derived, assumed, or set by the user."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Origin = Literal["published", "derived", "assumed", "override"]

SOURCES = {
    "W": 'IBM, "Granite 4.1 LLMs: How They\'re Built" (2026-04-29)',
    "D": "IBM's machine-readable disclosures for Granite 4.1 (CDLA-Permissive-2.0)",
    "C": "config.json of the released models on Hugging Face, as quoted by third parties",
    "P": "Power Scheduler paper, arXiv 2408.13359",
}


@dataclass(frozen=True)
class Sourced(Generic[T]):
    """A value and its origin.

    Attributes:
        value: the value in the unit that the field's name or docstring states.
        origin: published (by IBM or in the power scheduler paper), derived (arithmetic on published
            numbers), assumed (chosen here) or override (set by the user).
        why: the source for a published value, the arithmetic for a derived one, the reason for an
            assumed one.
        fact: for a published value, its path in ``facts.yaml`` (``models.3b.hidden_size``); a test
            compares the two.
    """

    value: T
    origin: Origin
    why: str
    fact: str | None = None


def published(value: T, source: str, fact: str) -> Sourced[T]:
    """A number from source W, D, C or P (see :data:`SOURCES`), which is ``fact`` in facts.yaml."""
    return Sourced(value, "published", SOURCES[source], fact)


def derived(value: T, arithmetic: str) -> Sourced[T]:
    """A number that follows from published ones by ``arithmetic``."""
    return Sourced(value, "derived", arithmetic)


def assumed(value: T, reason: str) -> Sourced[T]:
    """A number that nobody published, chosen here for ``reason``."""
    return Sourced(value, "assumed", reason)
