"""Conversations of files, as they are, once they have been checked."""

from collections.abc import Iterable, Iterator
from typing import Any

from data_prep import documents, input_files
from data_prep.conversations.conversation import (
    DOCUMENTS,
    MESSAGES,
    TOOLS,
    BadConversation,
    without_nulls,
)
from data_prep.conversations.judge.prompts import read_sample
from data_prep.input_files import JSON_LINES, kind_of
from data_prep.records import BadRow

# a record that is read besides the conversation
_OTHERS = (TOOLS, DOCUMENTS, "language", "labels")
_PIECE_BYTES = 1 << 30


def read_conversations(
    inputs: Iterable[str],
) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """Yield the records of files and folders, each with its place, as ``FILE, record N``.

    One that cannot be judged is a :class:`BadRow`.

    Raises:
        UserError: a file cannot be read.
    """
    names = input_files.find(inputs).names
    for part in documents.split(names, _PIECE_BYTES):
        source = documents.source(part)
        before = documents.records_before(part)
        is_json = kind_of(part.input) in JSON_LINES
        for number, row in documents.read_records(part, MESSAGES, _OTHERS):
            yield f"{source}, record {before + number}", _read(row, is_json)


def _read(row: dict[str, Any] | BadRow, is_json: bool) -> dict[str, Any] | BadRow:
    if isinstance(row, BadRow):
        return row
    record = row if is_json else without_nulls(row)
    try:
        read_sample(record)
    except BadConversation as error:
        return BadRow(str(error))
    return record
