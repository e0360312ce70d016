"""Builders of RULER's prompts, each as long as a number of tokens allows.

A builder draws everything from the random numbers that it receives, fills the rest of the prompt
with pieces of a known number of tokens, and cuts the last piece at a word. Where the pieces' tokens
add up (byte-level BPE that splits at words) the prompt has the requested length; ``generation``
counts the whole prompt and builds it again where they do not.

``room`` is the number of tokens that a prompt, or what is left of it, may take.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.corpora import Question
from evaluation.ruler.settings import (
    ChainSettings,
    CodedSettings,
    ListSettings,
    NeedleSettings,
    QuestionSettings,
    Settings,
    settings_candidates,
)
from evaluation.ruler.tables import Tables, count_fitting, prefix_sums
from recipes.common.errors import UserError

S = TypeVar("S", bound=Settings)

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# percent of the sentences, as NVIDIA's
_DEPTHS = np.round(np.linspace(0, 100, num=40)).astype(np.int64)
# a word with the space before it, or a part of one that ends in a hyphen
_PIECE = re.compile(r"\s*[^\s-]*-?")
# from this many tokens on, lines of needles are counted by their mean
_LONG = 8192


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


class Builder(Generic[S]):
    """Makes the prompts of one task at one length by one of its settings.

    Attributes:
        task: its name.
        length: tokens of prompt and answer.
        settings: its settings.
        details: what the settings leave open, for the metadata.
    """

    def __init__(
        self,
        task: str,
        length: int,
        settings: S,
        tables: Tables,
    ) -> None:
        self.task = task
        self.length = length
        self.settings = settings
        self.tables = tables
        self.counter = tables.counter
        self.details: dict[str, object] = {}

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
        """Return the prompt of about ``room`` tokens or, where that is too few, the shortest."""
        raise NotImplementedError

    def cost(self, *texts: str) -> int:
        """Return the sum of the tokens that each of ``texts`` has by itself."""
        return int(self.counter.counts(texts).sum())

    def fill(
        self,
        lines: Sequence[str],
        costs: np.ndarray,
        room: int,
    ) -> list[str]:
        """Return as many of ``lines`` as fit in ``room`` tokens, the last one cut."""
        sums = prefix_sums(costs)
        whole = count_fitting(sums, room)
        filled = list(lines[:whole])
        if whole == len(lines):
            return filled

        # a token for the line end; a thousandth of the length is not worth a part of a line
        rest = room - int(sums[whole]) - 1
        if rest > self.length // 1024 and (part := self.cut(lines[whole], rest)):
            filled.append(part)
        return filled

    def cut(self, text: str, room: int) -> str:
        """Return the beginning of ``text`` that fits in ``room`` tokens, whole words."""
        if room <= 0:
            return ""
        pieces = [piece for piece in _PIECE.findall(text) if piece]
        fitting = count_fitting(prefix_sums(self.counter.counts(pieces)), room)
        return "".join(pieces[:fitting]).rstrip(" \n-")


def insert(
    lines: list[str],
    inserted: Sequence[str],
    rng: RandomState,
) -> list[str]:
    """Return ``lines`` with all of ``inserted``, in their order, before random lines."""
    if len(lines) >= len(inserted):
        places = np.sort(rng.permutation(len(lines))[: len(inserted)])
    else:
        # several before the same line
        places = np.sort(rng.randint(0, len(lines) + 1, len(inserted)))

    result: list[str] = []
    start = 0
    for place, text in zip(places.tolist(), inserted, strict=True):
        result += lines[start:place]
        result.append(text)
        start = place
    return result + lines[start:]


class NeedleBuilder(Builder[NeedleSettings]):
    """Needles in a haystack."""

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        # no key or value twice, or a question would have two answers
        keys = self._draw_distinct(rng, settings.key_type, settings.keys)
        values = self._draw_distinct(rng, settings.value_type, settings.keys * settings.values)
        # a row of values for each key
        key_values = dict(zip(keys, _split(values, settings.values), strict=True))

        needles: list[str] = []
        for key in keys:
            needles += [settings.needle.format(key=key, value=value) for value in key_values[key]]
        rng.shuffle(needles)

        # the question names some keys; the end of the prompt repeats them
        queried = [keys[n] for n in rng.permutation(settings.keys)[: settings.queries]]

        query = _enumerate(queried)
        answer_prefix = settings.answer_prefix.format(query=query)
        end = f"\n{settings.tail.format(query=query)}{answer_prefix}"
        room -= self.cost(settings.head, *(f"{needle}\n" for needle in needles), end)
        room -= self.counter.added

        context = self._hide(rng, needles, keys, room)
        return Draft(
            text=f"{settings.head}{context}{end}",
            answer_prefix=answer_prefix,
            outputs=list(chain.from_iterable(key_values[key] for key in queried)),
        )

    def _hide(
        self,
        rng: RandomState,
        needles: list[str],
        keys: list[str],
        room: int,
    ) -> str:
        """Return ``needles`` in a haystack of ``room`` tokens."""
        if self.settings.haystack == "essay":
            return self._hide_in_essay(rng, needles, room)
        if self.settings.haystack == "noise":
            lines = self._noise_lines(room)
        else:
            lines = self._other_needles(rng, keys, room)
        return "\n".join(insert(lines, needles, rng))

    def _hide_in_essay(
        self,
        rng: RandomState,
        needles: list[str],
        room: int,
    ) -> str:
        """Put each needle before a sentence at one of NVIDIA's depths."""
        essay = self.tables.essay
        words = count_fitting(essay.tokens, room)
        # the sentences that start within these words
        sentences = int(np.searchsorted(essay.sentences, words))
        depths = np.sort(rng.permutation(_DEPTHS)[: len(needles)])
        depth_sentences = (sentences * depths // 100).tolist()

        parts: list[str] = []
        start = 0
        for needle, sentence in zip(needles, depth_sentences, strict=True):
            place = int(essay.sentences[sentence]) if sentence < sentences else words
            parts += [essay.words(start, place), needle]
            start = place
        parts.append(essay.words(start, words))
        return " ".join(filter(None, parts))

    def _noise_lines(self, room: int) -> list[str]:
        cost = self.cost(f"{NOISE}\n")
        lines = [NOISE] * (max(room, 0) // cost + 1)
        return self.fill(lines, np.full(len(lines), cost), room)

    def _other_needles(
        self,
        rng: RandomState,
        keys: list[str],
        room: int,
    ) -> list[str]:
        """Needles with other keys than those of the question."""
        if room <= 0:
            return []
        settings = self.settings
        mean, deviation = self._line_tokens

        # as many as the length can need, so that a second attempt with another room has the same
        number = int(1.1 * self.length / mean) + 16
        other_keys = self._draw(rng, settings.key_type, number)
        other_values = self._draw(rng, settings.value_type, number)
        # the constant parts of the sentence once, as there may be 40,000 lines
        start, middle, end = re.split(r"\{key\}|\{value\}", settings.needle)
        lines = [
            f"{start}{key}{middle}{value}{end}"
            for key, value in zip(other_keys, other_values, strict=True)
            if key not in keys
        ]

        if self.length < _LONG:
            costs = self.counter.counts([f"{line}\n" for line in lines])
            return self.fill(lines, costs, room)
        # of many lines the mean is enough: three prompts of a hundred need a second attempt
        margin = int(2 * deviation * (room / mean) ** 0.5)
        return self.fill(lines, np.full(len(lines), mean), room - margin)

    @cached_property
    def _line_tokens(self) -> tuple[float, float]:
        """Mean and standard deviation of the tokens of a line, from a few hundred."""
        settings = self.settings
        rng = RandomState(0)
        keys = self._draw(rng, settings.key_type, 256)
        values = self._draw(rng, settings.value_type, 256)
        lines = [
            f"{settings.needle.format(key=key, value=value)}\n"
            for key, value in zip(keys, values, strict=True)
        ]
        tokens = self.counter.counts(lines)
        return float(tokens.mean()), float(tokens.std())

    def _draw_distinct(
        self,
        rng: RandomState,
        kind: str,
        number: int,
    ) -> list[str]:
        drawn: dict[str, None] = {}
        while len(drawn) < number:
            drawn |= dict.fromkeys(self._draw(rng, kind, number - len(drawn)))
        return list(drawn)

    def _draw(
        self,
        rng: RandomState,
        kind: str,
        number: int,
    ) -> list[str]:
        if kind == "numbers":
            return [str(value) for value in rng.randint(10**6, 10**7, number).tolist()]
        if kind == "words":
            return self._draw_words(rng, number)

        digits = _draw_uuids(rng, number)
        if kind == "blocks":
            return [text[:8] for text in digits]
        return [
            f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in digits
        ]

    def _draw_words(
        self,
        rng: RandomState,
        number: int,
    ) -> list[str]:
        adjectives = self.tables.corpora.adjectives
        nouns = self.tables.corpora.nouns
        first = rng.randint(0, len(adjectives), number).tolist()
        second = rng.randint(0, len(nouns), number).tolist()
        return [f"{adjectives[a]}-{nouns[b]}" for a, b in zip(first, second, strict=True)]


def _draw_uuids(rng: RandomState, number: int) -> list[str]:
    """Return random uuids as 32 hexadecimal digits each."""
    raw = np.frombuffer(rng.bytes(16 * number), np.uint8).reshape(number, 16).copy()
    # version 4 and variant of RFC 4122
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    return _split(raw.tobytes().hex(), 32)


Text = TypeVar("Text", str, list[str])


def _split(text: Text, size: int) -> list[Text]:
    """Return ``text`` in parts of ``size``."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def _enumerate(names: list[str]) -> str:
    """Return ``a``, or ``a, b, and c``."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}, and {names[-1]}"


class ChainBuilder(Builder[ChainSettings]):
    """Variable tracking."""

    def __init__(
        self,
        task: str,
        length: int,
        settings: ChainSettings,
        tables: Tables,
    ) -> None:
        super().__init__(task, length, settings, tables)
        self._noise_cost = self.cost(f"{NOISE}\n")

        # the example without noise, then as many lines as make it as long as NVIDIA's
        self._example_lines = 0
        names = ["ABC"] * (settings.hops + 1)
        bare = self.cost(self._example(RandomState(0), names))
        missing = settings.example_tokens - bare
        self._example_lines = max(settings.example_lines, missing // self._noise_cost)

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        number = settings.hops + 1

        # several times as many as are needed, as some are drawn twice
        names = _draw_names(rng, settings.letters, 4 * number, excluded=["VAR"])[:number]
        example_names = _draw_names(rng, 3, 8 * number, excluded=["VAR", *names])[:number]
        example = self._example(rng, example_names)

        # another value than the example's
        value = str(rng.randint(10000, 99999))
        while value in example:
            value = str(rng.randint(10000, 99999))

        statements = _chain_statements(names, value)
        answer_prefix = settings.answer_prefix.format(query=value, count=number)
        end = f"\n{settings.tail.format(query=value, count=number)}{answer_prefix}"
        statement_lines = [f"{statement}\n" for statement in statements]
        room -= self.cost(example, settings.head, *statement_lines, end) + self.counter.added

        lines = [NOISE] * (max(room, 0) // self._noise_cost + 1)
        filled = self.fill(lines, np.full(len(lines), self._noise_cost), room)
        context = "\n".join(insert(filled, statements, rng))
        return Draft(f"{example}{settings.head}{context}{end}", answer_prefix, names)

    def _example(
        self,
        rng: RandomState,
        names: list[str],
    ) -> str:
        """A chain with its answer."""
        settings = self.settings
        value = str(rng.randint(10000, 99999))
        statements = _chain_statements(names, value)
        context = "\n".join(insert([NOISE] * self._example_lines, statements, rng))
        question = f"\n{settings.tail}{settings.answer_prefix}"
        question = question.format(query=value, count=len(names))
        return f"{settings.head}{context}{question} {' '.join(names)}\n\n"


def _draw_names(
    rng: RandomState,
    letters: int,
    number: int,
    excluded: Sequence[str],
) -> list[str]:
    """Return ``number`` random names or, where some are drawn twice or excluded, fewer."""
    text = _draw_letters(rng, "A", letters * number)
    names = dict.fromkeys(_split(text, letters))
    return [name for name in names if name not in excluded]


def _draw_letters(
    rng: RandomState,
    first: str,
    number: int,
) -> str:
    """Return ``number`` letters of the 26 from ``first`` on."""
    codes = rng.randint(0, 26, number) + ord(first)
    return codes.astype(np.uint8).tobytes().decode()


def _chain_statements(names: list[str], value: str) -> list[str]:
    """One chain; the space at the end of all but the first is NVIDIA's."""
    later = [f"VAR {name} = VAR {source} " for source, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}", *later]


class ListBuilder(Builder[ListSettings]):
    """Common words in a numbered list."""

    def __init__(
        self,
        task: str,
        length: int,
        settings: ListSettings,
        tables: Tables,
    ) -> None:
        super().__init__(task, length, settings, tables)
        words, costs = tables.words("wonderwords")
        _, numbers = tables.numbers

        # 100 words are more than the common ones and the example's
        entries = (len(words) - 100) * settings.other
        if entries >= len(numbers):
            is_enough = True
        else:
            is_enough = numbers[entries] + entries * costs.mean() > 1.05 * length

        self._pool = "wonderwords" if is_enough else tables.corpora.larger_pool
        tables.words(self._pool)
        self.details["words"] = self._pool

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        words, costs = self.tables.words(self._pool)
        names, _ = self.tables.numbers
        example, shown = self._example(rng)
        chosen = self._choose_words(rng, shown)
        common = chosen[: settings.common]

        # the fixed parts, then the common words; the other words fill the rest
        end = f"\n{settings.tail}{settings.answer_prefix}"
        room -= self.cost(example, settings.head, end) + self.counter.added
        room -= settings.frequency * int(costs[common].sum())
        others = self._fitting(chosen[settings.common :], costs, room)

        # numbered in random order
        listed = np.concatenate(
            [np.repeat(common, settings.frequency), np.repeat(others, settings.other)]
        )
        entries = itemgetter(*rng.permutation(listed).tolist())(words)
        context = "".join(chain.from_iterable(zip(names, entries, strict=False)))
        return Draft(
            # without the space before the first number
            text=f"{example}{settings.head}{context[1:]}{end}",
            answer_prefix=settings.answer_prefix,
            outputs=[words[n] for n in common.tolist()],
        )

    def _choose_words(
        self,
        rng: RandomState,
        shown: set[str],
    ) -> np.ndarray:
        """Return the positions of as many words as the length can need, none of those ``shown``."""
        words, _ = self.tables.words(self._pool)
        _, numbers = self.tables.numbers
        # an entry takes a number and a word; ``len(numbers)`` entries are more than fit
        order = rng.permutation(len(words))
        chosen = order[: len(numbers) // self.settings.other + len(shown)]
        if shown.isdisjoint(itemgetter(*chosen.tolist())(words)):
            return chosen
        return np.array([n for n in chosen.tolist() if words[n] not in shown])

    def _fitting(
        self,
        others: np.ndarray,
        costs: np.ndarray,
        room: int,
    ) -> np.ndarray:
        """Return those of ``others`` that fit with the numbers of all entries, one at least."""
        settings = self.settings
        _, numbers = self.tables.numbers

        # entries[n] = entries of the list with n other words; sums[n] = tokens of those words
        first = settings.common * settings.frequency
        entries = np.arange(first, len(numbers), settings.other)
        sums = settings.other * prefix_sums(costs[others])
        most = min(len(entries), len(sums))
        number = count_fitting(numbers[entries[:most]] + sums[:most], room)
        return others[: max(number, 1)]

    def _example(self, rng: RandomState) -> tuple[str, set[str]]:
        """A list with its answer, and the words in it."""
        settings = self.settings
        if settings.example is None:
            return "", set()
        size, frequency, other = settings.example
        words, _ = self.tables.words("wonderwords")
        shown = [words[n] for n in rng.permutation(len(words))[:size].tolist()]
        common = shown[: settings.common]
        listed = frequency * common + other * shown[settings.common :]
        rng.shuffle(listed)

        question = f"{settings.tail}{settings.answer_prefix} {_number(common)}"
        return f"{settings.head}{_number(listed)}\n{question}\n", set(shown)


def _number(words: list[str]) -> str:
    """Return ``1. first 2. second`` and so on."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


_CODED_LETTERS = 6
_ZETA_2 = np.pi**2 / 6
# words of a text in which the fourth most frequent comes once
_LEAST_WORDS = int(16 * _ZETA_2) + 1


class CodedBuilder(Builder[CodedSettings]):
    """Frequent words of six letters."""

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        size = max(4, self.limit // 50)
        # the most frequent is noise
        words = ["...", *self._draw(rng, size)[: size - 1]]
        costs = self.counter.counts([f" {word}" for word in words])
        end = f"\n{settings.tail}{settings.answer_prefix}"
        room -= self.cost(settings.head, end) + self.counter.added

        times = self._largest(size, costs, room)
        listed = rng.permutation(np.repeat(np.arange(size), times))
        context = " ".join([words[n] for n in listed.tolist()])
        return Draft(f"{settings.head} {context}{end}", settings.answer_prefix, words[1:4])

    @staticmethod
    def _draw(rng: RandomState, number: int) -> list[str]:
        drawn: dict[str, None] = {}
        while len(drawn) < number:
            text = _draw_letters(rng, "a", _CODED_LETTERS * number)
            drawn |= dict.fromkeys(_split(text, _CODED_LETTERS))
        return list(drawn)

    def _largest(
        self,
        size: int,
        costs: np.ndarray,
        room: int,
    ) -> np.ndarray:
        """Return how often each word comes in the longest text of at most ``room`` tokens."""
        shares = np.arange(1, size + 1) ** -2.0 / _ZETA_2

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
    """How often each of about ``number`` words comes; the answers more often than all others."""
    times = (number * shares).astype(np.int64)
    times[4:] = np.minimum(times[4:], times[3] - 1)
    return times


class QuestionBuilder(Builder[QuestionSettings]):
    """Questions on documents.

    Attributes:
        fitting: positions of the questions whose own documents fit, in NVIDIA's order.
        share: their share of all questions.
    """

    def __init__(
        self,
        task: str,
        length: int,
        settings: QuestionSettings,
        tables: Tables,
    ) -> None:
        super().__init__(task, length, settings, tables)
        questions, costs = tables.documents(task)
        needed = self.counter.counts([self._end(question.query) for question in questions.items])
        needed += self.cost(settings.head) + self.counter.added
        # the prompt with the question's own documents and nothing else
        for position, question in enumerate(questions.items):
            gold = self._gold(question)
            needed[position] += costs[gold].sum() + tables.headers[len(gold)]
        # some tokens to spare, as pieces do not add up with every tokenizer
        self.fitting = np.flatnonzero(1.01 * needed + 4 <= self.limit).tolist()
        self.share = len(self.fitting) / len(questions.items)

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        settings = self.settings
        questions, _ = self.tables.documents(self.task)
        question = questions.items[self.fitting[index % len(self.fitting)]]
        gold = self._gold(question)
        end = self._end(question.query)

        # the question's own documents, then others as far as they fit
        budget = self._budget(gold, end, room)
        order = self._order_others(rng, question, budget)
        documents = self._pick_documents(gold, order, budget)

        # shuffled, so that the gold documents are anywhere
        listed = rng.permutation(len(documents)).tolist()
        context = "".join(
            f"Document {number}:\n{documents[n]}\n\n" for number, n in enumerate(listed, 1)
        )
        return Draft(
            text=f"{settings.head}{context}{end}",
            answer_prefix=settings.answer_prefix,
            outputs=list(question.outputs),
        )

    def _budget(
        self,
        gold: list[int],
        end: str,
        room: int,
    ) -> int:
        """Return the tokens that are left for documents beyond the ``gold`` ones."""
        _, costs = self.tables.documents(self.task)
        fixed = self.cost(self.settings.head, end) + self.counter.added
        gold_tokens = int(costs[gold].sum() + self.tables.headers[len(gold)])
        return room - fixed - gold_tokens

    def _order_others(
        self,
        rng: RandomState,
        question: Question,
        budget: int,
    ) -> np.ndarray:
        """Return the other documents in the order in which they are added: related ones first."""
        _, costs = self.tables.documents(self.task)
        is_unrelated = np.ones(len(costs), bool)
        is_unrelated[[*question.gold, *question.related]] = False
        shuffled = rng.permutation(len(costs))
        related = rng.permutation(np.array(question.related, np.int64))
        order = np.concatenate([related, shuffled[is_unrelated[shuffled]]])

        missing = budget - int(costs[order].sum())
        if missing <= 0:
            return order
        # all are used: the whole set again and again
        copies = missing // int(costs.sum()) + 1
        return np.concatenate([order, *(rng.permutation(len(costs)) for _ in range(copies))])

    def _pick_documents(
        self,
        gold: list[int],
        order: np.ndarray,
        budget: int,
    ) -> list[str]:
        """Return the ``gold`` documents and those of ``order`` that fit, the last one cut."""
        questions, costs = self.tables.documents(self.task)
        headers = self.tables.headers
        most = min(len(order), len(headers) - len(gold) - 1)

        # sums[n] = tokens of the first n documents of ``order``, with their headings: the numbers
        # of these follow those of the gold documents, in any order of the prompt
        own_headers = headers[len(gold) : len(gold) + most + 1] - headers[len(gold)]
        sums = prefix_sums(costs[order[:most]]) + own_headers
        whole = count_fitting(sums, budget)
        documents = [questions.documents[n] for n in (*gold, *order[:whole].tolist())]
        if whole == most:
            return documents

        heading = int(own_headers[whole + 1] - own_headers[whole])
        rest = budget - int(sums[whole]) - heading - 1
        if part := self.cut(questions.documents[order[whole]], rest):
            documents.append(part)
        return documents

    def _gold(self, question: Question) -> list[int]:
        return list(question.gold if self.settings.gold == "all" else question.supporting)

    def _end(self, query: str) -> str:
        # not ``format``: a question may have braces
        return f"{self.settings.tail.replace('{query}', query)}{self.settings.answer_prefix}"


_BUILDERS: dict[type[Settings], type[Builder]] = {
    NeedleSettings: NeedleBuilder,
    ChainSettings: ChainBuilder,
    ListSettings: ListBuilder,
    CodedSettings: CodedBuilder,
    QuestionSettings: QuestionBuilder,
}
_PROBES = 16
# a haystack is a tenth of the length or more, where any settings can make it so
_MOST_FIXED_SHARE = 0.9
_LEAST_QUESTION_SHARE = 0.5


def choose(
    task: str,
    length: int,
    tables: Tables,
) -> Builder:
    """Return the builder for the first of ``task``'s settings that fits ``length`` tokens.

    The published settings come first. They fit where the prompt without its filler, the longest of
    16 draws and some room for longer ones, leaves a tenth of the length; those of the question
    tasks where half of the questions fit. The smallest settings are taken if they fit at all.

    Raises:
        UserError: the smallest settings do not fit.
    """
    builders = [
        _BUILDERS[type(settings)](task, length, settings, tables)
        for settings in settings_candidates(task, length)
    ]
    questions = [builder for builder in builders if isinstance(builder, QuestionBuilder)]
    return _choose_for_questions(questions) if questions else _choose_for_filler(builders)


def _choose_for_questions(builders: list[QuestionBuilder]) -> QuestionBuilder:
    for builder in builders:
        if builder.share >= _LEAST_QUESTION_SHARE:
            return builder
    best = max(builders, key=lambda builder: builder.share)
    if not best.fitting:
        raise _too_short(best)
    return best


def _choose_for_filler(builders: list[Builder]) -> Builder:
    smallest: Builder | None = None
    needed = 0
    for builder in builders:
        needed, answer = _needed_tokens(builder)
        if answer > builder.settings.budget:
            continue
        if needed <= _MOST_FIXED_SHARE * builder.length:
            return builder
        if needed <= builder.length:
            smallest = builder
    if smallest is None:
        raise _too_short(
            builders[-1], f", which needs {needed:,} tokens or more with this tokenizer"
        )
    return smallest


def _needed_tokens(builder: Builder) -> tuple[int, int]:
    """Return the tokens of a prompt without filler plus its budget, and of the longest answer."""
    drafts = [builder.build(RandomState(probe), probe, 0) for probe in range(_PROBES)]
    tokens = builder.counter.counts([draft.text for draft in drafts]) + builder.counter.added
    answers = builder.counter.counts([" ".join(draft.outputs) for draft in drafts])

    # as much room above the longest draw as it is above the shortest
    prompt = 2 * int(tokens.max()) - int(tokens.min())
    return prompt + builder.settings.budget, int(answers.max())


def _too_short(builder: Builder, needs: str = "") -> UserError:
    return UserError(
        f"{builder.task}: {builder.length:,} tokens are too few for its smallest settings{needs}; "
        f"ask for more"
    )
