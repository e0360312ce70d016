"""Prompts of the aggregation tasks: words to count, in a numbered list and in a coded text."""

from functools import cached_property

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft, draw_distinct, draw_names
from evaluation.ruler.settings import CodedSettings, ListSettings
from evaluation.ruler.tables import count_fitting, prefix_sums

_CODED_LETTERS = 6
_ZETA_2 = np.pi**2 / 6
# words of a text in which the fourth most frequent comes once
_LEAST_WORDS = int(16 * _ZETA_2) + 1


class ListBuilder(Builder[ListSettings]):
    """Common words in a numbered list.

    An entry costs a number and a word; the numbers are those of all entries from 1 on, so that
    their sum depends on how many entries there are, and not on the words.
    """

    @property
    def details(self) -> dict[str, object]:
        return {"words": self._pool}

    @cached_property
    def _pool(self) -> str:
        """The pool with words enough for the length."""
        words, costs = self.tables.words("wonderwords")
        numbers = self.tables.number_sums

        # 100 words are more than the common ones and the example's
        entries = (len(words) - 100) * self.settings.other
        if entries >= len(numbers):
            return "wonderwords"
        if numbers[entries] + entries * costs.mean() > 1.05 * self.length:
            return "wonderwords"
        return self.tables.corpora.larger_pool

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        words, costs = self.tables.words(self._pool)
        example, shown = self._example(rng)
        chosen = self._choose_words(rng, shown)
        common = chosen[: settings.common]

        # the fixed parts, then the common words; the other words fill the rest
        frame = self.frame(example)
        room -= self.fixed_cost(frame)
        room -= settings.frequency * int(costs[common].sum())
        others = self._fitting(chosen[settings.common :], room)

        # in random order
        common_entries = np.repeat(common, settings.frequency)
        other_entries = np.repeat(others, settings.other)
        listed = rng.permutation(np.concatenate([common_entries, other_entries]))
        context = _number([words[n] for n in listed.tolist()])

        outputs = [words[n] for n in common.tolist()]
        return frame.draft(context, outputs)

    def _choose_words(self, rng: RandomState, shown: set[str]) -> np.ndarray:
        """Return the positions of as many words as the length can need, none of those ``shown``."""
        words, _ = self.tables.words(self._pool)

        # more entries than there are numbers do not fit
        most = len(self.tables.number_sums) // self.settings.other + len(shown)
        order = rng.permutation(len(words))
        return np.array([n for n in order[:most].tolist() if words[n] not in shown])

    def _fitting(self, others: np.ndarray, room: int) -> np.ndarray:
        """Return those of ``others`` that fit with the numbers of all entries, one at least."""
        settings = self.settings
        _, costs = self.tables.words(self._pool)

        # words[n] = tokens of n other words; numbers[n] = those of all numbers in a list with them
        words = settings.other * prefix_sums(costs[others])
        first = settings.common * settings.frequency
        numbers = self.tables.number_sums[first :: settings.other]

        most = min(len(numbers), len(words))
        fitting = count_fitting(numbers[:most] + words[:most], room)
        return others[: max(fitting, 1)]

    def _example(self, rng: RandomState) -> tuple[str, set[str]]:
        """Return a list with its answer, and the words in it."""
        settings = self.settings
        if settings.example is None:
            return "", set()

        size, frequency, other = settings.example
        words, _ = self.tables.words("wonderwords")
        order = rng.permutation(len(words))
        shown = [words[n] for n in order[:size].tolist()]
        common = shown[: settings.common]

        listed = common * frequency
        listed += shown[settings.common :] * other
        rng.shuffle(listed)

        question = self.frame().draft(_number(listed), common)
        return f"{question.text} {_number(common)}\n", set(shown)


def _number(words: list[str]) -> str:
    """Return ``1. first 2. second`` and so on."""
    return " ".join([f"{number}. {word}" for number, word in enumerate(words, 1)])


class CodedBuilder(Builder[CodedSettings]):
    """Frequent words of six letters, the most frequent of which is noise."""

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        size = max(4, self.limit // 50)
        drawn = draw_distinct(size, lambda _: draw_names(rng, "a", _CODED_LETTERS, size))
        words = ["...", *drawn[: size - 1]]

        # each after a space
        texts = [f" {word}" for word in words]
        costs = self.counter.counts(texts)

        frame = self.frame()
        room -= self.fixed_cost(frame)
        times = self._largest(costs, room)
        listed = rng.permutation(np.repeat(np.arange(size), times))
        context = "".join([texts[n] for n in listed.tolist()])
        return frame.draft(context, words[1:4])

    def _largest(self, costs: np.ndarray, room: int) -> np.ndarray:
        """Return how often each word comes in the longest text of at most ``room`` tokens."""
        ranks = np.arange(1, len(costs) + 1)
        shares = ranks**-2.0 / _ZETA_2

        # bisection over the number of words: ``low`` fits, or is the least; ``high`` does not
        low = _LEAST_WORDS
        high = max(_LEAST_WORDS + 1, 2 * self.length)
        while high - low > 1:
            middle = (low + high) // 2
            if int(_frequencies(middle, shares) @ costs) <= room:
                low = middle
            else:
                high = middle

        # noise takes what no whole step fits into
        times = _frequencies(low, shares)
        rest = max(0, room - int(times @ costs))
        times[0] += rest // int(costs[0])
        return times


def _frequencies(number: int, shares: np.ndarray) -> np.ndarray:
    """Return how often each word comes in a text of about ``number`` words.

    Args:
        number: of words.
        shares: of the words, by Zipf's law; the first is noise, the next three are the answers.

    Returns:
        Whole numbers; the answers more often than all others.
    """
    times = (number * shares).astype(np.int64)
    times[4:] = np.minimum(times[4:], times[3] - 1)
    return times
