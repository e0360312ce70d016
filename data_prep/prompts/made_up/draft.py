"""A prompt before it has an id, and how hard it is."""

from dataclasses import dataclass, field
from typing import Any

# of the easy level, as the made-up conversations of size tiny have them: a model of 300K parameters
# that was trained on those answers some of these prompts
LETTERS = "abcdefghij"
DIGITS = range(10)

BOXED = r"Put your final answer in \boxed{}."
LABELLED = "End with a line 'Answer: ' and your answer."


@dataclass(frozen=True)
class Draft:
    """A question and its gold answer.

    Attributes:
        question: the user's message.
        gold: of the generator's reward function.
        documents: for the chat template.
    """

    question: str
    gold: dict[str, Any]
    documents: list[dict[str, Any]] = field(default_factory=list)


def asked(question: str, how: str, is_easy: bool) -> str:
    """Return a question, and unless it is easy how its answer is to be given."""
    return question if is_easy else f"{question}\n{how}"
