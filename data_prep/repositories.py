"""Long documents out of many records: the files of a code repository, or the pages of a book, one after the other.

Files are ordered by path, a folder's files before its sub-folders, and numbers within names by value (page 2 before
page 10). So the files of one folder, which mostly belong together, stay together, and no language needs a parser. IBM's
long-context code models ordered files by their import dependencies (arXiv 2407.13739); what Granite 4.1 did is not
published.

Before each file stands a line with its path, ``#src/main.c``, the form of DeepSeek-Coder's repository-level data
(arXiv 2401.14196). That is an assumption. StarCoder2's ``<file_sep>`` is a special token of its own tokenizer; in
another's text it would be no more than characters. A path that is a bare number (a page) gets no such line.

Two passes: the first distributes the records over buckets by a hash of the repository's name, the second loads one
bucket at a time. So memory holds one bucket's text for each process, however large the inputs are.
"""

import hashlib
import json
import os
import re
import shutil
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep import documents, shards
from data_prep.documents import BadRecord, Part
from recipes.common import tokenizer_files
from recipes.common.encoder import Encoder, EncoderMismatch
from recipes.common.errors import UserError
from recipes.common.files import write_text

MANIFEST = "manifest.json"
MINIMUM_TOKENS = 16  # any one character and end-of-text fit
MOST_BUCKETS = 256  # files open at a time in the first pass
_GIT = ".git"  # a folder, or a file in a submodule
_HEAD = 8000  # bytes in which git looks for a zero byte, the sign of a binary file
# hidden, so that the second pass finds its folder free of other files
_PARTITION = ".partition"
_NAMED = 3  # bad records that are named one by one, per shard


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


def prepare(
    output: Path,
    tokenizer_folder: Path,
    inputs: list[str] | None = None,
    folder: Path | None = None,
    *,
    max_tokens: int,
    repository_field: str = "repo",
    path_field: str = "path",
    text_field: str = "text",
    files_field: str | None = None,
    workers: int = 1,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Pack each repository's files into documents: shard-NNNNN.jsonl and manifest.json in ``output``.

    A line holds ``text``, ``repository``, ``files``, ``tokens`` and ``part``, the document's number within its
    repository from 1. No document holds files of two repositories. What is written does not depend on ``workers``. A
    run that was interrupted goes on with what is missing.

    Args:
        output: a new, empty or begun folder.
        tokenizer_folder: counts the tokens.
        inputs: files or data sets as :func:`documents.split_inputs` takes them, of one record per file in any order, or
            with ``files_field`` of one per repository.
        folder: instead of ``inputs``, a folder whose direct sub-folders are checked-out repositories. Files of UTF-8
            text are taken; .git, links, binary and empty files are not.
        max_tokens: of a document, end-of-text included.
        repository_field, path_field, text_field: fields of a record. Repository and path are text or whole numbers.
        files_field: where a record is a whole repository, its field that lists the files; path and text are theirs.
        workers: processes.
        say: receives progress.
        warn: receives sentences on single records.

    Returns:
        The manifest: ``repositories``, ``files``, ``cut_files`` (longer than a document by themselves), ``documents``,
        ``long_documents`` (at least half of ``max_tokens``), ``tokens``, ``bytes`` (of text, in UTF-8), ``left_out``
        (reason -> files or records), ``settings`` and ``shards`` (file, documents, tokens).

    Raises:
        UserError: neither or both kinds of input; an input that is missing or damaged; not one record that has the
            fields; ``max_tokens`` too small; ``output`` holds something else or was made with other settings.
    """
    if (folder is None) == (not inputs):
        raise UserError("repositories: expected either --input or --folder; give one of them")
    if max_tokens < MINIMUM_TOKENS:
        raise UserError(
            f"max-tokens: {max_tokens} is too small, expected at least {MINIMUM_TOKENS}; give more"
        )
    groups = shards.cut(_folder_parts(folder)) if folder else shards.plan(inputs or [])
    parts = [part for group in groups for part in group]
    fields = {
        "repository_field": repository_field,
        "path_field": path_field,
        "text_field": text_field,
        "files_field": files_field,
    }
    settings = {
        "max_tokens": max_tokens,
        "tokenizer": tokenizer_files.fingerprint(tokenizer_folder),
    }
    described = (
        settings | ({} if folder else fields) | {"inputs": [str(folder)] if folder else inputs}
    )
    described["inputs_sha256"] = hashlib.sha256(repr(parts).encode()).hexdigest()
    partition = output / _PARTITION
    finished = _finished(output, described)
    if finished:
        say(f"{output}: is finished already")
        shutil.rmtree(partition, ignore_errors=True)
        return finished
    shards.check_output(output)
    left_out = Counter[str]()
    if not folder:
        # a Hub data set does not say its size: a bucket for each of its files
        buckets = min(MOST_BUCKETS, max(len(groups), sum(part.bytes == 0 for part in parts)))
        say("distributing the records over buckets by repository")
        work = partial(distribute, fields=fields, buckets=buckets)
        shards.run(
            partition,
            groups,
            fields | {"buckets": buckets},
            work,
            workers=workers,
        )
        distributed = shards.manifests(partition) or []
        for manifest in distributed:
            left_out.update(manifest["left_out"])
        groups = _bucket_parts(partition, distributed, buckets)
        if not groups:
            raise UserError(
                f"{inputs[0] if inputs else ''}: no record has text in {text_field!r}, a repository in "
                f"{repository_field!r} and a path in {path_field!r}"
                f"{f' within {files_field!r}' if files_field else ''}; name the fields that hold them"
            )
    say("packing the files of each repository")
    work = partial(pack_shard, tokenizer_folder=tokenizer_folder, max_tokens=max_tokens)
    shards.run(output, groups, settings, work, workers=workers)
    made = shards.manifests(output) or []
    for manifest in made:
        left_out.update(manifest["left_out"])
    if not any(manifest["documents"] for manifest in made):
        raise UserError(
            f"{folder}: holds no file of UTF-8 text, expected repositories in its sub-folders; check it"
        )
    result = {
        **{key: sum(manifest[key] for manifest in made) for key in _COUNTS},
        "left_out": dict(sorted(left_out.items())),
        "settings": described,
        "shards": [
            {"file": f"{shards.shard_name(manifest['index'])}.jsonl"}
            | {key: manifest[key] for key in ("documents", "tokens")}
            for manifest in made
        ],
    }
    write_text(output / MANIFEST, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(partition, ignore_errors=True)
    return result


_COUNTS = ("repositories", "files", "cut_files", "documents", "long_documents", "tokens", "bytes")


def distribute(
    parts: list[Part], folder: Path, name: str, *, fields: dict[str, str | None], buckets: int
) -> dict[str, Any]:
    """Write the files of ``parts`` to ``folder/name``.jsonl, those of a bucket together; return the shard's manifest.

    ``buckets`` in the manifest holds each bucket's first byte and the end of the last; shape (buckets + 1,).

    Raises:
        UserError: an input is damaged.
    """
    import orjson

    left_out, notes = Counter[str](), []

    def bad(error: BadRecord) -> None:
        left_out[_BAD] += 1
        if left_out[_BAD] <= _NAMED:
            notes.append(f"{error} (left out)")

    temporary = [folder / f"{name}.{bucket}" for bucket in range(buckets)]
    with ExitStack() as stack:
        streams = [stack.enter_context(file.open("wb")) for file in temporary]
        for part in parts:
            for repository, path, text in _records(part, fields, bad):
                if not isinstance(text, str):
                    left_out[_BAD] += 1
                elif not repository or not path:
                    left_out["without repository or path"] += 1
                elif not text:
                    left_out["empty"] += 1
                else:
                    record = {"repository": repository, "path": path, "text": text}
                    streams[_bucket(repository, buckets)].write(orjson.dumps(record) + b"\n")
    offsets = [0]
    with (folder / f"{name}.jsonl").open("wb") as whole:
        for file in temporary:
            with file.open("rb") as stream:
                shutil.copyfileobj(stream, whole, 1 << 20)
            file.unlink()
            offsets.append(whole.tell())
    return {"buckets": offsets, "left_out": dict(left_out), "notes": notes}


_BAD = "damaged or without text"


def _records(
    part: Part, fields: dict[str, str | None], bad: Callable[[BadRecord], None]
) -> Iterator[tuple[str | None, str | None, Any]]:
    """Repository, path and text of each file in ``part``, as far as its record has them."""
    repository, path, text, files = (
        fields[f"{name}_field"] or "" for name in ("repository", "path", "text", "files")
    )
    if files:
        # here the repository's name is the one text of a record
        for document in documents.read(part, repository, (files,), bad):
            found = document.fields[files]
            if not isinstance(found, list) or not all(isinstance(file, dict) for file in found):
                where = documents.where(part, document.record)
                bad(
                    BadRecord(
                        f"{where}: field {files!r} holds no list of objects; name the one that lists the files"
                    )
                )
                continue
            for file in found:
                yield document.text, _name(file.get(path)), file.get(text)
    else:
        for document in documents.read(part, text, (repository, path), bad):
            yield (
                _name(document.fields.get(repository)),
                _name(document.fields.get(path)),
                document.text,
            )


def pack_shard(
    parts: list[Part], folder: Path, name: str, *, tokenizer_folder: Path, max_tokens: int
) -> dict[str, Any]:
    """Write the documents of a bucket's repositories to ``folder/name``.jsonl and return the shard's manifest.

    Raises:
        UserError: a file of a repository cannot be read.
    """

    def write(encoder: Encoder) -> dict[str, Any]:
        left_out = Counter[str]()
        repositories = (
            _checked_out(parts, left_out) if Path(parts[0].input).is_dir() else _grouped(parts)
        )
        counts = _write(repositories, folder / f"{name}.jsonl", max_tokens, encoder)
        return {**counts, "left_out": dict(left_out)}

    try:
        return write(Encoder(tokenizer_folder))
    except EncoderMismatch:
        notes = [
            f"{name}: gigatoken gave other ids than tokenizers, which counted the tokens of this shard instead"
        ]
        return {**write(Encoder(tokenizer_folder, reference_only=True)), "notes": notes}


def pack(files: Iterable[tuple[str, str]], max_tokens: int, encoder: Encoder) -> Iterator[Packed]:
    """Yield a repository's documents: files in order, as many as fit, each document encoded as a whole to be sure.

    A file that does not fit into the rest of a document begins the next one. One that is too long for any is cut at
    line ends (within a line only where that alone is too long); the header stands before its first piece only.

    Args:
        files: path and text of each file, in the order wanted.
        max_tokens: of a document, end-of-text included; at least :data:`MINIMUM_TOKENS`.
        encoder: counts the tokens.

    Raises:
        EncoderMismatch: of the encoder.
    """
    room = max_tokens - 1  # end-of-text
    texts = [_with_header(path, text) for path, text in files]
    sizes = encoder.encode(texts)[1].tolist()
    waiting = deque(_Piece(text, tokens) for text, tokens in zip(texts, sizes, strict=True))
    while waiting:
        document: list[_Piece] = []
        cut = False
        left = room
        while waiting and waiting[0].tokens <= left:
            document.append(waiting.popleft())
            left -= document[-1].tokens
        if not document:
            whole = waiting.popleft()
            end = _longest_start(whole.text, room, encoder)
            start, rest = whole.text[:end], whole.text[end:]
            document = [_Piece(start, _count(start, encoder))]
            waiting.appendleft(_Piece(rest, _count(rest, encoder), is_rest=True))
            cut = not whole.is_rest
        # the whole may have more tokens than its files together: another split where they meet
        while (tokens := _count(text := "".join(piece.text for piece in document), encoder)) > room:
            waiting.appendleft(document.pop())
        yield Packed(text, len(document), tokens + 1, cut)


@dataclass(frozen=True)
class _Piece:
    """A file with its header, or the rest of one after a cut, and its tokens by itself."""

    text: str
    tokens: int
    is_rest: bool = False


def order(path: str) -> tuple[Any, ...]:
    """Return the key that sorts paths: a folder's files before its sub-folders, numbers within names by value."""
    *folders, file = path.split("/")
    return ([*((1, _natural(folder)) for folder in folders), (0, _natural(file))], path)


def _natural(name: str) -> list[Any]:
    """``page10`` as ``["page", (2, "10"), ""]``: digits compare by their number, then by value."""
    pieces: list[Any] = re.split(r"([0-9]+)", name)
    for position in range(1, len(pieces), 2):
        digits = pieces[position].lstrip("0")
        pieces[position] = (len(digits), digits)
    return pieces


def _with_header(path: str, text: str) -> str:
    header = "" if re.fullmatch(r"[0-9]+", path) else f"#{path}\n"
    return f"{header}{text}" if text.endswith("\n") else f"{header}{text}\n"


def _longest_start(text: str, room: int, encoder: Encoder) -> int:
    """Where ``text`` is cut: the last line end that leaves at most ``room`` tokens before it.

    Within the line after it, if that alone has more than ``room`` and is cut in any case.
    """

    def is_over(end: int) -> bool:
        return _count(text[:end], encoder) > room

    ends = [match.end() for match in re.finditer("\n", text)]
    # bisection has tried the position before the one that it returns, so the start fits for certain
    lines = bisect_left(ends, True, key=is_over)
    start = ends[lines - 1] if lines else 0
    if _count(text[start : ends[lines]], encoder) <= room:
        return start
    return start + bisect_left(range(start + 1, ends[lines] + 1), True, key=is_over)


def _count(text: str, encoder: Encoder) -> int:
    return int(encoder.encode([text])[1][0])


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
            for part, document in enumerate(pack(files, max_tokens, encoder), 1):
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
    """The repositories of a bucket, by name, each with its files."""
    found = defaultdict[str, list[tuple[str, str]]](list)
    for part in parts:
        for document in documents.read(part, others=("repository", "path")):
            found[document.fields["repository"]].append((document.fields["path"], document.text))
    for repository in sorted(found):
        yield repository, found.pop(repository)


def _checked_out(
    parts: list[Part], left_out: Counter[str]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The repositories in folders, in the order of the parts, each with its files of text."""
    for part in parts:
        root, files = Path(part.input), []
        for file in _files(root):
            path = file.relative_to(root).as_posix()
            if file.is_symlink() or not file.is_file():
                left_out["links and special files"] += 1
                continue
            try:
                path.encode()
                with file.open("rb") as stream:
                    data = stream.read(_HEAD)
                    text = "\0" if b"\0" in data else (data + stream.read()).decode("utf-8")
            except UnicodeError:
                left_out["not UTF-8"] += 1
                continue
            except OSError as error:
                raise _unreadable(error) from error
            if "\0" in text:
                left_out["binary"] += 1
            elif not text:
                left_out["empty"] += 1
            else:
                files.append((path, text))
        if files:
            yield root.name, files
        else:
            left_out["repositories without text"] += 1


def _folder_parts(folder: Path) -> list[Part]:
    """One part for each direct sub-folder, in order."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder, expected one of checked-out repositories; check --folder"
        )
    roots = sorted(item for item in folder.iterdir() if item.is_dir() and item.name != _GIT)
    if not roots:
        raise UserError(
            f"{folder}: has no sub-folder, expected one for each repository; name the folder around them"
        )
    for root in roots:
        if not root.name.isprintable():
            raise UserError(
                f"{folder}: has a sub-folder {root.name!r}, expected a printable name; rename it"
            )
    return [
        Part(str(root), 0, 1, sum(file.lstat().st_size for file in _files(root))) for root in roots
    ]


def _files(root: Path) -> Iterator[Path]:
    """All that is below ``root`` and no folder, links included, but for git's own."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error)

    for folder, folders, files in os.walk(root, onerror=refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name != _GIT)
        yield from (Path(folder, name) for name in sorted(files + links) if name != _GIT)


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"{error.filename}: cannot be read ({error.strerror}); grant permission or take it away"
    )


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest in ``output`` if all of its shards are there."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
        differs = [key for key, value in settings.items() if manifest["settings"].get(key) != value]
        files = [output / shard["file"] for shard in manifest["shards"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if differs:
        raise UserError(
            f"{output}: was made with other {', '.join(differs)} than now; name another --output"
        )
    return manifest if all(file.is_file() for file in files) else None


def _bucket(repository: str, buckets: int) -> int:
    return (
        int.from_bytes(hashlib.blake2b(repository.encode(), digest_size=8).digest(), "big")
        % buckets
    )


def _bucket_parts(
    partition: Path, manifests: list[dict[str, Any]], buckets: int
) -> list[list[Part]]:
    """For each bucket that holds a record, where its records are in the files of the first pass."""
    found: list[list[Part]] = [[] for _ in range(buckets)]
    for manifest in manifests:
        file = str(partition / f"{shards.shard_name(manifest['index'])}.jsonl")
        for bucket, (start, stop) in enumerate(pairwise(manifest["buckets"])):
            if start < stop:
                found[bucket].append(Part(file, start, stop, stop - start))
    return [parts for parts in found if parts]


def _name(value: Any) -> str | None:
    """A repository's name or a path; numbers, such as those of pages, in decimal."""
    return str(value) if isinstance(value, str | int) else None
