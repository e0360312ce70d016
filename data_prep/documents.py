"""Documents of files and Hub data sets: cutting an input into parts, and reading a part."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from data_prep import hub, input_files
from data_prep.compression import file_errors_as_user_error, is_compressed, open_file
from data_prep.hub import HUB
from data_prep.input_files import JSON_LINES, PARQUET, TEXT, kind_of
from data_prep.records import NOT_UTF8, BadRow, field_names, from_json, get_text
from recipes.common.errors import UserError

_ROWS = 64  # of a parquet file, decoded at a time: bounds the memory
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """A piece of an input that is read by itself and always yields the same documents.

    Attributes:
        input: a file, or a Hub data set as ``hf:NAME@REVISION:CONFIGURATION:SPLIT``.
        start, stop: bytes of JSON lines (a line belongs to the part in which it begins), row groups
            of parquet, shards of a Hub data set; 0 and 1 for a file that is read as a whole.
        bytes: size in the file, to balance work by; of a Hub data set 0.
    """

    input: str
    start: int
    stop: int
    bytes: int


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        record: its number in the part, from 1, blank lines included; :func:`where` turns it into
            the file's.
        text: the text, unchanged.
        fields: the values of the other fields that were requested.
    """

    record: int
    text: str
    fields: dict[str, Any]


class BadRecord(UserError):
    """A record that is no document: one sentence naming input and record."""


def raise_error(error: BadRecord) -> NoReturn:
    """Raise ``error``: what :func:`read` does about a bad record by default."""
    raise error


def split_inputs(inputs: Iterable[str], piece_bytes: int) -> list[Part]:
    """Find the files of inputs and cut them, see :func:`input_files.find` and :func:`split`.

    Raises:
        UserError: as both of them.
    """
    found = input_files.find(inputs)
    return split(found.names, piece_bytes)


def split(names: Iterable[str], piece_bytes: int) -> list[Part]:
    """Cut files and Hub data sets into parts of about ``piece_bytes``, in order.

    JSON lines are cut at bytes, parquet at row groups, a Hub data set at its own shards; compressed
    files and plain text are one part each. Nothing is read but sizes, the first bytes of text and
    parquet's footers.

    Raises:
        UserError: a file is unreadable, not in UTF-8 or an array of JSON, or a Hub data set cannot
            be reached.
    """
    parts: list[Part] = []
    for name in names:
        kind = kind_of(name)
        if kind == HUB:
            pinned, shards = hub.pin(name)
            parts += [Part(pinned, shard, shard + 1, 0) for shard in range(shards)]
        elif kind == PARQUET:
            parts += _split_parquet(Path(name))
        else:
            parts += _split_text(Path(name), kind, piece_bytes)
    return parts


def read(
    part: Part,
    field: str = "text",
    others: tuple[str, ...] | None = (),
    on_bad: Callable[[BadRecord], None] = raise_error,
) -> Iterator[Document]:
    """Yield a part's documents in order; memory is bounded by the longest of them.

    Args:
        part: of :func:`split_inputs`.
        field: the records' field that holds the text. ``a+b`` joins fields by an empty line,
            ``a[].b`` the field b of each item of a list, ``a[]`` the turns of a conversation
            (``content`` or ``value``, without roles). A plain text file is one document and has no
            fields.
        others: further fields to keep, with None where a record lacks one; None keeps all that a
            record has.
        on_bad: receives what is not JSON, not UTF-8 or without text; if it returns, the record is
            left out.

    Raises:
        UserError: a file that is truncated, damaged or gone; ``on_bad`` does not receive that.
    """
    for record, row in _rows(part, field, others):
        text = get_text(row, field)
        if isinstance(text, BadRow):
            on_bad(BadRecord(f"{where(part, record)}: {text.reason}"))
            continue
        names = others
        if names is None:
            names = tuple(name for name in row if name != field)
        fields = {name: row.get(name) for name in names}
        yield Document(record, text, fields)


def read_records(
    part: Part, field: str, others: tuple[str, ...] | None
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield number and value of a part's records, where :func:`read` yields their text.

    Args:
        part: of :func:`split_inputs`.
        field, others: the fields that are needed; a record may have more, or lack one. With None
            for ``others`` a record has all of its fields.

    Raises:
        UserError: a file that is truncated, damaged or gone.
    """
    for record, row in _rows(part, field, others):
        if not isinstance(row, dict | BadRow):
            row = BadRow(f"holds {type(row).__name__}, expected an object; repair it")
        yield record, row


def _rows(part: Part, field: str, others: tuple[str, ...] | None) -> Iterator[tuple[int, Any]]:
    """Yield number and value of a part's records: a :class:`BadRow` where one cannot be read."""
    kind = kind_of(part.input)
    # a row is a record's value, None for a blank line, or a BadRow
    if kind in TEXT:
        rows = _text_rows(part, field)
    elif kind == HUB:
        rows = hub.rows(part.input, part.start)
    elif kind == PARQUET:
        rows = _parquet_rows(part, field, others)
    else:
        # numbers matter only where a field is kept
        exact = others is None or len(others) > 0
        rows = from_json(_lines(part), exact)
    for record, row in enumerate(rows, 1):
        # a blank line counts as a record
        if row is not None:
            yield record, row


def where(part: Part, record: int) -> str:
    """Return ``FILE, record N`` with the number that the part's record has in the whole file."""
    number = records_before(part) + record
    return f"{source(part)}, record {number}"


def source(part: Part) -> str:
    """Return what the part's records are numbered in: the file, or a shard of a Hub data set."""
    if kind_of(part.input) == HUB:
        return f"{part.input}, shard {part.start}"
    return part.input


def records_before(part: Part) -> int:
    """Return how many records of the file come before the part."""
    kind = kind_of(part.input)
    if part.start == 0:
        return 0
    if kind in JSON_LINES:
        return _lines_before(Path(part.input), part.start)
    if kind == PARQUET:
        import pyarrow.parquet as pq

        metadata = pq.ParquetFile(part.input).metadata
        return sum(metadata.row_group(group).num_rows for group in range(part.start))
    # the shards of a Hub data set are numbered by themselves
    return 0


# --- Cutting


def _split_text(file: Path, kind: str, piece_bytes: int) -> list[Part]:
    name = str(file)
    input_files.check_start(file)
    size = file.stat().st_size
    if kind in TEXT or is_compressed(name):
        return [Part(name, 0, 1, size)]

    # bounds fall within lines: a line belongs to the part in which it begins
    parts = []
    pieces = max(1, round(size / piece_bytes))
    for piece in range(pieces):
        start = size * piece // pieces
        stop = size * (piece + 1) // pieces
        parts.append(Part(name, start, stop, stop - start))
    return parts


def _split_parquet(file: Path) -> list[Part]:
    import pyarrow.parquet as pq

    name = str(file)
    with file_errors_as_user_error(name):
        metadata = pq.ParquetFile(file).metadata
        size = file.stat().st_size
    groups = metadata.num_row_groups
    # one part all the same, so that the file is known as an input
    if not groups:
        return [Part(name, 0, 0, size)]

    parts = []
    rows = max(1, metadata.num_rows)
    for group in range(groups):
        # the file's bytes, divided by rows: footers state other sizes
        group_rows = metadata.row_group(group).num_rows
        weight = group_rows * size // rows
        parts.append(Part(name, group, group + 1, weight))
    return parts


# --- JSON lines and text


def _lines(part: Part) -> Iterator[bytes]:
    """The lines that begin within the part."""
    if is_compressed(part.input):
        with file_errors_as_user_error(part.input), open_file(Path(part.input)) as stream:
            yield from stream
        return

    with (
        file_errors_as_user_error(part.input),
        Path(part.input).open("rb", buffering=_CHUNK) as stream,
    ):
        position = part.start
        if position:
            # the line that holds the byte before the part belongs to the part before, up to its end
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        # the last line that begins within the part is read to its end
        for line in stream:
            if position >= part.stop:
                return
            position += len(line)
            yield line


# (file, size, time of change) -> (offset, line feeds before it), as far as the last call counted
_counted: dict[tuple[str, int, int], tuple[int, int]] = {}


def _lines_before(file: Path, offset: int) -> int:
    """How many lines begin before ``offset``; counts on from the last call's offset in the file."""
    state = file.stat()
    key = (str(file), state.st_size, state.st_mtime_ns)
    position, line_feeds = _counted.get(key, (0, 0))
    # counting goes forward only
    if position > offset:
        position = 0
        line_feeds = 0

    with file.open("rb") as stream:
        stream.seek(position)
        while position < offset:
            block = stream.read(min(_CHUNK, offset - position))
            if not block:
                break
            line_feeds += block.count(b"\n")
            position += len(block)
        stream.seek(offset - 1)
        last = stream.read(1)

    _counted[key] = (position, line_feeds)
    # and the line that has started before the offset, but not ended
    return line_feeds + (last != b"\n")


def _text_rows(part: Part, field: str) -> Iterator[Any]:
    with file_errors_as_user_error(part.input), open_file(Path(part.input)) as stream:
        data = stream.read()
    try:
        # without a byte order mark
        yield {field: data.decode("utf-8-sig")}
    except UnicodeDecodeError:
        yield BadRow(NOT_UTF8)


# --- Parquet


def _parquet_rows(part: Part, field: str, others: tuple[str, ...] | None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with file_errors_as_user_error(part.input):
        file = pq.ParquetFile(part.input)
        names = file.schema_arrow.names
        needed = field_names(field, names)
        columns = names
        if others is not None:
            columns = [name for name in names if name in needed or name in others]

        groups = range(part.start, part.stop)
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=columns):
            if not needed <= set(names):
                # without the text nothing else is read; the names are for the error's sentence
                yield from [dict.fromkeys(names)] * batch.num_rows
                continue
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:
                # find the rows that are to blame
                for row in range(batch.num_rows):
                    yield _parquet_row(batch.slice(row, 1))


def _parquet_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return BadRow(NOT_UTF8)
