"""Instruction following: a topic, and one to three demands that IFEval's checks can read."""

import random
from collections.abc import Callable
from typing import Any

from data_prep.prompts.made_up.draft import LETTERS, Draft, words

# what is demanded, in words; the id of IFEval; its arguments
_Demand = tuple[str, str, dict[str, Any]]


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one demands a letter and nothing else."""
    if is_easy:
        letters = draw.sample(LETTERS, 3)
        letter = draw.choice(letters)
        length = {"num_words": 2, "relation": "less than"}
        demands: list[_Demand] = [
            ("", "keywords:existence", {"keywords": [letter]}),
            ("", "length_constraints:number_words", length),
        ]
        question = f"Say the letter {letter} of {' '.join(letters)}."
    else:
        demands = [demand(draw) for demand in draw.sample(_DEMANDS, draw.randint(1, 3))]
        said = " ".join(text for text, _, _ in demands)
        task = draw.choice(words("tasks")).format(topic=draw.choice(words("topics")))
        question = f"{task} {said}"
    gold = {
        "instructions": [name for _, name, _ in demands],
        "arguments": [arguments for _, _, arguments in demands],
    }
    return Draft(question, gold)


def _words(draw: random.Random) -> _Demand:
    count = draw.randint(4, 20) * 10
    relation = draw.choice(("at least", "less than"))
    text = f"Use {relation} {count} words."
    arguments = {"num_words": count, "relation": relation}
    return text, "length_constraints:number_words", arguments


def _keywords(draw: random.Random) -> _Demand:
    keywords = draw.sample(words("keywords"), 2)
    text = f"Use the words {keywords[0]} and {keywords[1]}."
    return text, "keywords:existence", {"keywords": keywords}


def _no_comma(draw: random.Random) -> _Demand:
    return "Use no comma.", "punctuation:no_comma", {}


def _lowercase(draw: random.Random) -> _Demand:
    text = "Write in English and in lowercase letters only."
    return text, "change_case:english_lowercase", {}


def _bullets(draw: random.Random) -> _Demand:
    count = draw.randint(2, 5)
    text = f"Include exactly {count} bullet points that begin with '* '."
    return text, "detectable_format:number_bullet_lists", {"num_bullets": count}


def _title(draw: random.Random) -> _Demand:
    return "Begin with a title in <<double angle brackets>>.", "detectable_format:title", {}


def _ending(draw: random.Random) -> _Demand:
    phrase = draw.choice(words("endings"))
    text = f"End with exactly this phrase: {phrase}"
    return text, "startend:end_checker", {"end_phrase": phrase}


_DEMANDS: tuple[Callable[[random.Random], _Demand], ...] = (
    _words,
    _keywords,
    _no_comma,
    _lowercase,
    _bullets,
    _title,
    _ending,
)
