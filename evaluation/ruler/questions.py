"""Prompts of the question tasks: documents, some of which hold the answer."""

from functools import cached_property

import numpy as np
from numpy.random import RandomState

from evaluation.ruler.builder import Builder, Draft
from evaluation.ruler.corpora import Question
from evaluation.ruler.settings import QuestionSettings
from evaluation.ruler.tables import count_fitting, prefix_sums


class QuestionBuilder(Builder[QuestionSettings]):
    """Questions on documents."""

    @cached_property
    def fitting(self) -> list[int]:
        """Positions of the questions whose own documents fit, in NVIDIA's order."""
        questions, _ = self.tables.documents(self.task)
        frames = [self.frame(query=question.query) for question in questions.items]
        needed = self.counter.counts([frame.end for frame in frames])
        needed += self.cost(self.settings.head) + self.counter.added

        # the prompt with the question's own documents and nothing else
        needed += [self._documents_cost(self._gold(question)) for question in questions.items]
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
        question = questions.items[self.fitting[index % len(self.fitting)]]
        gold = self._gold(question)

        # the question's own documents, then others as far as they fit
        frame = self.frame(query=question.query)
        room -= self.fixed_cost(frame) + self._documents_cost(gold)
        order = self._order_others(rng, question, room)
        documents = self._pick_documents(gold, order, room)

        # shuffled, so that the gold documents are anywhere
        context = ""
        for number, position in enumerate(rng.permutation(len(documents)).tolist(), 1):
            context += f"Document {number}:\n{documents[position]}\n\n"
        return frame.draft(context, list(question.outputs))

    def _gold(self, question: Question) -> list[int]:
        """Return the documents that are always in the prompt."""
        return list(question.gold if self.settings.gold == "all" else question.supporting)

    def _documents_cost(self, documents: list[int]) -> int:
        """Return the tokens of ``documents`` with the first headings."""
        _, costs = self.tables.documents(self.task)
        return int(costs[documents].sum() + self.tables.headers[len(documents)])

    def _order_others(
        self,
        rng: RandomState,
        question: Question,
        room: int,
    ) -> np.ndarray:
        """Return the other documents in the order in which they are added: related ones first."""
        _, costs = self.tables.documents(self.task)
        shuffled = rng.permutation(len(costs))
        related = rng.permutation(np.array(question.related, np.int64))
        own = [*question.gold, *question.related]
        unrelated = shuffled[np.isin(shuffled, own, invert=True)]
        order = np.concatenate([related, unrelated])

        missing = room - int(costs[order].sum())
        if missing <= 0:
            return order
        # all are used: the whole set again and again
        copies = missing // int(costs.sum()) + 1
        again = [rng.permutation(len(costs)) for _ in range(copies)]
        return np.concatenate([order, *again])

    def _pick_documents(
        self,
        gold: list[int],
        order: np.ndarray,
        room: int,
    ) -> list[str]:
        """Return the ``gold`` documents and those of ``order`` that fit, the last one cut."""
        questions, costs = self.tables.documents(self.task)

        # headers[n] = tokens of the n headings after those of the gold documents
        headers = self.tables.headers[len(gold) :]
        headers = headers - headers[0]

        # sums[n] = tokens of the first n documents of ``order`` with their headings
        most = min(len(order), len(headers) - 1)
        sums = prefix_sums(costs[order[:most]]) + headers[: most + 1]
        whole = count_fitting(sums, room)
        picked = [*gold, *order[:whole].tolist()]
        documents = [questions.documents[n] for n in picked]
        if whole == most:
            return documents

        heading = int(headers[whole + 1] - headers[whole])
        rest = room - int(sums[whole]) - heading - 1
        part = self.cut(questions.documents[order[whole]], rest)
        return [*documents, part] if part else documents
