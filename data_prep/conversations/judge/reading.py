"""Conversations of files of JSON lines, as they are."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep import input_files
from data_prep.compression import file_errors_as_user_error, open_file
from data_prep.conversations.judge.prompts import BadConversation, seen
from data_prep.records import BadRow, from_json
from recipes.common.errors import UserError


def read_conversations(inputs: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the conversations of files and folders, each with its place, as ``FILE, record N``.

    Raises:
        UserError: a file is no JSON lines or cannot be read, or a record is no conversation.
    """
    for name in input_files.find(inputs).names:
        if input_files.kind_of(name) not in input_files.JSON_LINES:
            raise UserError(f"{name}: expected JSON lines, a conversation a line; convert it")
        input_files.check_start(Path(name))
        yield from _read(name)


def _read(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with file_errors_as_user_error(name), open_file(Path(name)) as stream:
        for number, row in enumerate(from_json(stream, exact=True), 1):
            # a blank line counts as a record
            if row is None:
                continue
            where = f"{name}, record {number}"
            if isinstance(row, BadRow):
                raise UserError(f"{where}: {row.reason}")
            if not isinstance(row, dict):
                raise UserError(f"{where}: holds {type(row).__name__}, expected an object")
            try:
                seen(row)
            except BadConversation as error:
                raise UserError(f"{where}: {error}; repair or remove it") from error
            yield where, row
