"""What each RULER task asks: NVIDIA's published settings, and the smaller ones for lengths that those do not fit.

Templates and numbers named "published" are NVIDIA/RULER's (scripts/data/synthetic/constants.py, scripts/synthetic.yaml
and the defaults of the generators), word for word; the others are this project's.
"""

from dataclasses import dataclass
from typing import Literal

NEEDLE_TASKS = (
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
)
TASKS = (*NEEDLE_TASKS, "vt", "cwe", "fwe", "qa_1", "qa_2")
PUBLISHED = "published"
LONG_LISTS_FROM = 4096  # tokens: from here on NVIDIA lists common words 30 times and others 3 times, below 6 and 1


@dataclass(frozen=True)
class Settings:
    """One task's settings.

    Attributes:
        name: ``published``, or that of the smaller settings.
        budget: tokens reserved for the answer.
        head: the prompt before its context.
        tail: after the context and its line end.
        answer_prefix: the beginning of the answer, with which the prompt ends.
    """

    name: str
    budget: int
    head: str
    tail: str
    answer_prefix: str


@dataclass(frozen=True)
class NeedleSettings(Settings):
    """Needles in a haystack.

    Attributes:
        haystack: one line again and again, essays, or more needles.
        keys, values, queries: keys, values of each key, keys that are asked for.
        key_type, value_type: what they are; a ``block`` is the first of a uuid's five.
        needle: the sentence, for ``key`` and ``value``.
    """

    haystack: Literal["noise", "essay", "needle"]
    keys: int
    values: int
    queries: int
    key_type: Literal["words", "uuids", "blocks"]
    value_type: Literal["numbers", "uuids", "blocks"]
    needle: str


@dataclass(frozen=True)
class ChainSettings(Settings):
    """Variable tracking: one chain of ``hops + 1`` variables of ``letters`` letters, and an example of three.

    Attributes:
        example_tokens: tokens of the example, or as many lines of noise as make it that long.
        example_lines: its least lines of noise.
    """

    hops: int
    letters: int
    example_tokens: int
    example_lines: int


@dataclass(frozen=True)
class ListSettings(Settings):
    """Common words: ``common`` words ``frequency`` times each, the others ``other`` times.

    Attributes:
        example: words, times of a common and of another word in the example; None for no example.
    """

    common: int
    frequency: int
    other: int
    example: tuple[int, int, int] | None


@dataclass(frozen=True)
class CodedSettings(Settings):
    """Frequent coded words: Zipf's law with the exponent 2 over (length - budget) / 50 words."""


@dataclass(frozen=True)
class QuestionSettings(Settings):
    """Questions on documents.

    Attributes:
        gold: the paragraphs that are always there: all that the question comes with, or those that answer it.
    """

    gold: Literal["all", "supporting"]


def ladder(task: str, length: int) -> list[Settings]:
    """Return ``task``'s settings at ``length`` tokens: the published ones, then ever smaller ones."""
    if task in NEEDLE_TASKS:
        return _needles(task)
    if task == "vt":
        return _chain()
    if task == "cwe":
        return _list(length)
    return _coded() if task == "fwe" else _questions()


def _needles(task: str) -> list[Settings]:
    haystack: Literal["noise", "essay", "needle"] = "essay"
    if task == "niah_single_1":
        haystack = "noise"
    elif task in ("niah_multikey_2", "niah_multikey_3"):
        haystack = "needle"
    keys = 4 if task in ("niah_multikey_1", "niah_multiquery") else 1
    values = 4 if task == "niah_multivalue" else 1
    queries = 4 if task == "niah_multiquery" else 1
    uuid_values = task in ("niah_single_3", "niah_multikey_3")

    def settings(name: str, budget: int, limit: int, short_ids: bool, words: str) -> NeedleSettings:
        uuids: Literal["uuids", "blocks"] = "blocks" if short_ids else "uuids"
        kind = "uuids" if uuid_values else "numbers"
        several = min(queries, limit) * min(values, limit) > 1
        if words == PUBLISHED:
            asked = kind if several else kind[:-1]
            some, are, are_all = ("Some", "are", "are all") if several else ("A", "is", "is")
            head = (
                f"{some} special magic {asked} {are} hidden within the following text. Make sure to memorize it. "
                f"I will quiz you about the {asked} afterwards.\n"
            )
            tail = f"What {are_all} the special magic {asked} for {{query}} mentioned in the provided text?"
            prefix = (
                f" The special magic {asked} for {{query}} mentioned in the provided text {are}"
            )
            needle = f"One of the special magic {kind} for {{key}} is: {{value}}."
        else:
            noun, verb = ("values", "are") if several else ("value", "is")
            head = "Memorize the magic values hidden in this text.\n"
            if words == "short":
                tail, prefix = (
                    f"Which magic {noun} for {{query}} does it name?",
                    f" The magic {noun} {verb}",
                )
                needle = "The magic value for {key} is: {value}."
            else:
                tail, prefix = "", f"The magic {noun} for {{query}}:"
                needle = "Magic {key}: {value}."
        return NeedleSettings(
            name=name,
            budget=budget,
            head=head,
            tail=tail,
            answer_prefix=prefix,
            haystack=haystack,
            keys=min(keys, limit),
            values=min(values, limit),
            queries=min(queries, limit),
            key_type=uuids if task == "niah_multikey_3" else "words",
            value_type=uuids if uuid_values else "numbers",
            needle=needle,
        )

    return [
        settings(PUBLISHED, 128, 4, False, PUBLISHED),
        settings("short-budget", 64, 4, False, PUBLISHED),
        settings("compact", 64, 4, False, "short"),
        settings("small", 48, 2, True, "short"),
        settings("smallest", 24, 2, True, "shortest"),
    ]


def _chain() -> list[Settings]:
    head = (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    )
    tail = "Question: Find all variables that are assigned the value {query} in the text above."
    prefix = (
        " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are "
        "assigned the value {query}, they are: "
    )
    short = "Question: Which {count} variables have the value {query}?"
    return [
        ChainSettings(
            PUBLISHED,
            30,
            head,
            tail,
            prefix,
            hops=4,
            letters=5,
            example_tokens=500,
            example_lines=5,
        ),
        # for tokenizers that need more than 30 tokens for five times five letters
        ChainSettings(
            "long-budget",
            60,
            head,
            tail,
            prefix,
            hops=4,
            letters=5,
            example_tokens=500,
            example_lines=5,
        ),
        ChainSettings(
            "short-example",
            30,
            head,
            tail,
            prefix,
            hops=4,
            letters=5,
            example_tokens=0,
            example_lines=2,
        ),
        ChainSettings(
            "compact",
            30,
            "",
            short,
            " Answer: ",
            hops=4,
            letters=3,
            example_tokens=0,
            example_lines=1,
        ),
        ChainSettings(
            "small",
            24,
            "",
            short,
            " Answer: ",
            hops=2,
            letters=3,
            example_tokens=0,
            example_lines=0,
        ),
    ]


def _list(length: int) -> list[Settings]:
    head = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )
    tail = "Question: What are the 10 most common words in the above list?"
    prefix = " Answer: The top 10 words that appear most often in the list are:"

    def published(
        name: str, frequency: int, other: int, example: tuple[int, int, int]
    ) -> ListSettings:
        return ListSettings(
            name,
            120,
            head,
            tail,
            prefix,
            common=10,
            frequency=frequency,
            other=other,
            example=example,
        )

    def smaller(
        name: str, budget: int, common: int, example: tuple[int, int, int] | None
    ) -> ListSettings:
        return ListSettings(
            name,
            budget,
            "A list of words:\n",
            f"Question: What are its {common} most common words?",
            " Answer:",
            common=common,
            frequency=4,
            other=1,
            example=example,
        )

    short = (6, 1, (20, 3, 1))
    first = [published(PUBLISHED, 30, 3, (40, 10, 3)), published("published-short", *short)]
    return [
        *(first if length >= LONG_LISTS_FROM else [published(PUBLISHED, *short)]),
        smaller("compact", 64, 5, (8, 3, 1)),
        smaller("small", 40, 3, (4, 2, 1)),
        smaller("smallest", 24, 2, (3, 2, 1)),
        smaller("zero-shot", 24, 2, None),
    ]


def _coded() -> list[Settings]:
    head = (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words."
    )
    tail = (
        "Question: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    )
    prefix = (
        " Answer: According to the coded text above, the three most frequently appeared words are:"
    )
    short = "Question: What are the three most frequent words, without the dots?"
    return [
        CodedSettings(PUBLISHED, 50, head, tail, prefix),
        CodedSettings("compact", 32, "A coded text:", short, " Answer:"),
    ]


def _questions() -> list[Settings]:
    ask = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
    head, tail, prefix = (
        f"{ask}\n\nThe following are given documents.\n\n",
        f"{ask}\n\nQuestion: {{query}}",
        " Answer:",
    )
    short = "Answer from the documents, in few words.\n\n"
    return [
        QuestionSettings(PUBLISHED, 32, head, tail, prefix, "all"),
        QuestionSettings("supporting", 32, head, tail, prefix, "supporting"),
        QuestionSettings("compact", 24, short, "Question: {query}", prefix, "supporting"),
    ]
