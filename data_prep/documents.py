"""Documents out of files and Hub data sets: how an input is cut into parts, and reading a part."""

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
# what this project's own commands write beside documents
NO_DOCUMENTS = ("plan.json", "manifest.json", "shard-*.json", "*.removed.jsonl")
_ROWS = 64  # of a parquet file, decoded at a time: bounds the memory
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """A piece of an input that is read by itself and always yields the same documents.

    Attributes:
        input: a file, or a Hub data set as ``hf:NAME@REVISION:CONFIGURATION:SPLIT``.
        start, stop: bytes of JSON lines (a line belongs to the part in which it begins), row groups of parquet, shards
            of a Hub data set; 0 and 1 for a file that is read as a whole.
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
        record: its number in the part, from 1, blank lines included; :func:`where` turns it into the file's.
        text: the text as found.
        fields: the values of the other fields that were asked for.
    """

    record: int
    text: str
    fields: dict[str, Any]


class BadRecord(UserError):
    """A record that is no document: one sentence naming input and record."""


def refuse(error: BadRecord) -> NoReturn:
    """Raise ``error``: what :func:`read` does about a bad record unless it is told otherwise."""
    raise error


def size_of(inputs: Iterable[str]) -> int:
    """Return the bytes of all input files together; Hub data sets count nothing.

    Raises:
        UserError: an input is missing or of an unknown kind.
    """
    names = [name for name in inputs if not name.startswith(HUB)]
    return sum(file.stat().st_size for name in names for file in _files(Path(name)))


def split_inputs(inputs: Iterable[str], piece_bytes: int) -> list[Part]:
    """Cut inputs into parts of about ``piece_bytes`` bytes, in order; a folder stands for its files, sorted.

    A folder's hidden files, and the records that ``granite41 data`` writes beside documents, are left out.
    JSON lines are cut at bytes, parquet at row groups, a Hub data set at its own shards; compressed files and plain
    text are one part each. Nothing is read but sizes and parquet's footers.

    Raises:
        UserError: an input is missing, unreadable, of an unknown kind, or a Hub data set that cannot be reached.
    """
    parts: list[Part] = []
    for name in inputs:
        if name.startswith(HUB):
            parts += _hub_parts(name)
        else:
            for file in _files(Path(name)):
                parts += _file_parts(file, piece_bytes)
    return parts


def read(
    part: Part,
    field: str = "text",
    others: tuple[str, ...] | None = (),
    on_bad: Callable[[BadRecord], None] = refuse,
) -> Iterator[Document]:
    """Yield a part's documents in order; memory is bounded by the longest of them.

    Args:
        part: of :func:`split_inputs`.
        field: the records' field that holds the text. ``a+b`` joins fields by an empty line, ``a[].b`` the field b of
            each item of a list, ``a[]`` the turns of a conversation (``content`` or ``value``, without roles). A plain
            text file is one document and has no fields.
        others: further fields to keep, with None where a record lacks one; None keeps all that a record has.
        on_bad: receives what is not JSON, not UTF-8 or without text; if it returns, the record is left out.

    Raises:
        UserError: a file that is truncated, damaged or gone, whatever ``on_bad`` does.
    """
    kind = _kind(part.input)
    if kind in TEXT:
        yield from _text_document(part)
        return
    if kind == HUB:
        rows = _hub_rows(part)
    elif kind == PARQUET:
        rows = _parquet_rows(part, field, others)
    else:
        rows = _json_rows(part)
    for record, row in enumerate(rows, 1):
        if row is None:
            continue
        text = _get_text(row, field)
        if isinstance(text, _Damaged):
            on_bad(BadRecord(f"{where(part, record)}: {text.reason}"))
        else:
            names = [name for name in row if name != field] if others is None else others
            yield Document(record, text, {name: row.get(name) for name in names})


def where(part: Part, record: int) -> str:
    """Return ``FILE, record N`` with the number that the part's record has in the whole file."""
    return f"{source(part)}, record {records_before(part) + record}"


def source(part: Part) -> str:
    """Return what the part's records are numbered in: the file, or a shard of a Hub data set."""
    return f"{part.input}, shard {part.start}" if _kind(part.input) == HUB else part.input


def records_before(part: Part) -> int:
    """Return how many records of the file come before the part."""
    kind = _kind(part.input)
    if part.start and kind in JSON_LINES:
        return _lines_before(Path(part.input), part.start)
    if part.start and kind == PARQUET:
        import pyarrow.parquet as pq

        metadata = pq.ParquetFile(part.input).metadata
        return sum(metadata.row_group(group).num_rows for group in range(part.start))
    return 0


@dataclass(frozen=True)
class _Damaged:
    """A row that is no document, and why: half a sentence."""

    reason: str


def _get_text(row: Any, field: str) -> str | _Damaged:
    """The text of a row by ``field``, as :func:`read` explains it."""
    if isinstance(row, _Damaged):
        return row
    if not isinstance(row, dict):
        return _Damaged(
            f"holds {type(row).__name__}, expected an object with the field {field!r}; repair it"
        )
    values = []
    for term in _terms(field, row):
        name, items, inner = term.partition("[]")
        if name not in row:
            return _Damaged(
                f"no field {name!r} among {', '.join(sorted(row)[:8])}; name the field that holds the text"
            )
        values += (
            [_of_item(item, inner.removeprefix(".")) for item in row[name] or ()]
            if items
            else [row[name]]
        )
    for value in values:
        if not isinstance(value, str) and not (value is None and len(values) > 1):
            return _Damaged(
                f"field {field!r} holds {type(value).__name__}, expected text; name another field or repair it"
            )
    return values[0] if len(values) == 1 else "\n\n".join(filter(None, values))


def _terms(field: str, names: Container[str]) -> list[str]:
    """``a+b[]`` as its terms, unless a field is really called that."""
    return [field] if field in names else field.split("+")


def _of_item(item: Any, name: str) -> Any:
    if not isinstance(item, dict):
        return item
    return item.get(name) if name else item.get("content", item.get("value"))


_NOT_UTF8 = "is not valid UTF-8; convert or repair it"


def _kind(name: str) -> str:
    """``hf:`` or a suffix of :data:`JSON_LINES`, :data:`TEXT` or :data:`PARQUET`."""
    if name.startswith(HUB):
        return HUB
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in (".gz", ".zst"):
        suffix = Path(path.stem).suffix.lower()
    if suffix in (*JSON_LINES, *TEXT) or (suffix == PARQUET and path.suffix.lower() == PARQUET):
        return suffix
    raise UserError(
        f"{name}: unknown kind of file, expected {', '.join((*JSON_LINES, *TEXT))} (also .gz, .zst) or {PARQUET}; "
        f"rename or convert it"
    )


def _is_compressed(name: str) -> bool:
    return name.lower().endswith((".gz", ".zst"))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such file, expected a file or folder of text; check the path")
    if path.is_dir():
        files = []
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if hidden or any(fnmatch(file.name, pattern) for pattern in NO_DOCUMENTS):
                continue
            try:
                _kind(file.name)
            except UserError:
                continue
            files.append(file)
        if not files:
            raise UserError(
                f"{path}: holds no file that can be read, expected JSON lines, parquet or text; check it"
            )
        return files
    return [path]


def _file_parts(file: Path, piece_bytes: int) -> list[Part]:
    kind, size = _kind(str(file)), file.stat().st_size
    if not os.access(file, os.R_OK):
        raise UserError(f"{file}: permission to read denied; grant it or leave the file out")
    if kind == PARQUET:
        import pyarrow.parquet as pq

        with _damage(str(file)):
            metadata = pq.ParquetFile(file).metadata
        rows = max(1, metadata.num_rows)
        # the file's bytes, shared out by rows: footers state other sizes
        groups = [
            metadata.row_group(i).num_rows * size // rows for i in range(metadata.num_row_groups)
        ]
        return [Part(str(file), i, i + 1, weight) for i, weight in enumerate(groups)]
    if kind in TEXT or _is_compressed(file.name):
        return [Part(str(file), 0, 1, size)]
    pieces = max(1, round(size / piece_bytes))
    bounds = [size * i // pieces for i in range(pieces + 1)]
    return [Part(str(file), a, b, b - a) for a, b in pairwise(bounds)]


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
            yield _Damaged(_json_reason(line, error))


def _json_reason(line: bytes, error: ValueError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return _NOT_UTF8
    if "surrogate" in str(error):
        return _NOT_UTF8
    return f"is not JSON ({str(error).split(':')[0]}); expected one object a line"


def _lines(part: Part) -> Iterator[bytes]:
    if _is_compressed(part.input):
        with _damage(part.input), _open(Path(part.input)) as stream:
            yield from stream
        return
    with _damage(part.input), Path(part.input).open("rb", buffering=_CHUNK) as stream:
        position = part.start
        if position:
            # the line that holds the byte before the part belongs to the part before, up to its end
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        for line in stream:
            if position >= part.stop:
                return
            position += len(line)
            yield line


_counted: dict[
    tuple[str, int, int], tuple[int, int]
] = {}  # a file, its size and time: line feeds before an offset


def _lines_before(file: Path, offset: int) -> int:
    """How many lines begin before ``offset``; goes on from where the last call for the file ended."""
    state = file.stat()
    key = str(file), state.st_size, state.st_mtime_ns
    position, feeds = _counted.get(key, (0, 0))
    if position > offset:
        position, feeds = 0, 0
    with file.open("rb") as stream:
        stream.seek(position)
        while position < offset and (block := stream.read(min(_CHUNK, offset - position))):
            feeds += block.count(b"\n")
            position += len(block)
        stream.seek(offset - 1)
        last = stream.read(1)
    _counted[key] = position, feeds
    return feeds + (last != b"\n")


def _text_document(part: Part) -> Iterator[Document]:
    with _damage(part.input), _open(Path(part.input)) as stream:
        data = stream.read()
    try:
        yield Document(1, data.decode("utf-8"), {})
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where(part, 1)}: {_NOT_UTF8}") from error


def _parquet_rows(part: Part, field: str, others: tuple[str, ...] | None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with _damage(part.input):
        file = pq.ParquetFile(part.input)
        names = file.schema_arrow.names
        needed = {term.partition("[]")[0] for term in _terms(field, names)}
        columns = (
            names
            if others is None
            else [name for name in names if name in needed or name in others]
        )
        for batch in file.iter_batches(
            _ROWS, row_groups=range(part.start, part.stop), columns=columns
        ):
            if not needed <= set(names):
                # without the text nothing else is read; say which fields there are
                yield from [dict.fromkeys(names)] * batch.num_rows
                continue
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:
                yield from (_parquet_row(batch.slice(row, 1)) for row in range(batch.num_rows))


def _parquet_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return _Damaged(_NOT_UTF8)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Turn what readers raise about a truncated or damaged file into a :class:`UserError`."""
    try:
        yield
    except EOFError as error:
        raise UserError(
            f"{name}: is truncated, expected a complete file; fetch it again"
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{name}: is damaged ({error}), expected gzip; fetch it again") from error
    except UserError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(
                f"{name}: cannot be read ({os.strerror(error.errno)}); check it"
            ) from error
        raise UserError(
            f"{name}: is truncated or damaged ({str(error).splitlines()[0][:100]}); fetch it again"
        ) from error


def _open(file: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(file, "rb"))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstandard(file), _CHUNK))
    return file.open("rb")


class _Zstandard(io.RawIOBase):
    """A .zst file, decompressed; unlike zstandard's own reader it raises EOFError where the file is truncated."""

    def __init__(self, file: Path) -> None:
        import zstandard

        self._file = file.open("rb")
        # --long archives of up to 2 GiB windows are common for text
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame = self._decompressor.decompressobj()
        self._error = zstandard.ZstdError
        self._pending = b""
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            block = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._decompressor.decompressobj(), False
            block = block or self._file.read(_CHUNK // 8)
            if not block:
                if self._begun:
                    raise EOFError(f"{self._file.name}: ends within a frame")
                return 0
            self._begun = True
            try:
                self._pending = self._frame.decompress(block)
            except self._error as error:
                raise ValueError(str(error)) from error
        count = min(len(buffer), len(self._pending))
        buffer[:count], self._pending = self._pending[:count], self._pending[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class _HubName:
    """``hf:REPOSITORY[/GLOB][@REVISION][:CONFIGURATION[:SPLIT]]``; an absolute path stands for a local folder."""

    repository: str
    glob: str
    revision: str
    configuration: str
    split: str

    def __str__(self) -> str:
        path = f"{self.repository}/{self.glob}" if self.glob else self.repository
        return f"{HUB}{path}{'@' if self.revision else ''}{self.revision}:{self.configuration}:{self.split}"


def _hub_name(name: str) -> _HubName:
    path, _, rest = name.removeprefix(HUB).partition(":")
    configuration, _, split = rest.partition(":")
    path, _, revision = path.partition("@")
    repository, glob = path, ""
    if not path.startswith("/"):
        owner, _, rest = path.partition("/")
        short, _, glob = rest.partition("/")
        repository = f"{owner}/{short}" if short else owner
    if not repository or ":" in split:
        raise UserError(
            f"{name}: expected hf:NAME[:CONFIGURATION[:SPLIT]], such as hf:allenai/c4:en:train"
        )
    return _HubName(repository, glob, revision, configuration, split or "train")


def _hub_parts(name: str) -> list[Part]:
    """One part for each shard of a data set; its revision is pinned to the commit that it has now."""
    wanted = _hub_name(name)
    if not wanted.revision and not wanted.repository.startswith("/"):
        from huggingface_hub import HfApi

        with _reach(name):
            wanted = replace(wanted, revision=HfApi().dataset_info(wanted.repository).sha or "")
    return [
        Part(str(wanted), shard, shard + 1, 0)
        for shard in range(_hub_stream(str(wanted)).num_shards)
    ]


def _hub_rows(part: Part) -> Iterator[Any]:
    stream = _hub_stream(part.input)
    with _reach(part.input):
        yield from stream.shard(num_shards=stream.num_shards, index=part.start)


def _hub_stream(name: str) -> Any:
    import datasets

    wanted = _hub_name(name)
    options: dict[str, Any] = {"split": wanted.split, "streaming": True}
    datasets.disable_progress_bars()
    with _reach(name):
        if wanted.glob:
            files = f"hf://datasets/{wanted.repository}@{wanted.revision}/{wanted.glob}"
            kind = "parquet" if wanted.glob.endswith(PARQUET) else "json"
            return datasets.load_dataset(kind, data_files={wanted.split: files}, **options)
        return datasets.load_dataset(
            wanted.repository,
            wanted.configuration or None,
            revision=wanted.revision or None,
            **options,
        )


@contextmanager
def _reach(name: str) -> Iterator[None]:
    """Turn what ``datasets`` raises about a source that cannot be reached or read into a :class:`UserError`."""
    try:
        yield
    except Exception as error:  # the library lets its transports' own exceptions through
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: cannot be read from the Hub ({type(error).__name__}: {reason}); check the name, configuration, "
            f"split and network, or fetch the files and name them"
        ) from error
