"""Prompts of the needle tasks: sentences with keys and values, hidden in a haystack."""

import re
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft, draw_distinct, insert, split
from evaluation.ruler.corpora import word_list
from evaluation.ruler.settings import Kind, NeedleSettings
from evaluation.ruler.tables import count_fitting

# percent of the sentences, as NVIDIA's
_DEPTHS = np.linspace(0, 100, num=40).round().astype(np.int64)
# from this many tokens on, lines of needles are counted by their mean
_LONG = 8192


class NeedleBuilder(Builder[NeedleSettings]):
    """Needles in a haystack.

    An example, shortened::

        A special magic number is hidden within the following text. Make sure to memorize it. ...
        The essays, or one line of noise again and again, or needles with other keys. ...
        One of the special magic numbers for tall-tree is: 3705218. More of the essays. ...
        What is the special magic number for tall-tree mentioned in the provided text? The special
        magic number for tall-tree mentioned in the provided text is
    """

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings

        # no key or value twice, or a question would have two answers
        draw_keys = partial(_draw, rng, settings.key_type)
        draw_values = partial(_draw, rng, settings.value_type)
        keys = draw_distinct(settings.keys, draw_keys)
        values = draw_distinct(settings.keys * settings.values, draw_values)

        # the first values are the first key's, and so on
        owners = np.repeat(keys, settings.values).tolist()
        pairs = list(zip(owners, values, strict=True))
        needles = [settings.needle.format(key=key, value=value) for key, value in pairs]
        rng.shuffle(needles)

        # the question names some keys, whose values are the answers
        order = rng.permutation(settings.keys)
        queried = [keys[n] for n in order[: settings.queries]]
        outputs: list[str] = []
        for query in queried:
            outputs += [value for key, value in pairs if key == query]

        frame = self.frame(query=_enumerate(queried))
        room -= self.fixed_cost(frame, needles)
        context = self._hide(rng, needles, keys, room)
        return frame.draft(context, outputs)

    def _hide(
        self,
        rng: RandomState,
        needles: list[str],
        keys: list[str],
        room: int,
    ) -> str:
        """Return ``needles`` in a haystack of ``room`` tokens.

        Args:
            rng: random numbers.
            needles: in any order.
            keys: theirs, which other needles do not have.
            room: tokens of the haystack.
        """
        if self.settings.haystack == "essay":
            return self._hide_in_essay(rng, needles, room)
        if self.settings.haystack == "noise":
            lines = self.noise(room)
        else:
            lines = self._other_needles(rng, keys, room)
        return insert(lines, needles, rng)

    def _hide_in_essay(
        self,
        rng: RandomState,
        needles: list[str],
        room: int,
    ) -> str:
        """Put each needle before a sentence at one of NVIDIA's depths."""
        essay = self.tables.essay
        words = count_fitting(essay.tokens, room)

        # the first words of the sentences that start within these words, and their end
        sentences = int(np.searchsorted(essay.sentences, words))
        places = np.append(essay.sentences[:sentences], words)

        # depth in percent -> sentence -> word
        depths = rng.permutation(_DEPTHS)[: len(needles)]
        depths.sort()
        needle_words = places[sentences * depths // 100]

        parts: list[str] = []
        start = 0
        for needle, place in zip(needles, needle_words.tolist(), strict=True):
            parts.append(essay.words(start, place))
            parts.append(needle)
            start = place
        parts.append(essay.words(start, words))
        return " ".join(filter(None, parts))

    def _other_needles(
        self,
        rng: RandomState,
        keys: list[str],
        room: int,
    ) -> list[str]:
        """Return ``room`` tokens of needles with other keys than ``keys``."""
        if room <= 0:
            return []

        # as many as the length can need, so that a second attempt with another room has the same
        mean, deviation = self._line_tokens
        number = int(1.1 * self.length / mean) + 16
        lines = self._draw_lines(rng, number, keys)
        if self.length < _LONG:
            costs = self._line_costs(lines)
            return self.fill(lines, costs, room)

        # of many lines the mean is enough: three prompts of a hundred need a second attempt
        costs = np.full(len(lines), mean)
        margin = 2 * deviation * (room / mean) ** 0.5
        return self.fill(lines, costs, room - int(margin))

    @cached_property
    def _line_tokens(self) -> tuple[float, float]:
        """Mean and standard deviation of the tokens of a line, from a few hundred."""
        lines = self._draw_lines(RandomState(0), 256)
        costs = self._line_costs(lines)
        return float(costs.mean()), float(costs.std())

    def _line_costs(self, lines: list[str]) -> np.ndarray:
        return self.counter.counts([f"{line}\n" for line in lines])

    def _draw_lines(
        self,
        rng: RandomState,
        number: int,
        excluded: Sequence[str] = (),
    ) -> list[str]:
        """Return ``number`` needles, less those whose key is ``excluded``."""
        settings = self.settings
        keys = _draw(rng, settings.key_type, number)
        values = _draw(rng, settings.value_type, number)

        # the constant parts of the sentence once, as there may be 40,000 lines
        start, middle, end = re.split(r"\{key\}|\{value\}", settings.needle)
        return [
            f"{start}{key}{middle}{value}{end}"
            for key, value in zip(keys, values, strict=True)
            if key not in excluded
        ]


def _draw(
    rng: RandomState,
    kind: Kind,
    number: int,
) -> list[str]:
    """Return ``number`` random keys or values.

    Args:
        rng: random numbers.
        kind: ``numbers`` of seven digits, ``words`` (``tall-tree``), ``uuids`` or their ``blocks``.
        number: of keys or values.
    """
    if kind == "numbers":
        numbers = rng.randint(10**6, 10**7, number)
        return [str(value) for value in numbers.tolist()]
    if kind == "words":
        return _draw_words(rng, number)

    digits = _draw_uuids(rng, number)
    if kind == "blocks":
        return [text[:8] for text in digits]
    return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in digits]


def _draw_words(rng: RandomState, number: int) -> list[str]:
    """Return ``number`` random pairs of an adjective and a noun."""
    adjectives = word_list("adjective")
    nouns = word_list("noun")
    first = rng.randint(0, len(adjectives), number)
    second = rng.randint(0, len(nouns), number)
    places = zip(first.tolist(), second.tolist(), strict=True)
    return [f"{adjectives[adjective]}-{nouns[noun]}" for adjective, noun in places]


def _draw_uuids(rng: RandomState, number: int) -> list[str]:
    """Return random uuids as 32 hexadecimal digits each."""
    raw = bytearray(rng.bytes(16 * number))
    # a row of 16 bytes each, in place
    table = np.frombuffer(raw, np.uint8)
    table = table.reshape(number, 16)

    # version 4 and variant of RFC 4122
    table[:, 6] = table[:, 6] & 0x0F | 0x40
    table[:, 8] = table[:, 8] & 0x3F | 0x80
    return split(raw.hex(), 32)


def _enumerate(names: list[str]) -> str:
    """Return ``a``, or ``a, b, and c``."""
    *first, last = names
    if not first:
        return last
    return f"{', '.join(first)}, and {last}"
