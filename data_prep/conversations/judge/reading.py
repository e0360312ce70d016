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
from data_prep.documents import BadRecord
from data_prep.input_files import JSON_LINES, kind_of
from data_prep.records import BadRow

# a record that is read besides the conversation
_OTHERS = (TOOLS, DOCUMENTS, "language", "labels")
_PIECE_BYTES = 1 << 30


def read_conversations(inputs: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of files and folders, each with its place, as ``FILE, record N``.

    Raises:
        UserError: a file cannot be read, or a record is no conversation.
    """
    names = input_files.find(inputs).names
    for part in documents.split(names, _PIECE_BYTES):
        source = documents.source(part)
        before = documents.records_before(part)
        for number, row in documents.read_records(part, MESSAGES, _OTHERS):
            where = f"{source}, record {before + number}"
            if isinstance(row, BadRow):
                raise BadRecord(f"{where}: {row.reason}")
            if kind_of(part.input) not in JSON_LINES:
                row = without_nulls(row)
            try:
                read_sample(row)
            except BadConversation as error:
                raise BadRecord(f"{where}: {error}") from error
            yield where, row
