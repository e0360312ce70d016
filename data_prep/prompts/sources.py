"""Where prompts come from: a generator, a public set, or files in the form of prompts.jsonl."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_prep import documents
from data_prep.conversations.conversation import MESSAGES, without_nulls
from data_prep.input_files import JSON_LINES, kind_of
from data_prep.prompts.made_up import generators
from data_prep.prompts.public_sets import public_sets, read_public_set
from data_prep.records import BadRow
from recipes.common.errors import UserError, nearest
from recipes.common.json_files import parse_record
from recipes.runs.prompts import Prompt

_PIECE_BYTES = 1 << 30
_FIELDS = ("id", "domain", "reward", "gold", "tools", "documents", "source")


@dataclass(frozen=True)
class Source:
    """A source of prompts.

    Attributes:
        name: of a generator or a public set, a file, a folder, or ``hf:NAME``.
        count: prompts that are wanted; None for all.
    """

    name: str
    count: int | None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Return the source that ``NAME`` or ``NAME=COUNT`` names.

        Raises:
            UserError: it is of another form.
        """
        name, sign, number = text.rpartition("=")
        if not sign:
            name = text
        elif not number.isdecimal() or int(number) < 1:
            raise UserError(f"--source {text}: expected NAME or NAME=COUNT, such as logic=500")
        count = int(number) if sign else None
        if name in generators.GENERATORS and count is None:
            raise UserError(f"--source {name}: makes up any number; say how many, as {name}=500")
        return cls(name, count)

    @property
    def license(self) -> str:
        """The license, empty where it is not known."""
        if self.name in generators.GENERATORS:
            return generators.LICENSE
        chosen = public_sets().get(self.name)
        return chosen.license if chosen else ""

    def read(self, seed: int, is_easy: bool) -> Iterator[Prompt | BadRow]:
        """Yield candidates, in an order of ``seed`` where fewer than all are wanted.

        Args:
            seed: of a generator, and of the order.
            is_easy: what generators make up is small enough for a model of size tiny.

        Raises:
            UserError: it is unknown, or cannot be read.
        """
        if self.name in generators.GENERATORS:
            yield from generators.make_up(self.name, self.count or 0, seed, is_easy)
            return
        reader = read_public_set if self.name in public_sets() else _read_files
        if self.count is None:
            yield from reader(self.name)
            return
        candidates = list(reader(self.name))
        random.Random(f"{self.name}-{seed}").shuffle(candidates)  # noqa: S311  no secret
        yield from candidates


def _read_files(name: str) -> Iterator[Prompt | BadRow]:
    """Yield the prompts of files in the form of ``prompts.jsonl``."""
    try:
        parts = documents.split_inputs([name], _PIECE_BYTES)
    except UserError as error:
        if ":" in name or "/" in name or "." in name:
            raise
        known = [*generators.GENERATORS, *public_sets()]
        raise UserError(
            f"--source {name}: is no generator, public set or file{nearest(name, known)}; known "
            f"are {', '.join(known)}"
        ) from error
    for part in parts:
        for record, row in documents.read_records(part, MESSAGES, _FIELDS):
            where = documents.where(part, record)
            if isinstance(row, BadRow):
                yield row
                continue
            if kind_of(part.input) not in JSON_LINES:
                row = without_nulls(row)
            number = documents.records_before(part) + record
            try:
                prompt = parse_record(Prompt, {"id": f"{name}-{number}"} | row, where, "repair it")
            except UserError as error:
                yield BadRow(str(error))
                continue
            yield replace(prompt, source=prompt.source or name)
