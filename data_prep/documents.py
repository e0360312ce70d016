"""Documents of files and Hub data sets: cutting an input into parts, and reading a part."""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from recipes.common.errors import UserError

HUB = "hf:"
JSON_LINES = (".jsonl", ".json", ".ndjson")
TEXT = (".txt", ".md", ".rst", ".py")
PARQUET = ".parquet"
# what this project's own commands write next to documents
NO_DOCUMENTS = ("plan.json", "manifest.json", "shard-*.json", "*.removed.jsonl")
_ROWS = 64  # of a parquet file, decoded at a time: bounds the memory
_CHUNK = 1 << 20
_NOT_UTF8 = "is not valid UTF-8; convert or repair it"


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


def input_bytes(inputs: Iterable[str]) -> int:
    """Return the bytes of all input files together; Hub data sets count nothing.

    Raises:
        UserError: an input is missing or of an unknown kind.
    """
    total = 0
    for name in inputs:
        if name.startswith(HUB):
            continue
        for file in _list_files(Path(name)):
            total += file.stat().st_size
    return total


def split_inputs(inputs: Iterable[str], piece_bytes: int) -> list[Part]:
    """Cut inputs into parts of about ``piece_bytes``, in order; a folder is its files, sorted.

    A folder's hidden files, and the records that ``granite41 data`` writes next to them, are
    left out. JSON lines are cut at bytes, parquet at row groups, a Hub data set at its own shards;
    compressed files and plain text are one part each. Nothing is read but sizes and parquet's
    footers.

    Raises:
        UserError: an input is missing, unreadable, of an unknown kind, or a Hub data set that
            cannot be reached.
    """
    parts: list[Part] = []
    for name in inputs:
        if name.startswith(HUB):
            parts += _split_hub(name)
            continue
        for file in _list_files(Path(name)):
            parts += _split_file(file, piece_bytes)
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
    kind = _kind(part.input)
    if kind in TEXT:
        yield _read_text(part)
        return

    # a row is a record's value, None for a blank line, or a _BadRow
    if kind == HUB:
        rows = _hub_rows(part)
    elif kind == PARQUET:
        rows = _parquet_rows(part, field, others)
    else:
        rows = _json_rows(part)

    for record, row in enumerate(rows, 1):
        if row is None:
            continue  # counts as a record
        text = _get_text(row, field)
        if isinstance(text, _BadRow):
            on_bad(BadRecord(f"{where(part, record)}: {text.reason}"))
            continue
        names = others
        if names is None:
            names = tuple(name for name in row if name != field)
        fields = {name: row.get(name) for name in names}
        yield Document(record, text, fields)


def where(part: Part, record: int) -> str:
    """Return ``FILE, record N`` with the number that the part's record has in the whole file."""
    number = records_before(part) + record
    return f"{source(part)}, record {number}"


def source(part: Part) -> str:
    """Return what the part's records are numbered in: the file, or a shard of a Hub data set."""
    if _kind(part.input) == HUB:
        return f"{part.input}, shard {part.start}"
    return part.input


def records_before(part: Part) -> int:
    """Return how many records of the file come before the part."""
    kind = _kind(part.input)
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


# --- The text of a record


@dataclass(frozen=True)
class _BadRow:
    """A row that is no document, and why: half a sentence."""

    reason: str


def _get_text(row: Any, field: str) -> str | _BadRow:
    """The text of a row by ``field``, as :func:`read` explains it."""
    if isinstance(row, _BadRow):
        return row
    if not isinstance(row, dict):
        return _BadRow(
            f"holds {type(row).__name__}, expected an object with the field {field!r}; repair it"
        )

    values = []
    for term in _terms(field, row):
        name, brackets, item_field = term.partition("[]")
        if name not in row:
            names = ", ".join(sorted(row)[:8])
            return _BadRow(f"no field {name!r} among {names}; name the field that holds the text")
        value = row[name]
        if not brackets:
            values.append(value)
        elif isinstance(value, list | None):
            # a list that is null is an empty one
            key = item_field.removeprefix(".")
            for item in value or ():
                values.append(_item_text(item, key))
        else:
            return _BadRow(
                f"field {name!r} holds {type(value).__name__}, expected a list; "
                f"name another field or repair it"
            )

    # several fields are joined without those that are null
    texts = values
    if len(values) != 1:
        texts = [value for value in values if value is not None]
    for value in texts:
        if not isinstance(value, str):
            return _BadRow(
                f"field {field!r} holds {type(value).__name__}, expected text; "
                f"name another field or repair it"
            )
    return "\n\n".join(filter(None, texts))


def _terms(field: str, names: Container[str]) -> list[str]:
    """``a+b[]`` as its terms, unless a field is really called that."""
    if field in names:
        return [field]
    return field.split("+")


def _item_text(item: Any, name: str) -> Any:
    """The field ``name`` of an item of a list, or without a name what the turn of a chat says."""
    if not isinstance(item, dict):
        return item
    if name:
        return item.get(name)
    return item.get("content", item.get("value"))


# --- Files and their kinds


def _kind(name: str) -> str:
    """``hf:`` or a suffix of :data:`JSON_LINES`, :data:`TEXT` or :data:`PARQUET`."""
    if name.startswith(HUB):
        return HUB
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return suffix
    if suffix in (".gz", ".zst"):
        suffix = Path(path.stem).suffix.lower()
    known = (*JSON_LINES, *TEXT)
    if suffix in known:
        return suffix
    raise UserError(
        f"{name}: unknown kind of file, expected {', '.join(known)} "
        f"(also .gz, .zst) or {PARQUET}; rename or convert it"
    )


def _is_compressed(name: str) -> bool:
    return name.lower().endswith((".gz", ".zst"))


def _list_files(path: Path) -> list[Path]:
    """``path`` itself, or the files below a folder that hold documents."""
    if not path.exists():
        raise UserError(f"{path}: no such file, expected a file or folder of text; check the path")
    if not path.is_dir():
        return [path]
    files = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and _is_input(path, file):
            files.append(file)
    if not files:
        raise UserError(
            f"{path}: holds no file that can be read, expected JSON lines, parquet or text; "
            f"check it"
        )
    return files


def _is_input(folder: Path, file: Path) -> bool:
    # hidden, or in a hidden folder
    if any(part.startswith(".") for part in file.relative_to(folder).parts):
        return False
    if any(fnmatch(file.name, pattern) for pattern in NO_DOCUMENTS):
        return False
    try:
        _kind(file.name)
    except UserError:
        return False
    return True


def _split_file(file: Path, piece_bytes: int) -> list[Part]:
    kind = _kind(str(file))
    size = file.stat().st_size
    if not os.access(file, os.R_OK):
        raise UserError(f"{file}: permission to read denied; grant it or leave the file out")
    if kind == PARQUET:
        return _split_parquet(file, size)
    if kind in TEXT or _is_compressed(file.name):
        return [Part(str(file), 0, 1, size)]

    # bounds fall within lines: a line belongs to the part in which it begins
    pieces = max(1, round(size / piece_bytes))
    bounds = [size * piece // pieces for piece in range(pieces + 1)]
    return [Part(str(file), start, stop, stop - start) for start, stop in pairwise(bounds)]


def _split_parquet(file: Path, size: int) -> list[Part]:
    import pyarrow.parquet as pq

    with _file_errors_as_user_error(str(file)):
        metadata = pq.ParquetFile(file).metadata
    rows = max(1, metadata.num_rows)
    parts = []
    for group in range(metadata.num_row_groups):
        # the file's bytes, divided by rows: footers state other sizes
        group_rows = metadata.row_group(group).num_rows
        weight = group_rows * size // rows
        parts.append(Part(str(file), group, group + 1, weight))
    return parts


# --- JSON lines and text


def _json_rows(part: Part) -> Iterator[Any]:
    """The values of the lines that begin within the part; None for a blank line."""
    import orjson

    for line in _lines(part):
        if not line.strip():
            yield None
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield _BadRow(_json_reason(line, error))


def _json_reason(line: bytes, error: ValueError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return _NOT_UTF8
    # half of a pair, which no UTF-8 can write
    if "surrogate" in str(error):
        return _NOT_UTF8
    reason, _, _ = str(error).partition(":")
    return f"is not JSON ({reason}); expected one object a line"


def _lines(part: Part) -> Iterator[bytes]:
    """The lines that begin within the part."""
    if _is_compressed(part.input):
        with _file_errors_as_user_error(part.input), _open(Path(part.input)) as stream:
            yield from stream
        return

    with (
        _file_errors_as_user_error(part.input),
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


def _read_text(part: Part) -> Document:
    with _file_errors_as_user_error(part.input), _open(Path(part.input)) as stream:
        data = stream.read()
    try:
        return Document(1, data.decode("utf-8"), {})
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where(part, 1)}: {_NOT_UTF8}") from error


# --- Parquet


def _parquet_rows(part: Part, field: str, others: tuple[str, ...] | None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with _file_errors_as_user_error(part.input):
        file = pq.ParquetFile(part.input)
        names = file.schema_arrow.names
        needed = {term.partition("[]")[0] for term in _terms(field, names)}
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
        return _BadRow(_NOT_UTF8)


# --- Compressed and damaged files


@contextmanager
def _file_errors_as_user_error(name: str) -> Iterator[None]:
    """Turn what readers raise about a truncated or damaged file into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except EOFError as error:
        raise UserError(
            f"{name}: is truncated, expected a complete file; fetch it again"
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{name}: is damaged ({error}), expected gzip; fetch it again") from error
    except (OSError, ValueError) as error:
        # with a number it is the system's; readers raise without one
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
            raise UserError(f"{name}: cannot be read ({reason}); check it") from error
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{name}: is truncated or damaged ({reason}); fetch it again") from error


def _open(file: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstandardFile(file), _CHUNK))
    return file.open("rb")


class _ZstandardFile(io.RawIOBase):
    """A .zst file, decompressed; unlike zstandard's own reader it raises where it is truncated."""

    def __init__(self, file: Path) -> None:
        import zstandard

        self._file = file.open("rb")
        # --long archives of up to 2 GiB windows are common for text
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame = self._decompressor.decompressobj()
        self._frame_started = False
        self._error = zstandard.ZstdError
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # a block of a frame may yield nothing yet
        while not self._pending:
            block = self._next_block()
            if not block:
                return 0
            self._frame_started = True
            try:
                self._pending = self._frame.decompress(block)
            except self._error as error:
                raise ValueError(str(error)) from error
        # as much as fits; the rest is for the next call
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _next_block(self) -> bytes:
        """Return compressed bytes, of the last block or of the file; none at its end.

        Raises:
            EOFError: the file ends within a frame.
        """
        block = b""
        # a file may hold several frames: what was read beyond one's end is the next one's start
        if self._frame.eof:
            block = self._frame.unused_data
            self._frame = self._decompressor.decompressobj()
            self._frame_started = False
        block = block or self._file.read(_CHUNK // 8)
        if not block and self._frame_started:
            raise EOFError(f"{self._file.name}: ends within a frame")
        return block

    def close(self) -> None:
        self._file.close()
        super().close()


# --- Hub data sets


@dataclass(frozen=True)
class _HubInput:
    """``hf:REPOSITORY[/GLOB][@REVISION][:CONFIGURATION[:SPLIT]]``.

    Attributes:
        repository: the data set's name; an absolute path is a local folder.
        glob: of files in the repository; empty for the data set itself.
        revision: a commit; empty where none is pinned.
        configuration: empty for the default one.
        split: such as ``train``.
    """

    repository: str
    glob: str
    revision: str
    configuration: str
    split: str

    @classmethod
    def parse(cls, name: str) -> "_HubInput":
        path, _, rest = name.removeprefix(HUB).partition(":")
        configuration, _, split = rest.partition(":")
        path, _, revision = path.partition("@")
        # on the Hub a name has two words, and what follows is a pattern of files
        repository = path
        glob = ""
        if not path.startswith("/"):
            owner, _, rest = path.partition("/")
            short, _, glob = rest.partition("/")
            repository = owner
            if short:
                repository += f"/{short}"
        if not repository or ":" in split:
            raise UserError(
                f"{name}: expected hf:NAME[:CONFIGURATION[:SPLIT]], such as hf:allenai/c4:en:train"
            )
        return cls(repository, glob, revision, configuration, split or "train")

    def __str__(self) -> str:
        name = f"{HUB}{self.repository}"
        if self.glob:
            name += f"/{self.glob}"
        if self.revision:
            name += f"@{self.revision}"
        return f"{name}:{self.configuration}:{self.split}"


def _split_hub(name: str) -> list[Part]:
    """One part for each shard of a data set; its revision is pinned to its present commit."""
    hub_input = _HubInput.parse(name)
    # all shards, and a continued run, read the same commit
    if not hub_input.revision and not hub_input.repository.startswith("/"):
        from huggingface_hub import HfApi

        with _hub_errors_as_user_error(name):
            commit = HfApi().dataset_info(hub_input.repository).sha or ""
        hub_input = replace(hub_input, revision=commit)
    pinned = str(hub_input)
    shards = _stream_hub(pinned).num_shards
    return [Part(pinned, shard, shard + 1, 0) for shard in range(shards)]


def _hub_rows(part: Part) -> Iterator[Any]:
    stream = _stream_hub(part.input)
    with _hub_errors_as_user_error(part.input):
        yield from stream.shard(num_shards=stream.num_shards, index=part.start)


def _stream_hub(name: str) -> Any:
    import datasets

    hub_input = _HubInput.parse(name)
    options: dict[str, Any] = {"split": hub_input.split, "streaming": True}
    datasets.disable_progress_bars()
    with _hub_errors_as_user_error(name):
        if hub_input.glob:
            repository = f"{hub_input.repository}@{hub_input.revision}"
            files = f"hf://datasets/{repository}/{hub_input.glob}"
            kind = "parquet" if hub_input.glob.endswith(PARQUET) else "json"
            return datasets.load_dataset(kind, data_files={hub_input.split: files}, **options)
        return datasets.load_dataset(
            hub_input.repository,
            hub_input.configuration or None,
            revision=hub_input.revision or None,
            **options,
        )


@contextmanager
def _hub_errors_as_user_error(name: str) -> Iterator[None]:
    """Turn what ``datasets`` raises about an unreachable source into a :class:`UserError`."""
    try:
        yield
    except Exception as error:  # the library lets its transports' own exceptions through
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: cannot be read from the Hub ({type(error).__name__}: {reason}); check the "
            f"name, configuration, split and network, or fetch the files and name them"
        ) from error
