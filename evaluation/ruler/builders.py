"""One prompt of a RULER task, as long as a number of tokens allows.

A builder draws everything from the random numbers it is handed, fills the rest of the prompt with filler whose pieces
have known numbers of tokens, and cuts the last piece at a word. Where pieces add up (byte-level BPE that splits at
words) the prompt is as long as asked; ``generation`` counts it as a whole and asks again where they do not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np

from evaluation.ruler.corpora import Corpora, Question, Questions
from evaluation.ruler.counting import Counter
from evaluation.ruler.settings import (
    ChainSettings,
    CodedSettings,
    ListSettings,
    NeedleSettings,
    QuestionSettings,
    Settings,
    ladder,
)
from recipes.common.errors import UserError

S = TypeVar("S", bound=Settings)

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_DEPTHS = np.round(np.linspace(0, 100, num=40)).astype(
    np.int64
)  # percent of the sentences, as NVIDIA's
_ZETA_2 = np.pi**2 / 6
_LONG = 8192  # tokens
_PIECE = re.compile(
    r"\s*[^\s-]*-?"
)  # a word with the space before it, or a part that ends in a hyphen


@dataclass(frozen=True)
class Draft:
    """A prompt, which ends with ``answer_prefix``, and the answers."""

    text: str
    answer_prefix: str
    outputs: list[str]


class Tables:
    """What the builders of one tokenizer share: the texts, and how many tokens their pieces have."""

    def __init__(self, counter: Counter, corpora: Corpora, longest: int) -> None:
        """Prepare for prompts of up to ``longest`` tokens."""
        self.counter, self.corpora, self._longest = counter, corpora, longest
        self._essay: Essay | None = None
        self._numbers: tuple[list[str], np.ndarray] | None = None
        self._costs: dict[str, np.ndarray] = {}

    @property
    def essay(self) -> "Essay":
        """The essays, repeated to the greatest length."""
        if self._essay is None:
            self._essay = Essay(self.counter, self.corpora, self._longest)
        return self._essay

    @property
    def numbers(self) -> tuple[list[str], np.ndarray]:
        """The strings `` 1. ``, `` 2. `` and so on, and the tokens of the first n with n = 0, 1, ..."""
        if self._numbers is None:
            # an entry of a list takes three tokens or more
            names = [f" {number}." for number in range(1, self._longest // 3 + 100)]
            sums = np.concatenate([[0], np.cumsum(self.counter.counts(names))])
            self._numbers = [f"{name} " for name in names], sums
        return self._numbers

    def words(self, pool: str) -> tuple[Sequence[str], np.ndarray]:
        """Return the words of ``pool`` (see ``Corpora.pools``) and the tokens of each after a space."""
        words = self.corpora.pool(pool)
        if pool not in self._costs:
            self._costs[pool] = self.counter.counts([f" {word}" for word in words])
        return words, self._costs[pool]

    @property
    def headers(self) -> np.ndarray:
        """The tokens of the first n headings of documents with n = 0, 1, ..."""
        if "headers" not in self._costs:
            # a heading and its document take eight tokens or more
            names = [f"Document {number}:\n" for number in range(1, self._longest // 8 + 100)]
            self._costs["headers"] = np.concatenate([[0], np.cumsum(self.counter.counts(names))])
        return self._costs["headers"]

    def documents(self, task: str) -> tuple[Questions, np.ndarray]:
        """Return ``task``'s questions and documents, and the tokens of each document with the blank line after it."""
        questions = self.corpora.questions(task)
        if task not in self._costs:
            self._costs[task] = self.counter.counts(
                [f"{document}\n\n" for document in questions.documents]
            )
        return questions, self._costs[task]


class Essay:
    """The essays again and again, in words and sentences."""

    def __init__(self, counter: Counter, corpora: Corpora, tokens: int) -> None:
        words = corpora.essays.split(" ")
        unique = {word: position for position, word in enumerate(dict.fromkeys(words))}
        costs = counter.counts([f" {word}" for word in unique])[[unique[word] for word in words]]
        copies = tokens // int(costs.sum()) + 1
        starts = np.concatenate([[0], np.cumsum([len(word) + 1 for word in words])])
        first_words = np.searchsorted(starts, corpora.sentence_starts)
        each = np.arange(copies)[:, None]
        self.text = f"{corpora.essays} " * copies
        self.tokens = np.cumsum(np.tile(costs, copies))  # of the first 1, 2, ... words
        self.starts = np.append(
            (starts[:-1] + each * starts[-1]).ravel(), copies * starts[-1]
        )  # of words, characters
        self.sentences = (first_words + each * len(words)).ravel()  # their first words

    def words(self, first: int, after: int) -> str:
        """Return the words from ``first`` up to ``after``, without it."""
        return self.text[self.starts[first] : self.starts[after] - 1] if after > first else ""


class Builder(Generic[S]):
    """Makes the prompts of one task at one length by one of its settings."""

    def __init__(self, task: str, length: int, settings: S, tables: Tables) -> None:
        self.task, self.length, self.settings, self.tables = task, length, settings, tables
        self.counter = tables.counter
        self.details: dict[str, object] = {}  # what the settings leave open

    @property
    def limit(self) -> int:
        """Tokens that a prompt can have, with those that the tokenizer adds."""
        return self.length - self.settings.budget

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        """Return the prompt of about ``room`` tokens or, where that is too few, the shortest."""
        raise NotImplementedError

    def cost(self, *texts: str) -> int:
        """Return how many tokens ``texts`` have, each by itself, together."""
        return int(self.counter.counts(texts).sum())

    def fill(self, units: Sequence[str], costs: np.ndarray, room: int) -> list[str]:
        """Return as many of the lines ``units`` as fit in ``room`` tokens, the last one cut."""
        sums = np.cumsum(costs)
        whole = int(np.searchsorted(sums, room, side="right"))
        filled = list(units[:whole])
        if whole < len(units):
            free = room - (int(sums[whole - 1]) if whole else 0) - 1
            part = (
                self.cut(units[whole], free) if free > self.length // 1024 else ""
            )  # less does not matter
            filled += [part] if part else []
        return filled

    def cut(self, text: str, room: int) -> str:
        """Return the beginning of ``text`` that fits in ``room`` tokens, whole words."""
        if room <= 0:
            return ""
        pieces = [piece for piece in _PIECE.findall(text) if piece]
        fitting = int(np.searchsorted(np.cumsum(self.counter.counts(pieces)), room, side="right"))
        return "".join(pieces[:fitting]).rstrip(" \n-")


def insert(units: list[str], inserted: Sequence[str], rng: np.random.RandomState) -> list[str]:
    """Return ``units`` with all of ``inserted``, in their order, before units drawn by chance."""
    if len(units) >= len(inserted):
        places = np.sort(rng.permutation(len(units))[: len(inserted)])
    else:
        places = np.sort(rng.randint(0, len(units) + 1, len(inserted)))
    result, before = [], 0
    for place, text in zip(places.tolist(), inserted, strict=True):
        result += units[before:place]
        result.append(text)
        before = place
    return result + units[before:]


class NeedleBuilder(Builder[NeedleSettings]):
    """Needles in a haystack."""

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        settings = self.settings
        keys = self._distinct(rng, settings.key_type, settings.keys)
        values = self._distinct(rng, settings.value_type, settings.keys * settings.values)
        owned = {
            key: values[n * settings.values : (n + 1) * settings.values]
            for n, key in enumerate(keys)
        }
        needles = [
            settings.needle.format(key=key, value=value) for key in keys for value in owned[key]
        ]
        rng.shuffle(needles)
        asked = [keys[n] for n in rng.permutation(settings.keys)[: settings.queries]]
        query = f"{', '.join(asked[:-1])}, and {asked[-1]}" if len(asked) > 1 else asked[0]
        prefix = settings.answer_prefix.format(query=query)
        end = f"\n{settings.tail.format(query=query)}{prefix}"
        room -= (
            self.cost(settings.head, *(f"{needle}\n" for needle in needles), end)
            + self.counter.added
        )
        if settings.haystack == "essay":
            context = self._essay(rng, needles, room)
        elif settings.haystack == "noise":
            cost = self.cost(f"{NOISE}\n")
            lines = [NOISE] * (max(room, 0) // cost + 1)
            context = "\n".join(
                insert(self.fill(lines, np.full(len(lines), cost), room), needles, rng)
            )
        else:
            context = "\n".join(insert(self._lines(rng, keys, room), needles, rng))
        return Draft(
            f"{settings.head}{context}{end}",
            prefix,
            [value for key in asked for value in owned[key]],
        )

    def _essay(self, rng: np.random.RandomState, needles: list[str], room: int) -> str:
        essay = self.tables.essay
        words = int(np.searchsorted(essay.tokens, room, side="right"))
        sentences = int(np.searchsorted(essay.sentences, words))
        depths = np.sort(rng.permutation(_DEPTHS)[: len(needles)])
        parts, before = [], 0
        for needle, sentence in zip(needles, (sentences * depths // 100).tolist(), strict=True):
            place = int(essay.sentences[sentence]) if sentence < sentences else words
            parts += [essay.words(before, place), needle]
            before = place
        return " ".join(part for part in (*parts, essay.words(before, words)) if part)

    def _lines(self, rng: np.random.RandomState, keys: list[str], room: int) -> list[str]:
        """Needles that nobody asks for."""
        settings = self.settings
        if room <= 0:
            return []
        mean, deviation = self._line_tokens
        # as many as the length can need: a prompt that is made again for another room has the same ones
        number = int(1.1 * self.length / mean) + 16
        drawn_keys, drawn_values = (
            self._draw(rng, kind, number) for kind in (settings.key_type, settings.value_type)
        )
        start, middle, end = re.split(r"\{key\}|\{value\}", settings.needle)
        lines = [
            f"{start}{key}{middle}{value}{end}"
            for key, value in zip(drawn_keys, drawn_values, strict=True)
            if key not in keys
        ]
        if self.length < _LONG:
            return self.fill(lines, self.counter.counts([f"{line}\n" for line in lines]), room)
        # of many lines the mean will do, and three prompts of a hundred are made again
        return self.fill(
            lines, np.full(len(lines), mean), room - int(2 * deviation * (room / mean) ** 0.5)
        )

    @cached_property
    def _line_tokens(self) -> tuple[float, float]:
        """Mean and standard deviation of the tokens of a line, from some."""
        settings, rng = self.settings, np.random.RandomState(0)
        drawn_keys, drawn_values = (
            self._draw(rng, kind, 256) for kind in (settings.key_type, settings.value_type)
        )
        pairs = zip(drawn_keys, drawn_values, strict=True)
        lines = [f"{settings.needle.format(key=key, value=value)}\n" for key, value in pairs]
        tokens = self.counter.counts(lines)
        return float(tokens.mean()), float(tokens.std())

    def _distinct(self, rng: np.random.RandomState, kind: str, number: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < number:
            found |= dict.fromkeys(self._draw(rng, kind, number - len(found)))
        return list(found)

    def _draw(self, rng: np.random.RandomState, kind: str, number: int) -> list[str]:
        if kind == "numbers":
            return [str(value) for value in rng.randint(10**6, 10**7, number).tolist()]
        if kind == "words":
            adjectives, nouns = self.tables.corpora.adjectives, self.tables.corpora.nouns
            first = rng.randint(0, len(adjectives), number).tolist()
            second = rng.randint(0, len(nouns), number).tolist()
            return [f"{adjectives[a]}-{nouns[b]}" for a, b in zip(first, second, strict=True)]
        raw = np.frombuffer(rng.bytes(16 * number), np.uint8).reshape(number, 16).copy()
        raw[:, 6] = raw[:, 6] & 0x0F | 0x40  # version 4 and variant of RFC 4122
        raw[:, 8] = raw[:, 8] & 0x3F | 0x80
        digits = raw.tobytes().hex()
        ids = [digits[start : start + 32] for start in range(0, 32 * number, 32)]
        if kind == "blocks":
            return [text[:8] for text in ids]
        return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in ids]


class ChainBuilder(Builder[ChainSettings]):
    """Variable tracking."""

    def __init__(self, task: str, length: int, settings: ChainSettings, tables: Tables) -> None:
        super().__init__(task, length, settings, tables)
        self._noise_cost = self.cost(f"{NOISE}\n")
        self._example_lines = 0
        rest = settings.example_tokens - self.cost(
            self._example(np.random.RandomState(0), ["ABC"] * (settings.hops + 1))
        )
        self._example_lines = max(settings.example_lines, rest // self._noise_cost)

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        settings = self.settings
        number = settings.hops + 1
        names = list(
            dict.fromkeys(
                name for name in self._names(rng, settings.letters, 4 * number) if name != "VAR"
            )
        )
        names = names[:number]
        others = [
            name
            for name in dict.fromkeys(self._names(rng, 3, 8 * number))
            if name not in ("VAR", *names)
        ]
        example = self._example(rng, others[:number])
        value = str(rng.randint(10000, 99999))
        while value in example:
            value = str(rng.randint(10000, 99999))
        statements = _statements(names, value)
        end = f"\n{settings.tail}{settings.answer_prefix}".format(query=value, count=number)
        fixed = self.cost(
            example, settings.head, *(f"{statement}\n" for statement in statements), end
        )
        room -= fixed + self.counter.added
        lines = [NOISE] * (max(room, 0) // self._noise_cost + 1)
        filled = self.fill(lines, np.full(len(lines), self._noise_cost), room)
        context = "\n".join(insert(filled, statements, rng))
        prefix = settings.answer_prefix.format(query=value, count=number)
        return Draft(f"{example}{settings.head}{context}{end}", prefix, names)

    def _example(self, rng: np.random.RandomState, names: list[str]) -> str:
        settings = self.settings
        value = str(rng.randint(10000, 99999))
        context = "\n".join(insert([NOISE] * self._example_lines, _statements(names, value), rng))
        question = f"\n{settings.tail}{settings.answer_prefix}".format(
            query=value, count=len(names)
        )
        return f"{settings.head}{context}{question} {' '.join(names)}\n\n"

    @staticmethod
    def _names(rng: np.random.RandomState, letters: int, number: int) -> list[str]:
        text = (rng.randint(0, 26, letters * number) + ord("A")).astype(np.uint8).tobytes().decode()
        return [text[start : start + letters] for start in range(0, len(text), letters)]


def _statements(names: list[str], value: str) -> list[str]:
    """One chain; the space at the end of all but the first is NVIDIA's."""
    later = [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}", *later]


class ListBuilder(Builder[ListSettings]):
    """Common words in a numbered list."""

    def __init__(self, task: str, length: int, settings: ListSettings, tables: Tables) -> None:
        super().__init__(task, length, settings, tables)
        words, costs = tables.words("wonderwords")
        _, numbers = tables.numbers
        entries = (len(words) - 100) * settings.other
        enough = (
            entries >= len(numbers) or numbers[entries] + entries * costs.mean() > 1.05 * length
        )
        self._pool = "wonderwords" if enough else tables.corpora.larger_pool
        tables.words(self._pool)
        self.details["words"] = self._pool

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        settings = self.settings
        words, costs = self.tables.words(self._pool)
        names, numbers = self.tables.numbers
        example, shown = self._example(rng)
        order = rng.permutation(len(words))
        chosen = order[: len(numbers) // settings.other + len(shown)]
        if not shown.isdisjoint(itemgetter(*chosen.tolist())(words)):
            chosen = np.array(
                [position for position in chosen.tolist() if words[position] not in shown]
            )
        common, others = chosen[: settings.common], chosen[settings.common :]
        end = f"\n{settings.tail}{settings.answer_prefix}"
        room -= self.cost(example, settings.head, end) + self.counter.added
        room -= settings.frequency * int(costs[common].sum())
        entries = np.arange(settings.common * settings.frequency, len(numbers), settings.other)
        sums = settings.other * np.concatenate([[0], np.cumsum(costs[others])])
        shorter = min(len(entries), len(sums))
        fitting = (
            int(np.searchsorted(numbers[entries[:shorter]] + sums[:shorter], room, side="right"))
            - 1
        )
        others = others[: max(fitting, 1)]
        listed = np.concatenate(
            [np.repeat(common, settings.frequency), np.repeat(others, settings.other)]
        )
        picked = itemgetter(*rng.permutation(listed).tolist())(words)
        context = "".join(chain.from_iterable(zip(names, picked, strict=False)))
        outputs = [words[n] for n in common.tolist()]
        return Draft(f"{example}{settings.head}{context[1:]}{end}", settings.answer_prefix, outputs)

    def _example(self, rng: np.random.RandomState) -> tuple[str, set[str]]:
        """A list with its answer, and the words in it."""
        settings = self.settings
        if settings.example is None:
            return "", set()
        size, frequency, other = settings.example
        words, _ = self.tables.words("wonderwords")
        shown = [words[n] for n in rng.permutation(len(words))[:size].tolist()]
        listed = frequency * shown[: settings.common] + other * shown[settings.common :]
        rng.shuffle(listed)
        context, answer = (
            " ".join(f"{n}. {word}" for n, word in enumerate(some, 1))
            for some in (listed, shown[: settings.common])
        )
        return f"{settings.head}{context}\n{settings.tail}{settings.answer_prefix} {answer}\n", set(
            shown
        )


class CodedBuilder(Builder[CodedSettings]):
    """Frequent words of six letters."""

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        settings = self.settings
        size = max(4, self.limit // 50)
        drawn: dict[str, None] = {}
        while len(drawn) < size:
            text = rng.randint(ord("a"), ord("z") + 1, 6 * size).astype(np.uint8).tobytes().decode()
            drawn |= dict.fromkeys(text[start : start + 6] for start in range(0, len(text), 6))
        words = ["...", *list(drawn)[: size - 1]]  # the most frequent is noise
        costs = self.counter.counts([f" {word}" for word in words])
        end = f"\n{settings.tail}{settings.answer_prefix}"
        room -= self.cost(settings.head, end) + self.counter.added
        shares = np.arange(1, size + 1) ** -2.0 / _ZETA_2
        low, high = _LEAST_WORDS, max(_LEAST_WORDS + 1, 2 * self.length)
        while high - low > 1:
            middle = (low + high) // 2
            if int(_frequencies(middle, shares) @ costs) <= room:
                low = middle
            else:
                high = middle
        times = _frequencies(low, shares)
        times[0] += max(0, room - int(times @ costs)) // int(costs[0])  # what no word fits into
        listed = rng.permutation(np.repeat(np.arange(size), times))
        context = " ".join([words[n] for n in listed.tolist()])
        return Draft(f"{settings.head} {context}{end}", settings.answer_prefix, words[1:4])


_LEAST_WORDS = int(16 * _ZETA_2) + 1  # of which the fourth most frequent is there once


def _frequencies(number: int, shares: np.ndarray) -> np.ndarray:
    """How often each word comes among about ``number``; the three answers more often than all after them."""
    times = (number * shares).astype(np.int64)
    times[4:] = np.minimum(times[4:], times[3] - 1)
    return times


class QuestionBuilder(Builder[QuestionSettings]):
    """Questions on documents."""

    def __init__(self, task: str, length: int, settings: QuestionSettings, tables: Tables) -> None:
        super().__init__(task, length, settings, tables)
        questions, costs = tables.documents(task)
        fixed = self.counter.counts([self._end(question.query) for question in questions.items])
        fixed += self.cost(settings.head) + self.counter.added
        for position, question in enumerate(questions.items):
            gold = self._gold(question)
            fixed[position] += costs[gold].sum() + tables.headers[len(gold)]
        # in NVIDIA's order; those whose paragraphs do not fit are passed over
        self.fitting = np.flatnonzero(1.01 * fixed + 4 <= self.limit).tolist()
        self.share = len(self.fitting) / len(questions.items)

    def build(self, rng: np.random.RandomState, index: int, room: int) -> Draft:
        settings = self.settings
        questions, costs = self.tables.documents(self.task)
        headers = self.tables.headers
        question = questions.items[self.fitting[index % len(self.fitting)]]
        gold = self._gold(question)
        end = self._end(question.query)
        room -= (
            self.cost(settings.head, end)
            + self.counter.added
            + int(costs[gold].sum() + headers[len(gold)])
        )
        free = np.ones(len(costs), bool)
        free[[*question.gold, *question.related]] = False
        shuffled = rng.permutation(len(costs))
        order = np.concatenate(
            [rng.permutation(np.array(question.related, np.int64)), shuffled[free[shuffled]]]
        )
        missing = room - int(costs[order].sum())
        if missing > 0:  # all are used: the whole set again and again
            copies = missing // int(costs.sum()) + 1
            order = np.concatenate([order, *(rng.permutation(len(costs)) for _ in range(copies))])
        last = min(len(order), len(headers) - len(gold) - 1)
        sums = (
            np.cumsum(costs[order[:last]])
            + headers[len(gold) + 1 : len(gold) + last + 1]
            - headers[len(gold)]
        )
        whole = int(np.searchsorted(sums, room, side="right"))
        documents = [questions.documents[n] for n in (*gold, *order[:whole].tolist())]
        if whole < last:
            number = len(gold) + whole
            rest = (
                room
                - (int(sums[whole - 1]) if whole else 0)
                - int(headers[number + 1] - headers[number])
                - 1
            )
            part = self.cut(questions.documents[order[whole]], rest)
            documents += [part] if part else []
        listed = rng.permutation(len(documents)).tolist()
        context = "".join(
            f"Document {n}:\n{documents[place]}\n\n" for n, place in enumerate(listed, 1)
        )
        return Draft(
            f"{settings.head}{context}{end}", settings.answer_prefix, list(question.outputs)
        )

    def _gold(self, question: Question) -> list[int]:
        return list(question.gold if self.settings.gold == "all" else question.supporting)

    def _end(self, query: str) -> str:
        # a question may have braces
        return f"{self.settings.tail.replace('{query}', query)}{self.settings.answer_prefix}"


_BUILDERS: dict[type[Settings], type[Builder]] = {
    NeedleSettings: NeedleBuilder,
    ChainSettings: ChainBuilder,
    ListSettings: ListBuilder,
    CodedSettings: CodedBuilder,
    QuestionSettings: QuestionBuilder,
}
_PROBES = 16
_FIXED_SHARE = (
    0.9  # a haystack is a tenth of the length or more, wherever smaller settings can make it so
)


def choose(task: str, length: int, tables: Tables) -> Builder:
    """Return the builder for the first of ``task``'s settings that fits ``length`` tokens.

    The published settings come first. They fit where the prompt without its filler, of 16 draws the longest and some
    room for longer ones, leaves a tenth of the length; the question tasks' where half of the questions fit. The
    smallest settings are taken if they fit at all.

    Raises:
        UserError: the smallest settings do not fit.
    """
    builders = [
        _BUILDERS[type(settings)](task, length, settings, tables)
        for settings in ladder(task, length)
    ]
    needed = 0
    best: Builder | None = None
    for builder in builders:
        if isinstance(builder, QuestionBuilder):
            if builder.share >= 0.5:
                return builder
            if builder.fitting and (
                not isinstance(best, QuestionBuilder) or builder.share > best.share
            ):
                best = builder
            continue
        drafts = [builder.build(np.random.RandomState(probe), probe, 0) for probe in range(_PROBES)]
        tokens = tables.counter.counts([draft.text for draft in drafts]) + tables.counter.added
        answers = tables.counter.counts([" ".join(draft.outputs) for draft in drafts])
        needed = 2 * int(tokens.max()) - int(tokens.min()) + builder.settings.budget
        if answers.max() > builder.settings.budget:
            continue
        if needed <= (_FIXED_SHARE * length):
            return builder
        if needed <= length:
            best = builder
    if best is None:
        least = f", which needs {needed:,} tokens or more with this tokenizer" if needed else ""
        raise UserError(
            f"{task}: {length:,} tokens are too few for its smallest settings{least}; ask for more"
        )
    return best
