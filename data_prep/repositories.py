"""Pack the files of a code repository, or the pages of a book, into long documents.

Files are ordered by path, a folder's files before its sub-folders, and numbers within names by
value (page 2 before page 10). So the files of one folder, which mostly belong together, stay
together, and no language needs a parser. IBM's long-context code models ordered files by their
import dependencies (arXiv 2407.13739); what Granite 4.1 did is not published.

Before each file is a line with its path, ``#src/main.c``, the form of DeepSeek-Coder's
repository-level data (arXiv 2401.14196). That is an assumption. StarCoder2's ``<file_sep>`` is a
special token of its own tokenizer; in another's text it would be no more than characters. A path
that is a bare number (a page) gets no such line.

Two passes: the first distributes the records over buckets by a hash of the repository's name, the
second loads one bucket at a time. So memory holds one bucket's text for each process, at any size
of the inputs.

The output holds shard-NNNNN.jsonl and manifest.json. A line of a shard has ``text``,
``repository``, ``files``, ``tokens`` and ``part``, the document's number within its repository from
1; no document holds files of two repositories, and nothing depends on the number of workers. The
manifest has ``repositories``, ``files``, ``cut_files`` (longer than a document by themselves),
``documents``, ``long_documents`` (at least half of the limit), ``tokens``, ``bytes`` (of text, in
UTF-8), ``left_out`` (reason -> files or records), ``settings`` and ``shards`` (file, documents,
tokens).
"""

import hashlib
import logging
import os
import re
import shutil
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from data_prep import documents, shards
from data_prep.documents import BadRecord, Part
from recipes.common import tokenizer_files
from recipes.common.encoder import Encoder, EncoderMismatch
from recipes.common.errors import UserError
from recipes.common.json_files import read_json_or_none, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# any one character and end-of-text fit
MINIMUM_TOKENS = 16
# files open at a time in the first pass
MOST_BUCKETS = 256
# a folder, or a file in a submodule
_GIT = ".git"
# bytes in which git looks for a zero byte, the sign of a binary file
_HEAD = 8000
# hidden, so that the second pass finds its folder free of other files
_PARTITION = ".partition"
# bad records that are named one by one, per shard
_NAMED = 3


@dataclass(frozen=True)
class Packed:
    """A document.

    Attributes:
        text: files with their headers, or a piece of one file.
        files: how many of them.
        tokens: of the whole text with end-of-text, as ``granite41 data tokenize`` counts them.
        cut: whether it is the first piece of a file that was cut.
    """

    text: str
    files: int
    tokens: int
    cut: bool


@dataclass(frozen=True)
class FieldNames:
    """The fields of a record. Repository and path are text or whole numbers.

    Attributes:
        files: where a record is a whole repository, its field that lists the files; path and text
            are theirs.
    """

    repository: str = "repo"
    path: str = "path"
    text: str = "text"
    files: str | None = None

    def to_settings(self) -> dict[str, str | None]:
        """Return the fields as a manifest names them."""
        return {f"{name}_field": value for name, value in asdict(self).items()}


DEFAULT_FIELDS = FieldNames()


def prepare(
    output: Path,
    tokenizer_folder: Path,
    inputs: list[str] | None = None,
    folder: Path | None = None,
    *,
    max_tokens: int,
    fields: FieldNames = DEFAULT_FIELDS,
    workers: int = 1,
) -> dict[str, Any]:
    """Pack each repository's files into documents in ``output``; return the manifest.

    Args:
        output: a new, empty or unfinished folder.
        tokenizer_folder: counts the tokens.
        inputs: files or data sets as :func:`documents.split_inputs` takes them, of one record per
            file in any order, or with ``fields.files`` of one per repository.
        folder: instead of ``inputs``, a folder whose direct sub-folders are checked-out
            repositories. Files of UTF-8 text are taken; .git, links, binary and empty files are
            not.
        max_tokens: of a document, end-of-text included.
        fields: of a record of ``inputs``.
        workers: processes.

    Raises:
        UserError: neither or both kinds of input; an input that is missing or damaged; not one
            record that has the fields; ``max_tokens`` too small; ``output`` holds something else or
            was made with other settings.
    """
    _check_arguments(inputs, folder, max_tokens)
    if folder:
        groups = shards.cut(_folder_parts(folder))
        described: dict[str, Any] = {"inputs": [str(folder)]}
    else:
        groups = shards.plan(inputs or [])
        described = {**fields.to_settings(), "inputs": inputs}

    # the names of fields change the first pass, not the packing of its buckets
    fingerprint = tokenizer_files.fingerprint(tokenizer_folder)
    settings = {"max_tokens": max_tokens, "tokenizer": fingerprint}
    all_settings = {**settings, **described, "inputs_sha256": _digest(groups)}

    partition = output / _PARTITION
    result = _finished(output, all_settings)
    if result:
        log.info("%s: is finished already", output)
    else:
        shards.check_output(output)
        left_out = Counter[str]()
        if inputs:
            groups = _first_pass(partition, groups, inputs[0], fields, workers, left_out)
        log.info("packing the files of each repository")
        work = partial(pack_shard, tokenizer_folder=tokenizer_folder, max_tokens=max_tokens)
        shards.run(output, groups, settings, work, workers=workers)
        result = _write_manifest(output, all_settings, left_out)

    # the buckets, also those of a run that was killed after its manifest
    shutil.rmtree(partition, ignore_errors=True)
    return result


def _check_arguments(inputs: list[str] | None, folder: Path | None, max_tokens: int) -> None:
    if (folder is None) == (not inputs):
        raise UserError("repositories: expected either --input or --folder; give one of them")
    if max_tokens < MINIMUM_TOKENS:
        raise UserError(
            f"max-tokens: {max_tokens} is too small, expected at least {MINIMUM_TOKENS}; give more"
        )


_COUNTS = ("repositories", "files", "cut_files", "documents", "long_documents", "tokens", "bytes")


def _digest(groups: list[list[Part]]) -> str:
    parts = list(chain.from_iterable(groups))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _first_pass(
    partition: Path,
    groups: list[list[Part]],
    first_input: str,
    fields: FieldNames,
    workers: int,
    left_out: Counter[str],
) -> list[list[Part]]:
    """Distribute the records over buckets, count what is left out, return each bucket's parts."""
    # a Hub data set does not say its size: a bucket for each of its files
    unknown_sizes = sum(part.bytes == 0 for part in chain.from_iterable(groups))
    buckets = min(MOST_BUCKETS, max(len(groups), unknown_sizes))
    log.info("distributing the records over buckets by repository")
    settings = {**fields.to_settings(), "buckets": buckets}
    work = partial(distribute, fields=fields, buckets=buckets)
    shards.run(partition, groups, settings, work, workers=workers)

    manifests = shards.manifests(partition) or []
    for manifest in manifests:
        left_out.update(manifest["left_out"])
    by_bucket = _bucket_parts(partition, manifests, buckets)
    if not by_bucket:
        within = ""
        if fields.files:
            within = f" within {fields.files!r}"
        raise UserError(
            f"{first_input}: no record has text in {fields.text!r}, a repository in "
            f"{fields.repository!r} and a path in {fields.path!r}{within}; "
            f"name the fields that hold them"
        )
    return by_bucket


def _write_manifest(
    output: Path, settings: dict[str, Any], left_out: Counter[str]
) -> dict[str, Any]:
    """Write and return manifest.json: the shards' counts added up, and what each shard holds.

    Args:
        left_out: what the first pass left out.
    """
    counts = Counter(dict.fromkeys(_COUNTS, 0))
    entries = []
    for manifest in shards.manifests(output) or []:
        counts.update({key: manifest[key] for key in _COUNTS})
        left_out.update(manifest["left_out"])
        name = shards.shard_name(manifest["index"])
        entries.append(
            {
                "file": f"{name}.jsonl",
                "documents": manifest["documents"],
                "tokens": manifest["tokens"],
            }
        )
    if not counts["documents"]:
        raise UserError(
            f"{settings['inputs'][0]}: holds no file of UTF-8 text, expected repositories in its "
            f"sub-folders; check it"
        )

    result = {
        **counts,
        "left_out": dict(sorted(left_out.items())),
        "settings": settings,
        "shards": entries,
    }
    write_json(output / MANIFEST, result)
    return result


def distribute(
    parts: list[Part], folder: Path, name: str, *, fields: FieldNames, buckets: int
) -> dict[str, Any]:
    """Write the files of ``parts`` to ``folder/name``.jsonl, those of a bucket together.

    Returns:
        The shard's manifest; its ``buckets`` holds each bucket's first byte and the end of the
        last, shape (buckets + 1,).

    Raises:
        UserError: an input is damaged.
    """
    import orjson

    left_out = Counter[str]()
    notes: list[str] = []

    def leave_out(error: BadRecord) -> None:
        left_out[_BAD] += 1
        if left_out[_BAD] <= _NAMED:
            notes.append(f"{error} (left out)")

    files = [folder / f"{name}.{bucket}" for bucket in range(buckets)]
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in files]
        for part in parts:
            for repository, path, text in _records(part, fields, leave_out):
                if not isinstance(text, str):
                    left_out[_BAD] += 1
                elif not repository or not path:
                    left_out["without repository or path"] += 1
                elif not text:
                    left_out["empty"] += 1
                else:
                    record = {
                        "repository": repository,
                        "path": path,
                        "text": text,
                    }
                    bucket = _bucket(repository, buckets)
                    streams[bucket].write(orjson.dumps(record) + b"\n")

    # one file in the order of the buckets, so that a bucket is a range of its bytes
    offsets = _concatenate(files, folder / f"{name}.jsonl")
    return {
        "buckets": offsets,
        "left_out": dict(left_out),
        "notes": notes,
    }


def _concatenate(files: list[Path], target: Path) -> list[int]:
    """Move ``files`` into ``target``; return where each starts there, and the end of the last."""
    offsets = [0]
    with target.open("wb") as whole:
        for file in files:
            with file.open("rb") as stream:
                shutil.copyfileobj(stream, whole, 1 << 20)
            file.unlink()
            offsets.append(whole.tell())
    return offsets


_BAD = "damaged or without text"


def _records(
    part: Part, fields: FieldNames, bad: Callable[[BadRecord], None]
) -> Iterator[tuple[str | None, str | None, Any]]:
    """Yield repository, path and text of each file in ``part``, as far as its record has them."""
    if fields.files is None:
        others = (fields.repository, fields.path)
        for document in documents.read(part, fields.text, others, bad):
            repository = _name(document.fields.get(fields.repository))
            path = _name(document.fields.get(fields.path))
            yield repository, path, document.text
        return

    # here the repository's name is the one text of a record
    for document in documents.read(part, fields.repository, (fields.files,), bad):
        files = document.fields[fields.files]
        if isinstance(files, list) and all(isinstance(file, dict) for file in files):
            for file in files:
                path = _name(file.get(fields.path))
                yield document.text, path, file.get(fields.text)
        else:
            where = documents.where(part, document.record)
            sentence = f"{where}: field {fields.files!r} holds no list of objects"
            bad(BadRecord(f"{sentence}; name the one that lists the files"))


def pack_shard(
    parts: list[Part], folder: Path, name: str, *, tokenizer_folder: Path, max_tokens: int
) -> dict[str, Any]:
    """Write the documents of a bucket's repositories to ``folder/name``.jsonl.

    Returns:
        The shard's manifest.

    Raises:
        UserError: a file of a repository cannot be read.
    """

    def write(encoder: Encoder) -> dict[str, Any]:
        left_out = Counter[str]()
        # a part is a folder of --folder, or a bucket of the first pass
        if Path(parts[0].input).is_dir():
            repositories = _checked_out(parts, left_out)
        else:
            repositories = _grouped(parts)
        counts = _write(repositories, folder / f"{name}.jsonl", max_tokens, encoder)
        return {**counts, "left_out": dict(left_out)}

    try:
        return write(Encoder(tokenizer_folder))
    except EncoderMismatch:
        note = (
            f"{name}: gigatoken gave other ids than tokenizers, "
            f"which counted the tokens of this shard instead"
        )
        # all of the shard again, from its first document
        manifest = write(Encoder(tokenizer_folder, reference_only=True))
        return {**manifest, "notes": [note]}


def pack(files: Iterable[tuple[str, str]], max_tokens: int, encoder: Encoder) -> Iterator[Packed]:
    """Yield a repository's documents: files in order, as many as fit.

    Each document is encoded as a whole to be sure. A file that does not fit into the rest of a
    document starts the next one. One that is too long for any is cut at line ends (within a line
    only where that alone is too long); the header is before its first piece only.

    Args:
        files: path and text of each file, in order.
        max_tokens: of a document, end-of-text included; at least :data:`MINIMUM_TOKENS`.
        encoder: counts the tokens.

    Raises:
        EncoderMismatch: of the encoder.
    """
    # one for end-of-text
    room = max_tokens - 1
    texts = [_with_header(path, text) for path, text in files]
    _, sizes = encoder.encode(texts)
    waiting = deque(map(_Piece, texts, sizes.tolist()))
    while waiting:
        first = waiting[0]
        cut = first.tokens > room and not first.is_rest
        document = _take(waiting, room, encoder)

        # the whole may have more tokens than its files together: another split where they meet
        text = "".join(piece.text for piece in document)
        tokens = _count(text, encoder)
        while tokens > room:
            waiting.appendleft(document.pop())
            text = "".join(piece.text for piece in document)
            tokens = _count(text, encoder)
        yield Packed(text, len(document), tokens + 1, cut)


def _take(waiting: "deque[_Piece]", room: int, encoder: Encoder) -> "list[_Piece]":
    """Take the pieces that fit into ``room`` tokens off ``waiting``, or the start of the first."""
    document: list[_Piece] = []
    left = room
    while waiting and waiting[0].tokens <= left:
        piece = waiting.popleft()
        document.append(piece)
        left -= piece.tokens
    if document:
        return document

    # the first alone is too long: its rest is the first of the next document
    whole = waiting.popleft()
    end = _longest_start(whole.text, room, encoder)
    start = whole.text[:end]
    rest = whole.text[end:]
    rest_tokens = _count(rest, encoder)
    waiting.appendleft(_Piece(rest, rest_tokens, is_rest=True))
    return [_Piece(start, _count(start, encoder))]


@dataclass(frozen=True)
class _Piece:
    """A file with its header, or the rest of one after a cut, and its tokens by itself."""

    text: str
    tokens: int
    is_rest: bool = False


def order(path: str) -> tuple[Any, ...]:
    """Return the key that sorts paths: files before sub-folders, numbers within names by value."""
    *folders, file = path.split("/")
    # 0 before 1: at each level a folder's files come before its sub-folders
    key = [(1, _natural(folder)) for folder in folders]
    key.append((0, _natural(file)))
    # paths that differ only in leading zeros have the same key
    return key, path


def _natural(name: str) -> list[Any]:
    """Return ``page10`` as ``["page", (2, "10"), ""]``: digits compare by number, then value."""
    # split at a group keeps what it matches: the digits are every second piece
    pieces: list[Any] = re.split(r"([0-9]+)", name)
    for position in range(1, len(pieces), 2):
        digits = pieces[position].lstrip("0")
        pieces[position] = (len(digits), digits)
    return pieces


def _with_header(path: str, text: str) -> str:
    if not text.endswith("\n"):
        text += "\n"
    # the page of a book, whose number says nothing
    if re.fullmatch(r"[0-9]+", path):
        return text
    return f"#{path}\n{text}"


def _longest_start(text: str, room: int, encoder: Encoder) -> int:
    """Return where ``text`` is cut: the last line end with at most ``room`` tokens before it.

    If the line after it has more than ``room`` by itself, and so is cut in any case, within that.
    """

    def is_over(end: int) -> bool:
        return _count(text[:end], encoder) > room

    ends = [match.end() for match in re.finditer("\n", text)]
    # bisection has tried the position before the one that it returns, so the start fits for certain
    lines = bisect_left(ends, True, key=is_over)
    start = 0
    if lines:
        start = ends[lines - 1]

    # the first line that does not fit
    end = ends[lines]
    line = text[start:end]
    if _count(line, encoder) <= room:
        return start
    characters = range(start + 1, end + 1)
    return start + bisect_left(characters, True, key=is_over)


def _count(text: str, encoder: Encoder) -> int:
    _, lengths = encoder.encode([text])
    return int(lengths[0])


def _write(
    repositories: Iterator[tuple[str, list[tuple[str, str]]]],
    target: Path,
    max_tokens: int,
    encoder: Encoder,
) -> dict[str, int]:
    import orjson

    counts = dict.fromkeys(_COUNTS, 0)
    with target.open("wb") as stream:
        for repository, files in repositories:
            files.sort(key=lambda file: order(file[0]))
            packed = pack(files, max_tokens, encoder)
            for part, document in enumerate(packed, 1):
                line = {
                    "text": document.text,
                    "repository": repository,
                    "files": document.files,
                    "tokens": document.tokens,
                    "part": part,
                }
                stream.write(orjson.dumps(line) + b"\n")

                counts["documents"] += 1
                counts["long_documents"] += 2 * document.tokens >= max_tokens
                counts["cut_files"] += document.cut
                counts["tokens"] += document.tokens
                counts["bytes"] += len(document.text.encode())
            counts["repositories"] += 1
            counts["files"] += len(files)
    return counts


def _grouped(parts: list[Part]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the repositories of a bucket, by name, each with its files."""
    repositories = defaultdict[str, list[tuple[str, str]]](list)
    for part in parts:
        for document in documents.read(part, others=("repository", "path")):
            repository = document.fields["repository"]
            path = document.fields["path"]
            repositories[repository].append((path, document.text))

    # each is dropped when it is packed, which takes memory of its own
    for repository in sorted(repositories):
        yield repository, repositories.pop(repository)


def _checked_out(
    parts: list[Part], left_out: Counter[str]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the repositories in folders, in the order of the parts, each with its files of text."""
    for part in parts:
        root = Path(part.input)
        files = []
        for file in _files(root):
            path = file.relative_to(root).as_posix()
            reason, text = _read_text(file, path)
            if reason:
                left_out[reason] += 1
            else:
                files.append((path, text))
        if files:
            yield root.name, files
        else:
            left_out["repositories without text"] += 1


def _read_text(file: Path, path: str) -> tuple[str | None, str]:
    """Return why a file is left out, or None and its text."""
    if file.is_symlink() or not file.is_file():
        return "links and special files", ""
    try:
        # a name that is not UTF-8 cannot be a document's header
        path.encode()
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
            if b"\0" in head:
                return "binary", ""
            text = (head + stream.read()).decode("utf-8")
    except UnicodeError:
        return "not UTF-8", ""
    except OSError as error:
        raise _unreadable(error) from error
    if "\0" in text:
        return "binary", ""
    if not text:
        return "empty", ""
    return None, text


def _folder_parts(folder: Path) -> list[Part]:
    """Return one part for each direct sub-folder, in order."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder, expected one of checked-out repositories; check --folder"
        )
    roots = []
    for item in sorted(folder.iterdir()):
        if item.is_dir() and item.name != _GIT:
            roots.append(item)
    if not roots:
        raise UserError(
            f"{folder}: has no sub-folder, expected one for each repository; "
            f"name the folder around them"
        )
    for root in roots:
        if not root.name.isprintable():
            raise UserError(
                f"{folder}: has a sub-folder {root.name!r}, expected a printable name; rename it"
            )
    parts = []
    for root in roots:
        size = sum(file.lstat().st_size for file in _files(root))
        parts.append(Part(str(root), 0, 1, size))
    return parts


def _files(root: Path) -> Iterator[Path]:
    """Yield all that is below ``root`` and no folder, links included, but for git's own."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error)

    for folder, folders, files in os.walk(root, onerror=refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        # in place: os.walk descends into what is left, in this order
        folders[:] = sorted(set(folders) - {_GIT})
        for name in sorted(files + links):
            if name != _GIT:
                yield Path(folder, name)


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"{error.filename}: cannot be read ({error.strerror}); grant permission or take it away"
    )


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest in ``output`` if all of its shards are there.

    Raises:
        UserError: it was made with other settings.
    """
    manifest = read_json_or_none(output / MANIFEST)
    if manifest is None:
        return None
    try:
        former = manifest["settings"]
        differs = [key for key, value in settings.items() if former.get(key) != value]
        files = [output / shard["file"] for shard in manifest["shards"]]
    except (KeyError, TypeError, AttributeError):
        return None
    if differs:
        raise UserError(
            f"{output}: was made with other {', '.join(differs)} than now; name another --output"
        )
    if not all(file.is_file() for file in files):
        return None
    return manifest


def _bucket(repository: str, buckets: int) -> int:
    digest = hashlib.blake2b(repository.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def _bucket_parts(
    partition: Path, manifests: list[dict[str, Any]], buckets: int
) -> list[list[Part]]:
    """Return for each bucket with a record where its records are in the first pass's files."""
    by_bucket: list[list[Part]] = [[] for _ in range(buckets)]
    for manifest in manifests:
        name = shards.shard_name(manifest["index"])
        file = str(partition / f"{name}.jsonl")
        # each bucket's records are the bytes from its offset to the next one's
        bounds = pairwise(manifest["buckets"])
        for bucket, (start, stop) in enumerate(bounds):
            if start < stop:
                by_bucket[bucket].append(Part(file, start, stop, stop - start))
    return [parts for parts in by_bucket if parts]


def _name(value: Any) -> str | None:
    """Return a repository's name or a path; numbers, such as those of pages, in decimal."""
    if not isinstance(value, str | int):
        return None
    return str(value)
