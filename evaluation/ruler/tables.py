"""Texts with the tokens of their pieces, which all builders of one tokenizer share."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from evaluation.ruler.corpora import Corpora
from evaluation.ruler.counting import Counter
from evaluation.ruler.question_sets import Questions

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# An entry of a numbered list takes three tokens or more, a heading with its document eight.
_LEAST_ENTRY_TOKENS = 3
_LEAST_DOCUMENT_TOKENS = 8
_SPARE = 100


def prefix_sums(costs: np.ndarray) -> np.ndarray:
    """Return sums with ``sums[n]`` = tokens of the first n pieces, n = 0 .. len(costs).

    Args:
        costs: tokens of each piece.
    """
    return np.concatenate([[0], np.cumsum(costs)])


def count_fitting(sums: np.ndarray, room: float) -> int:
    """Return the greatest n with ``sums[n] <= room``, or 0.

    Args:
        sums: prefix sums of tokens, ascending.
        room: tokens.
    """
    fitting = int(np.searchsorted(sums, room, side="right"))
    return max(0, fitting - 1)


class Tables:
    """The texts, and how many tokens their pieces have; each is counted at its first use.

    Attributes:
        counter: of tokens.
        corpora: the texts.
    """

    def __init__(
        self,
        counter: Counter,
        corpora: Corpora,
        longest: int,
    ) -> None:
        """Prepare for prompts of up to ``longest`` tokens."""
        self.counter = counter
        self.corpora = corpora
        self._longest = longest
        self._costs: dict[str, np.ndarray] = {}

    @cached_property
    def noise(self) -> int:
        """Tokens of a line of noise."""
        return int(self.counter.counts([f"{NOISE}\n"])[0])

    @cached_property
    def essay(self) -> "Essay":
        """The essays, repeated to the greatest length."""
        return Essay(self.counter, self.corpora, self._longest)

    @cached_property
    def number_sums(self) -> np.ndarray:
        """The prefix sums of the numbers before the entries of a list."""
        most = self._longest // _LEAST_ENTRY_TOKENS + _SPARE
        numbers = [f" {number}." for number in range(1, most)]
        return prefix_sums(self.counter.counts(numbers))

    @cached_property
    def headings(self) -> np.ndarray:
        """The prefix sums of the headings of documents."""
        most = self._longest // _LEAST_DOCUMENT_TOKENS + _SPARE
        names = [f"Document {number}:\n" for number in range(1, most)]
        return prefix_sums(self.counter.counts(names))

    def words(self, pool: str) -> tuple[Sequence[str], np.ndarray]:
        """Return the words of a pool of ``corpora`` and the tokens of each after a space."""
        words = self.corpora.pool(pool)
        if pool not in self._costs:
            texts = [f" {word}" for word in words]
            self._costs[pool] = self.counter.counts(texts)
        return words, self._costs[pool]

    def documents(self, task: str) -> tuple[Questions, np.ndarray]:
        """Return ``task``'s questions, and the tokens of each document with a blank line."""
        questions = self.corpora.questions(task)
        if task not in self._costs:
            texts = [f"{document}\n\n" for document in questions.documents]
            self._costs[task] = self.counter.counts(texts)
        return questions, self._costs[task]


class Essay:
    """The essays again and again, in words and sentences.

    Words are what spaces separate. They are numbered from 0 on through all copies.

    Attributes:
        text: all of it.
        tokens: prefix sums of the tokens of its words.
        starts: where each word starts, and where the text ends, in characters.
        sentences: the first word of each sentence.
    """

    def __init__(
        self,
        counter: Counter,
        corpora: Corpora,
        tokens: int,
    ) -> None:
        """Repeat the essays until they have ``tokens`` tokens or more."""
        words = corpora.essays.split(" ")
        costs = counter.counts([f" {word}" for word in words])
        lengths = [len(word) + 1 for word in words]

        # one copy more than fit into ``tokens``
        copies = tokens // int(costs.sum()) + 1
        self.text = f"{corpora.essays} " * copies
        self.tokens = prefix_sums(np.tile(costs, copies))
        self.starts = prefix_sums(np.tile(lengths, copies))

        # the sentences of the first copy, then of each copy that follows
        first_words = np.searchsorted(self.starts, corpora.sentence_starts)
        offsets = np.arange(copies) * len(words)
        self.sentences = np.add.outer(offsets, first_words).ravel()

    def words(self, first: int, end: int) -> str:
        """Return the words from ``first`` up to ``end``, without it.

        Args:
            first: position of the first word, from 0.
            end: position after the last word.
        """
        if end <= first:
            return ""
        start = self.starts[first]
        # without the space after the last word
        stop = self.starts[end] - 1
        return self.text[start:stop]
