"""The project's own questions on made-up people and places, as SQuAD and HotpotQA have them."""

from importlib.resources import files
from typing import Any, NamedTuple

import yaml

FACTS = files("evaluation.ruler") / "fallback" / "made_up_questions.yaml"
_DISTRACTORS = 4


class Town(NamedTuple):
    """A line of ``towns``."""

    name: str
    river: str
    founded: int
    craft: str
    festival: str


class Person(NamedTuple):
    """A line of ``people``; born in the town of the same line."""

    name: str
    trade: str
    born: int
    work: str


def squad_format() -> dict[str, Any]:
    """Return 60 paragraphs with one or two questions each; an article is a town and its person."""
    articles = []
    for town, person in _read():
        place = _paragraph(
            f"{town.name} lies on the river {town.river}. "
            f"It was founded in {town.founded} by settlers who followed the river.",
            (f"On which river does {town.name} lie?", town.river, f"the river {town.river}"),
            (f"In which year was {town.name} founded?", str(town.founded), f"in {town.founded}"),
        )
        custom = _paragraph(
            f"The town of {town.name} is known for {town.craft}. "
            f"Every year its people hold {town.festival}.",
            (f"What is {town.name} known for?", town.craft),
            (
                f"Which feast do the people of {town.name} hold every year?",
                town.festival,
                town.festival.removeprefix("the "),
            ),
        )
        life = _paragraph(
            f"{person.name} was {person.trade}, born in {town.name} in {person.born}, "
            f"and is remembered for {person.work}.",
            (
                f"What is {person.name} remembered for?",
                person.work,
                person.work.removeprefix("a "),
            ),
        )
        articles.append({"paragraphs": [place, custom, life]})
    return {"data": articles}


def _paragraph(text: str, *questions: tuple[str, ...]) -> dict[str, Any]:
    """Return a paragraph with its questions, each a tuple of the question and its answers."""
    entries = []
    for question, *answers in questions:
        entries.append(
            {
                "question": question,
                "answers": [{"text": answer} for answer in answers],
                "is_impossible": False,
            }
        )
    return {"context": text, "qas": entries}


def hotpotqa_format() -> list[dict[str, Any]]:
    """Return 40 questions: a person's paragraph names a town, the town's has the answer."""
    pairs = _read()
    paragraphs: dict[str, list[str]] = {}
    for town, person in pairs:
        paragraphs[town.name] = [
            f"{town.name} lies on the river {town.river}.",
            f" It is known for {town.craft}.",
        ]
        paragraphs[person.name] = [
            f"{person.name} was {person.trade}.",
            f" The place of birth was {town.name}.",
        ]

    entries = []
    for position, (town, person) in enumerate(pairs):
        # the pairs that follow are the distractors
        following = range(position + 1, position + 1 + _DISTRACTORS)
        others = [pairs[number % len(pairs)] for number in following]
        names = [person.name, town.name]
        names += [other.name for _, other in others]
        names += [other.name for other, _ in others]
        context = [[name, paragraphs[name]] for name in names]

        questions = {
            f"On which river lies the town where {person.name} was born?": town.river,
            f"What is the town known for where {person.name} was born?": town.craft,
        }
        for question, answer in questions.items():
            entries.append(
                {
                    "question": question,
                    "answer": answer,
                    "context": context,
                    "supporting_facts": [[person.name, 1], [town.name, 0]],
                }
            )
    return entries


def _read() -> list[tuple[Town, Person]]:
    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    towns = [Town(*row) for row in facts["towns"]]
    people = [Person(*row) for row in facts["people"]]
    return list(zip(towns, people, strict=True))
