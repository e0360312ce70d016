"""Prompts of the question tasks: documents, some of which hold the answer."""

from functools import cached_property

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft
from evaluation.ruler.question_sets import Question
from evaluation.ruler.settings import QuestionSettings
from evaluation.ruler.tables import count_fitting, prefix_sums


class QuestionBuilder(Builder[QuestionSettings]):
    """Questions on documents.

    An example, shortened::

        Answer the question based on the given documents. ...

        Document 1:
        The Amber is a river of ...

        Document 2:
        ...

        Answer the question based on the given documents. ...

        Question: On which river does Aldermoor lie? Answer:

    A document costs its own tokens and those of its heading, ``Document 1:`` and so on; the sum of
    the headings' tokens depends on their number alone, as they come in any order of the documents.
    """

    @cached_property
    def fitting(self) -> list[int]:
        """Positions of the questions whose own documents fit, in NVIDIA's order."""
        questions, _ = self.tables.documents(self.task)
        frames = [self.frame(query=question.query) for question in questions.items]

        # the prompt with the question's own documents and nothing else
        needed = self.counter.counts([frame.end for frame in frames])
        needed += [self._gold_cost(question) for question in questions.items]
        needed += self.cost(self.settings.head) + self.counter.added

        # some tokens to spare, as pieces do not add up with every tokenizer
        return np.flatnonzero(1.01 * needed + 4 <= self.limit).tolist()

    @property
    def share(self) -> float:
        """The share of ``fitting`` in all questions."""
        questions, _ = self.tables.documents(self.task)
        return len(self.fitting) / len(questions.items)

    def build(
        self,
        rng: RandomState,
        index: int,
        room: int,
    ) -> Draft:
        questions, _ = self.tables.documents(self.task)
        # again from the first one after the last
        number = index % len(self.fitting)
        question = questions.items[self.fitting[number]]

        # the question's own documents, then others as far as they fit
        frame = self.frame(query=question.query)
        room -= self.fixed_cost(frame) + self._gold_cost(question)
        order = self._order_others(rng, question, room)
        documents = self._pick_documents(question, order, room)

        # shuffled, so that the gold documents are anywhere
        context = ""
        listed = rng.permutation(len(documents))
        for number, n in enumerate(listed.tolist(), 1):
            context += f"Document {number}:\n{documents[n]}\n\n"
        return frame.draft(context, question.outputs)

    def _gold(self, question: Question) -> list[int]:
        """Return the documents that are always in the prompt."""
        if self.settings.gold == "all":
            return question.gold
        return question.supporting

    def _gold_cost(self, question: Question) -> int:
        gold = self._gold(question)
        _, costs = self.tables.documents(self.task)
        headings = self.tables.headings[len(gold)]
        return int(costs[gold].sum() + headings)

    def _order_others(
        self,
        rng: RandomState,
        question: Question,
        room: int,
    ) -> np.ndarray:
        """Return the other documents in the order in which they are added: related ones first.

        Args:
            rng: random numbers.
            question: comes with gold and related documents.
            room: tokens for the others.

        Returns:
            Positions of documents; all of them again and again where they do not fill ``room``.
        """
        _, costs = self.tables.documents(self.task)
        shuffled = rng.permutation(len(costs))
        related = rng.permutation(np.array(question.related, np.int64))

        # keeps the order of ``shuffled``
        own = [*question.gold, *question.related]
        unrelated = np.setdiff1d(shuffled, own, assume_unique=True)
        order = np.concatenate([related, unrelated])

        missing = room - int(costs[order].sum())
        if missing <= 0:
            return order
        copies = missing // int(costs.sum()) + 1
        again = [rng.permutation(len(costs)) for _ in range(copies)]
        return np.concatenate([order, *again])

    def _pick_documents(
        self,
        question: Question,
        order: np.ndarray,
        room: int,
    ) -> list[str]:
        """Return the gold documents and those of ``order`` that fit, the last one cut.

        Args:
            question: comes with the gold documents.
            order: of the others.
            room: tokens beyond the gold documents.
        """
        questions, costs = self.tables.documents(self.task)
        gold = self._gold(question)

        # headings[n] = tokens of the n headings after those of the gold documents
        headings = self.tables.headings[len(gold) :]
        headings = headings - headings[0]

        # sums[n] = tokens of the first n documents of ``order`` with their headings
        most = min(len(order), len(headings) - 1)
        sums = prefix_sums(costs[order[:most]])
        sums += headings[: most + 1]

        whole = count_fitting(sums, room)
        picked = gold + order[:whole].tolist()
        documents = [questions.documents[n] for n in picked]
        if whole == most:
            return documents

        # the rest of the room, less the next heading and a line end, is for a part of the next
        rest = room - int(sums[whole]) - 1
        rest -= int(headings[whole + 1] - headings[whole])
        cut_document = questions.documents[order[whole]]
        part = self.cut(cut_document, rest)
        if part:
            documents.append(part)
        return documents
