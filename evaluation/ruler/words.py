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

    An example, shortened::

        Below is a numbered list of words. ... Memorize the ones that appear most often.
        1. apple 2. river 3. apple ...
        Question: What are the 10 most common words in the above list? Answer: The top 10 words
        that appear most often in the list are:

    Before it comes a solved example of the same form. An entry of the list costs a number and a
    word; the numbers' tokens depend on how many entries there are, and not on the words.
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

        tokens = numbers[entries] + entries * costs.mean()
        if tokens > 1.05 * self.length:
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
        others = chosen[settings.common :]

        # the fixed parts, then the common words; the other words fill the rest
        frame = self.frame(example)
        room -= self.fixed_cost(frame)
        room -= settings.frequency * int(costs[common].sum())
        fitting = self._count_fitting(costs[others], room)

        # the positions of the words of all entries, in random order
        common_entries = np.repeat(common, settings.frequency)
        other_entries = np.repeat(others[:fitting], settings.other)
        entries = np.concatenate([common_entries, other_entries])
        listed = rng.permutation(entries)

        entry_words = [words[n] for n in listed.tolist()]
        context = _number(entry_words)
        outputs = [words[n] for n in common.tolist()]
        return frame.draft(context, outputs)

    def _choose_words(self, rng: RandomState, shown: set[str]) -> np.ndarray:
        """Return random positions in the pool, as many as the length can need.

        Args:
            rng: random numbers.
            shown: words of the example, which are left out.
        """
        words, _ = self.tables.words(self._pool)
        order = rng.permutation(len(words))

        # more entries than there are numbers do not fit
        most = len(self.tables.number_sums) // self.settings.other
        chosen = order[: most + len(shown)].tolist()
        return np.array([n for n in chosen if words[n] not in shown])

    def _count_fitting(self, costs: np.ndarray, room: int) -> int:
        """Return how many other words fit with the numbers of all entries, one at least.

        Args:
            costs: tokens of each of the words.
            room: tokens for them and for the numbers.
        """
        settings = self.settings

        # words[n] = tokens of n words, each listed several times
        words = prefix_sums(costs) * settings.other
        # numbers[n] = tokens of the numbers of the common entries and of those
        first = settings.common * settings.frequency
        numbers = self.tables.number_sums[first :: settings.other]

        most = min(len(numbers), len(words))
        fitting = count_fitting(numbers[:most] + words[:most], room)
        return max(fitting, 1)

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
    """Frequent words of six letters.

    An example, shortened::

        Read the following coded text and track the frequency of each coded word. ...
        ... qwpsik ... vdmxow qwpsik ...
        Question: Do not provide any explanation. Please ignore the dots '....'. ... Answer:
        According to the coded text above, the three most frequently appeared words are:

    The words follow Zipf's law with exponent 2: the n-th most frequent has the share
    ``n**-2 / zeta(2)``. The first is noise, ``...``; the next three are the answers.
    """

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
        times = _most_times(costs, room, 2 * self.length)

        # in random order
        positions = np.repeat(np.arange(size), times)
        listed = rng.permutation(positions).tolist()
        context = "".join([texts[n] for n in listed])
        return frame.draft(context, words[1:4])


def _most_times(
    costs: np.ndarray,
    room: int,
    most: int,
) -> np.ndarray:
    """Return how often each word comes in the longest text that fits.

    Args:
        costs: tokens of each word, the most frequent first.
        room: tokens for the text.
        most: a number of words that does not fit.
    """
    ranks = np.arange(1, len(costs) + 1)
    shares = ranks**-2.0 / _ZETA_2

    # bisection over the number of words: ``low`` fits, or is the least; ``high`` does not
    low = _LEAST_WORDS
    high = max(_LEAST_WORDS + 1, most)
    while high - low > 1:
        middle = (low + high) // 2
        if _times(middle, shares) @ costs <= room:
            low = middle
        else:
            high = middle

    # noise takes what no whole step fits into
    times = _times(low, shares)
    rest = max(0, room - int(times @ costs))
    times[0] += rest // int(costs[0])
    return times


def _times(number: int, shares: np.ndarray) -> np.ndarray:
    """Return how often each word comes in a text of about ``number`` words.

    Args:
        number: of words; rounding down leaves some out.
        shares: of each word.

    Returns:
        int64, as long as ``shares``.
    """
    times = (number * shares).astype(np.int64)
    # the answers come more often than all that follow them
    most = times[3] - 1
    times[4:] = np.minimum(times[4:], most)
    return times
