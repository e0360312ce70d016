"""The steps of a RULER prompt that all tasks share.

A builder draws everything from the random numbers that it receives, fills the rest of the prompt
with pieces of a known number of tokens, and cuts the last piece at a word. Where the pieces' tokens
add up (byte-level BPE that splits at words) the prompt has the requested length; ``generation``
counts the whole prompt and builds it again where they do not.

``room`` is the number of tokens that a prompt, or what is left of it, may take.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.counting import Counter
from evaluation.ruler.settings import Settings
from evaluation.ruler.tables import NOISE, Tables, count_fitting, prefix_sums

S = TypeVar("S", bound=Settings)

# a word with the space before it, or a part of one that ends in a hyphen
_PIECE = re.compile(r"\s*[^\s-]*-?")


@dataclass(frozen=True)
class Draft:
    """A prompt and its answers.

    Attributes:
        text: the prompt, which ends with ``answer_prefix``.
        answer_prefix: the beginning of the answer.
        outputs: the answers.
    """

    text: str
    answer_prefix: str
    outputs: list[str]


@dataclass(frozen=True)
class Frame:
    """What a prompt has around its context.

    Attributes:
        example: a solved example, or nothing.
        head: the task's introduction.
        end: the question, and ``answer_prefix``.
        answer_prefix: the beginning of the answer.
    """

    example: str
    head: str
    end: str
    answer_prefix: str

    def draft(self, context: str, outputs: list[str]) -> Draft:
        """Return the prompt with ``context``."""
        text = f"{self.example}{self.head}{context}{self.end}"
        return Draft(text, self.answer_prefix, outputs)


@dataclass
class Builder(Generic[S]):
    """Makes the prompts of one task at one length by one of its settings.

    Attributes:
        task: its name.
        length: tokens of prompt and answer.
        settings: its settings.
        tables: texts and their tokens.
    """

    task: str
    length: int
    settings: S
    tables: Tables

    @property
    def counter(self) -> Counter:
        """Counts tokens."""
        return self.tables.counter

    @property
    def details(self) -> dict[str, object]:
        """What the settings leave open, for the metadata."""
        return {}

    @property
    def limit(self) -> int:
        """Tokens that a prompt can have, with those that the tokenizer adds."""
        return self.length - self.settings.budget

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        """Return the prompt of about ``room`` tokens or, where that is too few, the shortest.

        Args:
            rng: random numbers; the same give the same prompt but for its length.
            index: of the sample.
            room: tokens.
        """
        raise NotImplementedError

    def frame(self, example: str = "", **values: object) -> Frame:
        """Return the fixed parts of a prompt.

        Args:
            example: solved, before the head.
            values: what ``tail`` and ``answer_prefix`` leave open.
        """
        question = self.settings.tail.format(**values)
        answer_prefix = self.settings.answer_prefix.format(**values)
        return Frame(
            example=example,
            head=self.settings.head,
            end=f"{question}{answer_prefix}",
            answer_prefix=answer_prefix,
        )

    def fixed_cost(self, frame: Frame, hidden: Sequence[str] = ()) -> int:
        """Return the tokens of ``frame`` and of the lines that are hidden in the context."""
        hidden_lines = [f"{line}\n" for line in hidden]
        fixed = self.cost(frame.example, frame.head, *hidden_lines, frame.end)
        return fixed + self.counter.added

    def cost(self, *texts: str) -> int:
        """Return the sum of the tokens that each of ``texts`` has by itself."""
        return int(self.counter.counts(texts).sum())

    def noise(self, room: int) -> list[str]:
        """Return lines of noise that fill ``room`` tokens."""
        number = max(room, 0) // self.tables.noise + 1
        costs = np.full(number, self.tables.noise)
        return self.fill([NOISE] * number, costs, room)

    def fill(
        self,
        lines: Sequence[str],
        costs: np.ndarray,
        room: int,
    ) -> list[str]:
        """Return as many of ``lines`` as fit, the last one cut.

        Args:
            lines: without their line ends.
            costs: tokens of each, with its line end.
            room: tokens for all.
        """
        sums = prefix_sums(costs)
        whole = count_fitting(sums, room)
        filled = list(lines[:whole])
        if whole == len(lines):
            return filled

        # a token for the line end; a thousandth of the length is not worth a part of a line
        rest = room - int(sums[whole]) - 1
        if rest > self.length // 1024:
            part = self.cut(lines[whole], rest)
            filled += [part] if part else []
        return filled

    def cut(self, text: str, room: int) -> str:
        """Return the beginning of ``text`` that fits in ``room`` tokens, whole words."""
        if room <= 0:
            return ""
        pieces = list(filter(None, _PIECE.findall(text)))
        sums = prefix_sums(self.counter.counts(pieces))
        fitting = count_fitting(sums, room)
        return "".join(pieces[:fitting]).rstrip(" \n-")


def insert(
    lines: list[str],
    inserted: Sequence[str],
    rng: RandomState,
) -> str:
    """Return ``lines`` with all of ``inserted`` before random ones, as one text.

    Args:
        lines: a haystack.
        inserted: lines, which stay in this order.
        rng: random numbers.
    """
    if len(lines) >= len(inserted):
        places = rng.permutation(len(lines))[: len(inserted)]
    else:
        # several before the same line
        places = rng.randint(0, len(lines) + 1, len(inserted))
    places.sort()

    result: list[str] = []
    start = 0
    for place, text in zip(places.tolist(), inserted, strict=True):
        result += lines[start:place]
        result.append(text)
        start = place
    result += lines[start:]
    return "\n".join(result)


def draw_distinct(number: int, draw: Callable[[int], list[str]]) -> list[str]:
    """Return ``number`` different texts or more.

    Args:
        number: of texts.
        draw: returns random texts, given how many are missing.
    """
    drawn: dict[str, None] = {}
    while len(drawn) < number:
        missing = number - len(drawn)
        drawn |= dict.fromkeys(draw(missing))
    return list(drawn)


def draw_names(
    rng: RandomState,
    first: str,
    letters: int,
    number: int,
) -> list[str]:
    """Return random names, of which some may be the same.

    Args:
        rng: random numbers.
        first: the first of the 26 letters.
        letters: of a name.
        number: of names.
    """
    codes = rng.randint(0, 26, letters * number) + ord(first)
    return split(bytes(codes.tolist()).decode(), letters)


def split(text: str, size: int) -> list[str]:
    """Return ``text`` in parts of ``size`` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]
