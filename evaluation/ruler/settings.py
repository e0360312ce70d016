"""The settings of RULER's tasks, from ``settings.yaml``."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Haystack = Literal["noise", "essay", "needle"]
Kind = Literal["words", "numbers", "uuids", "blocks"]


@dataclass(frozen=True)
class Settings:
    """One task's settings.

    Attributes:
        name: ``published``, or that of a smaller variant.
        budget: tokens reserved for the answer.
        head: the prompt before its context.
        tail: the prompt after its context.
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
    example: list[int] | None


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
QUESTION_TASKS = ("qa_1", "qa_2")
TASKS = (*NEEDLE_TASKS, "vt", "cwe", "fwe", *QUESTION_TASKS)

_TYPES: dict[str, type[Settings]] = {
    "vt": ChainSettings,
    "cwe": ListSettings,
    "fwe": CodedSettings,
    "qa": QuestionSettings,
}


def settings_candidates(task: str, length: int) -> list[Settings]:
    """Return ``task``'s settings at ``length`` tokens: the published ones, then smaller ones."""
    tables = _read_tables()
    if task in NEEDLE_TASKS:
        difference = tables["needle_tasks"][task]
        return [_needle_settings(**variant, **difference) for variant in tables["niah"]]

    family = task.partition("_")[0]
    candidates = []
    for variant in tables[family]:
        fields = dict(variant)
        least = fields.pop("from_length", 0)
        end = fields.pop("below_length", length + 1)
        if least <= length < end:
            candidates.append(_TYPES[family](**fields))
    return candidates


@cache
def _read_tables() -> dict[str, Any]:
    path = Path(__file__).with_name("settings.yaml")
    return yaml.safe_load(path.read_bytes())


def _needle_settings(
    name: str,
    budget: int,
    needle: str,
    one: dict[str, str],
    several: dict[str, str],
    haystack: Haystack,
    keys: int = 1,
    values: int = 1,
    queries: int = 1,
    key_type: Kind = "words",
    value_type: Kind = "numbers",
    most: int = 4,
    uuids: Kind = "uuids",
) -> NeedleSettings:
    """Return a variant of the needle tasks with the differences of one of them."""
    queries = min(queries, most)
    values = min(values, most)
    texts = one if queries * values == 1 else several
    kind = value_type.removesuffix("s")

    # uuids as long as the variant has them
    kinds: dict[Kind, Kind] = {"uuids": uuids}
    return NeedleSettings(
        name=name,
        budget=budget,
        head=texts["head"].replace("{kind}", kind),
        tail=texts["tail"].replace("{kind}", kind),
        answer_prefix=texts["answer_prefix"].replace("{kind}", kind),
        haystack=haystack,
        keys=min(keys, most),
        values=values,
        queries=queries,
        key_type=kinds.get(key_type, key_type),
        value_type=kinds.get(value_type, value_type),
        needle=needle.replace("{kind}", kind),
    )
