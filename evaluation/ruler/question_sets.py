"""Questions on documents, in the formats of SQuAD and HotpotQA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        query: its text.
        outputs: the right answers, any of which is enough.
        gold: numbers of the documents that it comes with.
        supporting: those among them that hold the answer.
        related: numbers of other documents on the same matter.
    """

    query: str
    outputs: list[str]
    gold: list[int]
    supporting: list[int]
    related: list[int]


@dataclass(frozen=True)
class Questions:
    """Documents, and questions on them.

    Attributes:
        documents: their texts, in alphabetical order; a question names them by their positions.
        items: the questions.
    """

    documents: list[str]
    items: list[Question]


def parse_squad(data: dict[str, Any]) -> Questions:
    """Read SQuAD's format: questions that have an answer; an article's paragraphs are related.

    Args:
        data: ``{"data": [article, ...]}``. An article has ``paragraphs``, each with its text
            (``context``) and its questions (``qas``). A question has ``question``,
            ``is_impossible`` and ``answers``, each with ``text``.
    """
    documents: set[str] = set()
    for article in data["data"]:
        documents.update(paragraph["context"] for paragraph in article["paragraphs"])
    positions = _positions(documents)

    items = []
    for article in data["data"]:
        own = [positions[paragraph["context"]] for paragraph in article["paragraphs"]]
        for paragraph, gold in zip(article["paragraphs"], own, strict=True):
            related = [position for position in dict.fromkeys(own) if position != gold]
            for question in paragraph["qas"]:
                if question["is_impossible"]:
                    continue
                item = Question(
                    query=question["question"],
                    # annotators gave several answers, any of which is right
                    outputs=[answer["text"] for answer in question["answers"]],
                    gold=[gold],
                    supporting=[gold],
                    related=related,
                )
                items.append(item)
    return Questions(list(positions), items)


def parse_hotpotqa(data: Sequence[dict[str, Any]]) -> Questions:
    """Read HotpotQA's format: each question has ten paragraphs, of which two support the answer.

    Args:
        data: a list of questions. One has ``question``, ``answer``, ``context`` (pairs of a title
            and the sentences of a paragraph) and ``supporting_facts`` (pairs of a title and the
            number of a sentence).
    """
    # of each question: title -> paragraph
    paragraphs = []
    documents: set[str] = set()
    for question in data:
        texts = {title: f"{title}\n{''.join(lines)}" for title, lines in question["context"]}
        paragraphs.append(texts)
        documents.update(texts.values())
    positions = _positions(documents)

    items = []
    for question, texts in zip(data, paragraphs, strict=True):
        # a few supporting facts name a title that the question does not come with
        facts = dict.fromkeys(title for title, _ in question["supporting_facts"])
        supporting = [texts[title] for title in facts if title in texts]
        item = Question(
            query=question["question"],
            outputs=[question["answer"]],
            gold=[positions[text] for text in dict.fromkeys(texts.values())],
            supporting=[positions[text] for text in supporting],
            related=[],
        )
        items.append(item)
    return Questions(list(positions), items)


def _positions(documents: set[str]) -> dict[str, int]:
    """Return the position of each of ``documents`` in alphabetical order."""
    return {document: position for position, document in enumerate(sorted(documents))}
