"""Public conversation sets as JSON lines of the project's own form."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import documents, records
from data_prep.catalog.conversation_sets import BadRow, ConversationSet, to_record
from data_prep.conversations.conversation import without_nulls
from data_prep.records import to_json
from recipes.common.errors import UserError
from recipes.common.files import atomic_write

_PART_BYTES = 64 * 2**20  # of JSON lines


@dataclass(frozen=True)
class Converted:
    """What was converted.

    Attributes:
        conversations: written.
        left_out: reason -> rows.
    """

    conversations: int
    left_out: dict[str, int]


def convert(source: ConversationSet, output: Path, inputs: Sequence[str] = ()) -> Converted:
    """Write a set's conversations to a file, whole or not at all.

    Whether they are conversations at all, `data curate` finds out.

    Args:
        source: of the catalog.
        output: a file, which may not exist.
        inputs: a copy of the set, files or folders; empty for the Hub.

    Raises:
        UserError: ``output`` exists, an input cannot be read, no row is as the catalog says, or the
            disk is full.
    """
    if output.exists():
        raise UserError(f"{output}: exists already; remove it or name another output")
    left_out: Counter[str] = Counter()
    count = 0
    with atomic_write(output) as temporary:
        with temporary.open("wb") as file:
            for record in _records(source, inputs, left_out):
                file.write(to_json(record))
                count += 1
        if not count:
            reasons = "; ".join(left_out) or "there is none"
            raise UserError(
                f"{source.id}: no row is as the catalog says ({reasons:.300}); look at the set's "
                f"page, and give files of your own to `granite41 data curate`"
            )
    return Converted(count, dict(left_out))


def _records(
    source: ConversationSet, inputs: Sequence[str], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a set; count why rows are left out."""
    for part in documents.split_inputs(inputs or [source.input], _PART_BYTES):
        for _, row in documents.read_records(part, "messages", None):
            if isinstance(row, records.BadRow):
                left_out[row.reason] += 1
                continue
            try:
                yield to_record(without_nulls(row), source.columns)
            except BadRow as error:
                left_out[str(error)] += 1
