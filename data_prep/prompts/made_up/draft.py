"""A prompt before it has an id, and how hard it is."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# of the easy level, as the made-up conversations of size tiny have them: a model of 300K parameters
# that was trained on those answers some of these prompts
LETTERS = "abcdefghij"
DIGITS = range(10)

BOXED = r"Put your final answer in \boxed{}."
LABELLED = "End with a line 'Answer: ' and your answer."


@cache
def words(kind: str) -> Any:
    """Return the words of a kind, of ``words.yaml``."""
    file = Path(__file__).with_name("words.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))[kind]


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
