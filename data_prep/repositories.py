"""Pack the files of a code repository, or the pages of a book, into long documents.

How files are ordered and headed is in :mod:`data_prep.packing`.

Two passes: the first distributes the records over buckets by a hash of the repository's name, the
second loads one bucket at a time. So memory holds one bucket's text for each process, at any size
of the inputs.

The output holds shard-NNNNN.jsonl and manifest.json. A line of a shard has ``text``,
``repository``, ``files``, ``tokens`` and ``part``, the document's number within its repository from
1; no document holds files of two repositories, and nothing depends on the number of workers. The
manifest has ``repositories``, ``files``, ``cut_files`` (longer than a document by themselves),
``documents``, ``long_documents`` (at least half of the limit), ``tokens``, ``bytes`` (of text, in
UTF-8), ``left_out`` (reason -> files or records), ``passed_over`` (reason -> files of the inputs
that were not read), ``settings`` and ``shards`` (file, documents, tokens).
"""

import codecs
import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from data_prep import documents, input_files, shards
from data_prep.compression import file_errors_as_user_error
from data_prep.documents import BadRecord, Part
from data_prep.packing import MINIMUM_TOKENS, order, pack
from data_prep.records import get_text, to_json
from data_prep.shards import Plan
from recipes.common.encoder import Encoder
from recipes.common.errors import UserError
from recipes.common.json_files import read_json_or_none, write_json
from recipes.common.tokenizer_files import TokenizerFolder

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# files open at a time in the first pass
MOST_BUCKETS = 256
# bytes in which git looks for a zero byte, the sign of a binary file
_HEAD = 8000
# hidden, so that the second pass finds its folder free of other files
_PARTITION = ".partition"
# bad records that are named one by one, per shard
_NAMED = 3


# path and text
File = tuple[str, str]
# name and files
Repository = tuple[str, list[File]]


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
        plan = _folder_plan(folder)
        described: dict[str, Any] = {"inputs": [str(folder)]}
    else:
        plan = shards.make_plan(inputs or [])
        described = {**fields.to_settings(), "inputs": inputs}

    # the names of fields change the first pass, not the packing of its buckets
    fingerprint = TokenizerFolder(tokenizer_folder).fingerprint
    settings = {"max_tokens": max_tokens, "tokenizer": fingerprint}
    all_settings = {**settings, **described}

    result = _finished(output, all_settings, plan)
    if result:
        log.info("%s: is finished already", output)
    else:
        shards.check_output(output)
        left_out = Counter[str]()
        if inputs:
            plan = _first_pass(output / _PARTITION, plan, fields, workers, left_out)
        log.info("packing the files of each repository")
        work = partial(pack_shard, tokenizer_folder=tokenizer_folder, max_tokens=max_tokens)
        shards.run(output, plan, settings, work, workers=workers)
        result = _write_manifest(output, all_settings, left_out)

    # the buckets, also those of a run that was killed after its manifest
    shutil.rmtree(output / _PARTITION, ignore_errors=True)
    return result


def _check_arguments(inputs: list[str] | None, folder: Path | None, max_tokens: int) -> None:
    if (folder is None) == (not inputs):
        raise UserError("repositories: expected either --input or --folder; give one of them")
    if max_tokens < MINIMUM_TOKENS:
        raise UserError(
            f"max-tokens: {max_tokens} is too small, expected at least {MINIMUM_TOKENS}; give more"
        )


_COUNTS = ("repositories", "files", "cut_files", "documents", "long_documents", "tokens", "bytes")


@dataclass(frozen=True)
class _Distributed:
    """A shard's manifest after the first pass, see :func:`distribute`."""

    buckets: list[int]
    left_out: dict[str, int]
    notes: list[str]


@dataclass(frozen=True)
class _Packed:
    """A shard's manifest after the second pass; ``left_out`` is reason -> files."""

    repositories: int
    files: int
    cut_files: int
    documents: int
    long_documents: int
    tokens: int
    bytes: int
    left_out: dict[str, int]


def _first_pass(
    partition: Path,
    plan: Plan,
    fields: FieldNames,
    workers: int,
    left_out: Counter[str],
) -> Plan:
    """Distribute the records over buckets; return the plan that has a shard for each bucket.

    Args:
        left_out: receives the counts of what is left out.
    """
    # a Hub data set does not say its size: a bucket for each of its files
    unknown_sizes = sum(part.bytes == 0 for part in chain.from_iterable(plan.shards))
    buckets = min(MOST_BUCKETS, max(len(plan.shards), unknown_sizes))
    log.info("distributing the records over buckets by repository")
    settings = {**fields.to_settings(), "buckets": buckets}
    work = partial(distribute, fields=fields, buckets=buckets)
    shards.run(partition, plan, settings, work, workers=workers)

    notes = []
    manifests = shards.read_manifests(partition, _Distributed) or []
    for manifest in manifests:
        left_out.update(manifest.left_out)
        notes += manifest.notes
    by_bucket = _bucket_parts(partition, manifests, buckets)
    if not by_bucket:
        raise _no_record(plan.inputs[0].path, fields, notes)
    # the inputs stay the given ones: the first pass's files are removed at the end
    return replace(plan, shards=by_bucket)


def _no_record(first_input: str, fields: FieldNames, notes: list[str]) -> UserError:
    within = ""
    if fields.files:
        within = f" within {fields.files!r}"
    # the first of them names the fields that there are
    note = ""
    if notes:
        note = f" ({notes[0]})"
    return UserError(
        f"{first_input}: no record has text in {fields.text!r}, a repository in "
        f"{fields.repository!r} and a path in {fields.path!r}{within}{note}; "
        f"name the fields that hold them"
    )


def _write_manifest(
    output: Path, settings: dict[str, Any], left_out: Counter[str]
) -> dict[str, Any]:
    """Write and return manifest.json: the shards' counts added up, and what each shard holds.

    Args:
        left_out: what the first pass left out.
    """
    counts = Counter(dict.fromkeys(_COUNTS, 0))
    entries = []
    for index, packed in enumerate(shards.read_manifests(output, _Packed) or []):
        counts.update({key: getattr(packed, key) for key in _COUNTS})
        left_out.update(packed.left_out)
        entry = {
            "file": f"{shards.shard_name(index)}.jsonl",
            "documents": packed.documents,
            "tokens": packed.tokens,
        }
        entries.append(entry)
    if not counts["documents"]:
        raise UserError(
            f"{settings['inputs'][0]}: holds no file of UTF-8 text, expected repositories in its "
            f"sub-folders; check it"
        )

    result = {
        **counts,
        "left_out": dict(sorted(left_out.items())),
        "passed_over": input_files.counts(shards.read_plan(output).passed_over),
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
                    streams[bucket].write(to_json(record))

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
    part: Part,
    fields: FieldNames,
    bad: Callable[[BadRecord], None],
) -> Iterator[tuple[str | None, str | None, Any]]:
    """Yield repository, path and text of each file in ``part``, as far as its record has them."""
    if fields.files:
        yield from _listed_files(part, fields, fields.files, bad)
        return
    others = (fields.repository, fields.path)
    for document in documents.read(part, fields.text, others, bad):
        repository = document.fields.get(fields.repository)
        path = document.fields.get(fields.path)
        yield _name(repository), _name(path), document.text


def _listed_files(
    part: Part,
    fields: FieldNames,
    files_field: str,
    bad: Callable[[BadRecord], None],
) -> Iterator[tuple[str, str | None, Any]]:
    """Yield the same where a record is a whole repository."""
    # here the repository's name is the one text of a record
    for document in documents.read(part, fields.repository, (files_field,), bad):
        files = document.fields[files_field]
        is_list = isinstance(files, list)
        if not is_list or not all(isinstance(file, dict) for file in files):
            where = documents.where(part, document.record)
            sentence = f"{where}: field {files_field!r} holds no list of objects"
            bad(BadRecord(f"{sentence}; name the one that lists the files"))
            continue
        for file in files:
            path = file.get(fields.path)
            yield document.text, _name(path), get_text(file, fields.text)


def pack_shard(
    parts: list[Part], folder: Path, name: str, *, tokenizer_folder: Path, max_tokens: int
) -> dict[str, Any]:
    """Write the documents of a bucket's repositories to ``folder/name``.jsonl.

    Returns:
        The shard's manifest.

    Raises:
        UserError: a file of a repository cannot be read.
    """

    encoder = Encoder(tokenizer_folder)

    def write() -> dict[str, Any]:
        left_out = Counter[str]()
        # a part is a folder of --folder, or a bucket of the first pass
        if Path(parts[0].input).is_dir():
            repositories = _checked_out(parts, left_out)
        else:
            repositories = _grouped(parts)
        counts = _write(repositories, folder / f"{name}.jsonl", max_tokens, encoder)
        return {**counts, "left_out": dict(left_out)}

    manifest = encoder.run(write)
    if encoder.differing:
        note = (
            f"{name}: gigatoken gave other ids than tokenizers, "
            f"which counted the tokens of this shard instead"
        )
        manifest["notes"] = [note]
    return manifest


def _write(
    repositories: Iterator[Repository],
    target: Path,
    max_tokens: int,
    encoder: Encoder,
) -> dict[str, int]:
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
                stream.write(to_json(line))

                counts["documents"] += 1
                counts["long_documents"] += 2 * document.tokens >= max_tokens
                counts["cut_files"] += document.cut
                counts["tokens"] += document.tokens
                counts["bytes"] += len(document.text.encode())
            counts["repositories"] += 1
            counts["files"] += len(files)
    return counts


def _grouped(parts: list[Part]) -> Iterator[Repository]:
    """Yield the repositories of a bucket, by name, each with its files."""
    repositories: dict[str, list[File]] = {}
    for part in parts:
        for document in documents.read(part, others=("repository", "path")):
            repository = document.fields["repository"]
            file = (document.fields["path"], document.text)
            repositories.setdefault(repository, []).append(file)

    # each is dropped when it is packed, which takes memory of its own
    for repository in sorted(repositories):
        yield repository, repositories.pop(repository)


def _checked_out(
    parts: list[Part],
    left_out: Counter[str],
) -> Iterator[Repository]:
    """Yield the repositories in folders, in the order of the parts, each with its files of text."""
    for part in parts:
        root = Path(part.input)
        files = []
        for file in input_files.files_below(root):
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
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "not UTF-8", ""
            if b"\0" in head:
                return "binary", ""
            # without a byte order mark
            text = (head + stream.read()).decode("utf-8-sig")
    except UnicodeError:
        return "not UTF-8", ""
    except OSError as error:
        raise input_files.unreadable(error) from error
    if "\0" in text:
        return "binary", ""
    if not text:
        return "empty", ""
    return None, text


def _folder_plan(folder: Path) -> Plan:
    """Return the plan with one part for each direct sub-folder, in order.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder, expected one of checked-out repositories; check --folder"
        )
    found = input_files.Found()
    roots: dict[Path, Path] = {}
    with file_errors_as_user_error(str(folder)):
        items = sorted(folder.iterdir())
    for item in items:
        target = input_files.follow(item)
        if not item.is_dir() or item.name == input_files.GIT:
            found.pass_over("not in a repository", item)
        elif target in roots:
            found.pass_over(input_files.TWICE, item)
        else:
            roots[target] = item
    if not roots:
        raise UserError(
            f"{folder}: has no sub-folder, expected one for each repository; "
            f"name the folder around them"
        )

    inputs = []
    parts = []
    for root in roots.values():
        if not root.name.isprintable():
            raise UserError(
                f"{folder}: has a sub-folder {root.name!r}, expected a printable name; rename it"
            )
        identity = input_files.identify(str(root))
        inputs.append(identity)
        parts.append(Part(str(root), 0, 1, identity.bytes))
    input_files.log_passed_over(found)
    return Plan(shards.cut(parts), inputs, found.passed_over)


def _finished(output: Path, settings: dict[str, Any], plan: Plan) -> dict[str, Any] | None:
    """Return the manifest in ``output`` if all of its shards are there.

    Raises:
        UserError: it was made with other settings or inputs.
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
    shards.compare_inputs(output, shards.read_plan(output).inputs, plan.inputs)
    return manifest


def _bucket(repository: str, buckets: int) -> int:
    digest = hashlib.blake2b(repository.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def _bucket_parts(
    partition: Path,
    manifests: list[_Distributed],
    buckets: int,
) -> list[list[Part]]:
    """Return for each bucket with a record where its records are in the first pass's files."""
    by_bucket: list[list[Part]] = [[] for _ in range(buckets)]
    for index, manifest in enumerate(manifests):
        file = str(partition / f"{shards.shard_name(index)}.jsonl")
        # each bucket's records are the bytes from its offset to the next one's
        bounds = pairwise(manifest.buckets)
        for bucket, (start, stop) in enumerate(bounds):
            part = Part(file, start, stop, stop - start)
            if part.bytes:
                by_bucket[bucket].append(part)
    return [parts for parts in by_bucket if parts]


def _name(value: Any) -> str | None:
    """Return a repository's name or a path; numbers, such as those of pages, in decimal."""
    if not isinstance(value, str | int):
        return None
    return str(value)
