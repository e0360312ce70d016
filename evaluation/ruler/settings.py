"""The settings of RULER's tasks: NVIDIA's published ones, and smaller ones for short lengths.

Templates and numbers named "published" are NVIDIA/RULER's (scripts/data/synthetic/constants.py,
scripts/synthetic.yaml and the defaults of the generators), word for word; the others are this
project's.
"""

from dataclasses import dataclass, replace
from typing import Literal

Haystack = Literal["noise", "essay", "needle"]
Kind = Literal["words", "numbers", "uuids", "blocks"]

PUBLISHED = "published"
# From this many tokens on NVIDIA lists common words 30 times and others 3 times, below 6 and 1.
LONG_LISTS_FROM = 4096


@dataclass(frozen=True)
class Settings:
    """One task's settings.

    Attributes:
        name: ``published``, or that of a smaller variant.
        budget: tokens reserved for the answer.
        head: the prompt before its context.
        tail: the prompt after the context and its line end.
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
        keys: number of keys.
        values: values of each key.
        queries: keys that the question names.
        key_type: the kind of the keys; a ``block`` is the first of a uuid's five.
        value_type: the kind of the values.
        needle: the sentence, for ``key`` and ``value``.
    """

    haystack: Haystack
    keys: int
    values: int
    queries: int
    key_type: Kind
    value_type: Kind
    needle: str


@dataclass(frozen=True)
class ChainSettings(Settings):
    """Variable tracking: a chain of variables, and an example with names of three letters.

    Attributes:
        hops: assignments of a variable to another; the chain has one variable more.
        letters: letters of a variable's name.
        example_tokens: tokens of the example, which lines of noise make that long.
        example_lines: least number of its lines of noise.
    """

    hops: int
    letters: int
    example_tokens: int
    example_lines: int


@dataclass(frozen=True)
class ListSettings(Settings):
    """Common words in a list.

    Attributes:
        common: number of common words.
        frequency: times that a common word is listed.
        other: times that another word is listed.
        example: words, times of a common and of another word in the example; None for no example.
    """

    common: int
    frequency: int
    other: int
    example: tuple[int, int, int] | None


@dataclass(frozen=True)
class CodedSettings(Settings):
    """Frequent coded words: Zipf's law, exponent 2, over (length - budget) / 50 words."""


@dataclass(frozen=True)
class QuestionSettings(Settings):
    """Questions on documents.

    Attributes:
        gold: the documents that are always in the prompt: all that the question comes with, or
            only those that answer it.
    """

    gold: Literal["all", "supporting"]


@dataclass(frozen=True)
class _NeedleTask:
    """The published differences between the needle tasks; fields as in :class:`NeedleSettings`."""

    haystack: Haystack
    keys: int = 1
    values: int = 1
    queries: int = 1
    key_type: Kind = "words"
    value_type: Kind = "numbers"


# scripts/synthetic.yaml
_NEEDLE_TASKS = {
    "niah_single_1": _NeedleTask("noise"),
    "niah_single_2": _NeedleTask("essay"),
    "niah_single_3": _NeedleTask("essay", value_type="uuids"),
    "niah_multikey_1": _NeedleTask("essay", keys=4),
    "niah_multikey_2": _NeedleTask("needle"),
    "niah_multikey_3": _NeedleTask("needle", key_type="uuids", value_type="uuids"),
    "niah_multivalue": _NeedleTask("essay", values=4),
    "niah_multiquery": _NeedleTask("essay", keys=4, queries=4),
}
NEEDLE_TASKS = tuple(_NEEDLE_TASKS)
QUESTION_TASKS = ("qa_1", "qa_2")
TASKS = (*NEEDLE_TASKS, "vt", "cwe", "fwe", *QUESTION_TASKS)


def settings_candidates(task: str, length: int) -> list[Settings]:
    """Return ``task``'s settings at ``length`` tokens: the published ones, then smaller ones."""
    if task in _NEEDLE_TASKS:
        return _needle_candidates(_NEEDLE_TASKS[task])
    if task == "vt":
        return _chain_candidates()
    if task == "cwe":
        return _list_candidates(length)
    if task == "fwe":
        return _coded_candidates()
    return _question_candidates()


def _needle_candidates(task: _NeedleTask) -> list[Settings]:
    return [
        _published_needles(task, PUBLISHED, budget=128),
        _published_needles(task, "short-budget", budget=64),
        _compact_needles(task, "compact", budget=64),
        _compact_needles(task, "small", budget=48, most=2, short_ids=True),
        _shortest_needles(task, "smallest", budget=24, most=2, short_ids=True),
    ]


# NVIDIA's sentences, in the singular or the plural
def _published_needles(task: _NeedleTask, name: str, budget: int) -> NeedleSettings:
    kind: str = task.value_type
    if task.queries * task.values > 1:
        head = f"Some special magic {kind} are"
        tail = f"What are all the special magic {kind} for"
        noun = kind
        verb = "are"
    else:
        noun = kind.removesuffix("s")
        head = f"A special magic {noun} is"
        tail = f"What is the special magic {noun} for"
        verb = "is"

    query = "{query} mentioned in the provided text"
    return NeedleSettings(
        name=name,
        budget=budget,
        head=(
            f"{head} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {noun} afterwards.\n"
        ),
        tail=f"{tail} {query}?",
        answer_prefix=f" The special magic {noun} for {query} {verb}",
        haystack=task.haystack,
        keys=task.keys,
        values=task.values,
        queries=task.queries,
        key_type=task.key_type,
        value_type=task.value_type,
        needle=f"One of the special magic {kind} for {{key}} is: {{value}}.",
    )


def _compact_needles(
    task: _NeedleTask, name: str, budget: int, most: int = 4, short_ids: bool = False
) -> NeedleSettings:
    """Short words; at most ``most`` keys, values and queries; blocks of uuids for ``short_ids``."""
    queries = min(task.queries, most)
    values = min(task.values, most)
    several = queries * values > 1
    # one noun for numbers and uuids saves tokens
    noun = "values" if several else "value"
    verb = "are" if several else "is"
    return NeedleSettings(
        name=name,
        budget=budget,
        head="Memorize the magic values hidden in this text.\n",
        tail=f"Which magic {noun} for {{query}} does it name?",
        answer_prefix=f" The magic {noun} {verb}",
        haystack=task.haystack,
        keys=min(task.keys, most),
        values=values,
        queries=queries,
        key_type=_shorten(task.key_type, short_ids),
        value_type=_shorten(task.value_type, short_ids),
        needle="The magic value for {key} is: {value}.",
    )


def _shortest_needles(
    task: _NeedleTask, name: str, budget: int, most: int, short_ids: bool
) -> NeedleSettings:
    compact = _compact_needles(task, name, budget, most, short_ids)
    noun = "values" if compact.queries * compact.values > 1 else "value"
    return replace(
        compact,
        tail="",
        answer_prefix=f"The magic {noun} for {{query}}:",
        needle="Magic {key}: {value}.",
    )


def _shorten(kind: Kind, short_ids: bool) -> Kind:
    return "blocks" if kind == "uuids" and short_ids else kind


def _chain_candidates() -> list[Settings]:
    published = ChainSettings(
        name=PUBLISHED,
        budget=30,
        head=(
            "Memorize and track the chain(s) of variable assignment "
            "hidden in the following text.\n\n"
        ),
        tail="Question: Find all variables that are assigned the value {query} in the text above.",
        answer_prefix=(
            " Answer: According to the chain(s) of variable assignment in the text above, "
            "{count} variables are assigned the value {query}, they are: "
        ),
        hops=4,
        letters=5,
        example_tokens=500,
        example_lines=5,
    )
    # without NVIDIA's introduction, and with one line of noise in the example
    compact = ChainSettings(
        name="compact",
        budget=30,
        head="",
        tail="Question: Which {count} variables have the value {query}?",
        answer_prefix=" Answer: ",
        hops=4,
        letters=3,
        example_tokens=0,
        example_lines=1,
    )
    return [
        published,
        # for tokenizers that need more than 30 tokens for five times five letters
        replace(published, name="long-budget", budget=60),
        replace(published, name="short-example", example_tokens=0, example_lines=2),
        compact,
        replace(compact, name="small", budget=24, hops=2, example_lines=0),
    ]


def _list_candidates(length: int) -> list[Settings]:
    long = ListSettings(
        name=PUBLISHED,
        budget=120,
        head=(
            "Below is a numbered list of words. In these words, some appear more often than "
            "others. Memorize the ones that appear most often.\n"
        ),
        tail="Question: What are the 10 most common words in the above list?",
        answer_prefix=" Answer: The top 10 words that appear most often in the list are:",
        common=10,
        frequency=30,
        other=3,
        example=(40, 10, 3),
    )
    # NVIDIA's for under 4,096 tokens
    short = replace(long, frequency=6, other=1, example=(20, 3, 1))
    if length >= LONG_LISTS_FROM:
        published = [long, replace(short, name="published-short")]
    else:
        published = [short]
    return [
        *published,
        _smaller_list("compact", budget=64, common=5, example=(8, 3, 1)),
        _smaller_list("small", budget=40, common=3, example=(4, 2, 1)),
        _smaller_list("smallest", budget=24, common=2, example=(3, 2, 1)),
        _smaller_list("zero-shot", budget=24, common=2, example=None),
    ]


def _smaller_list(
    name: str, budget: int, common: int, example: tuple[int, int, int] | None
) -> ListSettings:
    return ListSettings(
        name=name,
        budget=budget,
        head="A list of words:\n",
        tail=f"Question: What are its {common} most common words?",
        answer_prefix=" Answer:",
        common=common,
        frequency=4,
        other=1,
        example=example,
    )


def _coded_candidates() -> list[Settings]:
    published = CodedSettings(
        name=PUBLISHED,
        budget=50,
        head=(
            "Read the following coded text and track the frequency of each coded word. "
            "Find the three most frequently appeared coded words."
        ),
        tail=(
            "Question: Do not provide any explanation. Please ignore the dots '....'. "
            "What are the three most frequently appeared words in the above coded text?"
        ),
        answer_prefix=(
            " Answer: According to the coded text above, "
            "the three most frequently appeared words are:"
        ),
    )
    # the question without its explanations
    compact = CodedSettings(
        name="compact",
        budget=32,
        head="A coded text:",
        tail="Question: What are the three most frequent words, without the dots?",
        answer_prefix=" Answer:",
    )
    return [published, compact]


def _question_candidates() -> list[Settings]:
    instruction = (
        "Answer the question based on the given documents. "
        "Only give me the answer and do not output any other words."
    )
    published = QuestionSettings(
        name=PUBLISHED,
        budget=32,
        head=f"{instruction}\n\nThe following are given documents.\n\n",
        tail=f"{instruction}\n\nQuestion: {{query}}",
        answer_prefix=" Answer:",
        gold="all",
    )
    # the instruction once, in few words
    compact = QuestionSettings(
        name="compact",
        budget=24,
        head="Answer from the documents, in few words.\n\n",
        tail="Question: {query}",
        answer_prefix=" Answer:",
        gold="supporting",
    )
    return [published, replace(published, name="supporting", gold="supporting"), compact]
