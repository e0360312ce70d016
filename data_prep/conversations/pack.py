"""Pack conversations into sequences: whole ones, each with its mask, as many as fit.

The output holds the arrays of :class:`recipes.runs.packed_folder.PackedFolder`, ``left_out.jsonl``
(a line for each record left out: ``input``, ``record``, ``reason``, ``detail``) and
``manifest.json``. Nothing is cut. There are no pads: what a sequence lacks depends on how training
is split over GPUs, and is added there.
"""

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import open_memmap

from data_prep import documents, input_files
from data_prep.conversations.best_fit import best_fit
from data_prep.conversations.conversation import (
    DOCUMENTS,
    MESSAGES,
    TOOLS,
    BadConversation,
    parse,
    without_nulls,
)
from data_prep.conversations.encoder import ChatEncoder, EncodedConversation
from data_prep.documents import BadRecord, Part
from data_prep.input_files import JSON_LINES, kind_of
from data_prep.records import BadRow, to_json
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.progress import Progress, duration
from recipes.runs.packed_folder import (
    CUMULATIVE_LENGTHS,
    FIRST_CONVERSATIONS,
    IDS,
    LOSS_MASK,
)
from recipes.runs.packed_manifest import PackedManifest

log = logging.getLogger(__name__)

LEFT_OUT = "left_out.jsonl"
BAD_RECORD = "no conversation"
SPECIAL_TOKEN = "special token in a text"  # noqa: S105  no password
TOO_LONG = "longer than a sequence"
_PART_BYTES = 4 * 2**20  # of JSON lines, read by a worker at a time


@dataclass(frozen=True)
class Settings:
    """What decides, besides the inputs, what the sequences hold.

    Attributes:
        tokenizer: folder of the tokenizer and its chat template.
        sequence_length: the most tokens of a sequence.
        escape: break special tokens that are spelled out in a conversation, instead of refusing it.
        skip_bad_records: leave out and list what is refused, instead of raising.
    """

    tokenizer: Path
    sequence_length: int
    escape: bool = False
    skip_bad_records: bool = False


@dataclass
class _PartResult:
    """The conversations of a part, whose tokens are in two files of the part.

    Attributes:
        lengths: tokens of each conversation.
        trained_tokens: of all of them.
        left_out: a line of ``left_out.jsonl`` for each record left out.
        special_tokens, unread_keys, sources: as in :class:`PackedManifest`.
        differing: texts of a sample whose ids by gigatoken were wrong, so that Hugging Face's
            library encoded the part.
    """

    lengths: list[int] = field(default_factory=list)
    trained_tokens: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)
    special_tokens: Counter[str] = field(default_factory=Counter)
    unread_keys: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    differing: int = 0

    @property
    def reasons(self) -> Counter[str]:
        """Reason -> records left out."""
        return Counter(line["reason"] for line in self.left_out)


def pack(
    inputs: Sequence[str],
    output: Path,
    settings: Settings,
    *,
    workers: int = 1,
    dryrun: bool = False,
) -> PackedManifest | None:
    """Pack the conversations of ``inputs`` into ``output``, whole or not at all.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``; records with ``messages``,
            and perhaps ``tools`` and ``documents``.
        output: a folder that is new or empty.
        settings: see :class:`Settings`.
        workers: processes; they change nothing in the output.
        dryrun: check inputs and tokenizer, print what would be done and do nothing.

    Returns:
        The manifest, or None for a dry run.

    Raises:
        UserError: an input cannot be read, a record is refused, the tokenizer has no template that
            can be used, no conversation is left, ``output`` holds something, or the disk is full.
    """
    # refuse a tokenizer that cannot be used before anything is read
    encoder = ChatEncoder(settings.tokenizer)
    found = input_files.find(inputs)
    parts = documents.split(found.names, _PART_BYTES)
    if dryrun:
        files = f"{len(found.names):,} files of {found.bytes / 1e6:,.1f} MB"
        print(f"{files}, in {len(parts):,} parts, would be packed into {output}")
        return None

    with atomic_directory(output) as folder:
        results = _encode_parts(parts, folder, settings, workers)
        total = _merge(results)
        _require_conversations(inputs, total)
        lengths = np.array(total.lengths, dtype=np.int64)
        sequences = best_fit(lengths, settings.sequence_length)
        _write_sequences(folder, results, lengths, sequences)
        (folder / LEFT_OUT).write_bytes(b"".join(map(to_json, total.left_out)))
        manifest = PackedManifest(
            sequences=len(sequences),
            sequence_length=settings.sequence_length,
            conversations=len(lengths),
            tokens=int(lengths.sum()),
            trained_tokens=total.trained_tokens,
            longest=int(lengths.max()),
            left_out=dict(total.reasons),
            special_tokens=dict(total.special_tokens),
            unread_keys=dict(total.unread_keys),
            sources=dict(total.sources),
            passed_over=input_files.counts(found.passed_over),
            tokenizer=encoder.identity,
            template_sha256=encoder.template.sha256,
        )
        manifest.write(folder)
    _warn(total)
    return manifest


def _warn(total: _PartResult) -> None:
    for key, count in total.unread_keys.items():
        log.warning("messages have a key %r, which no template reads: %s", key, f"{count:,}")
    if total.differing:
        log.warning(
            "gigatoken gave other ids than tokenizers for %s texts compared; their parts were "
            "encoded by tokenizers",
            f"{total.differing:,}",
        )


def _require_conversations(inputs: Sequence[str], total: _PartResult) -> None:
    if total.lengths:
        return
    counts = [f"{count:,} {reason}" for reason, count in total.reasons.items()]
    raise UserError(
        f"{', '.join(inputs)}: no conversation is left to pack "
        f"({', '.join(counts) or 'there is none'}); check the records, or give a larger "
        f"--sequence-length"
    )


def _merge(results: list[_PartResult]) -> _PartResult:
    total = _PartResult()
    for result in results:
        total.lengths += result.lengths
        total.trained_tokens += result.trained_tokens
        total.left_out += result.left_out
        total.special_tokens.update(result.special_tokens)
        total.unread_keys.update(result.unread_keys)
        total.sources.update(result.sources)
        total.differing += result.differing
    return total


# --- Encoding


def _encode_parts(
    parts: list[Part], folder: Path, settings: Settings, workers: int
) -> list[_PartResult]:
    """Encode parts in processes; log a line after each."""
    progress = Progress(sum(part.bytes for part in parts))
    results: list[_PartResult] = []
    work = partial(encode_part, folder=folder, settings=settings)
    for part, result in zip(parts, _map(work, parts, workers), strict=True):
        results.append(result)
        progress.advance(part.bytes)
        if len(results) < len(parts):
            log.info(
                "%d of %d parts are encoded, %s left",
                len(results),
                len(parts),
                duration(progress.seconds_left),
            )
    return results


def _map(
    work: Callable[[tuple[int, Part]], _PartResult], parts: list[Part], workers: int
) -> Iterator[_PartResult]:
    numbered = list(enumerate(parts))
    if workers == 1 or len(parts) == 1:
        yield from map(work, numbered)
        return
    # fresh interpreters: a fork would copy the locks of threads of libraries that are loaded here
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(parts)), context)
    try:
        yield from pool.map(work, numbered)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for lack of memory; run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _token_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Return the files of a part's ids and mask, until they are in sequences."""
    return folder / f"{number}.ids", folder / f"{number}.mask"


def encode_part(numbered: tuple[int, Part], folder: Path, settings: Settings) -> _PartResult:
    """Write the tokens of a part's conversations to two files in ``folder``.

    Raises:
        UserError: a record is refused, or the part cannot be read.
    """
    number, part = numbered
    ids_file, mask_file = _token_files(folder, number)
    encoder = ChatEncoder(settings.tokenizer, fast=True)

    def encode() -> _PartResult:
        reader = _PartEncoder(part, settings, encoder)
        with ids_file.open("wb") as ids, mask_file.open("wb") as mask:
            reader.encode(ids, mask)
        return reader.result

    result = encoder.run(encode)
    result.differing = encoder.differing
    return result


class _PartEncoder:
    """Encodes the conversations of one part.

    Attributes:
        result: of what was encoded so far.
    """

    def __init__(self, part: Part, settings: Settings, encoder: ChatEncoder) -> None:
        self._part = part
        self._settings = settings
        self._encoder = encoder
        # for parquet a read of the file
        self._records_before = lru_cache(1)(documents.records_before)
        self.result = _PartResult()

    def encode(self, ids: BinaryIO, mask: BinaryIO) -> None:
        """Write ids and mask of every conversation that is kept."""
        result = self.result
        records = documents.read_records(self._part, MESSAGES, (TOOLS, DOCUMENTS))
        for record, value in records:
            encoded = self._encode_record(record, value)
            if encoded is None:
                continue
            tokens = len(encoded.ids)
            if tokens > self._settings.sequence_length:
                self._leave_out(record, TOO_LONG, f"has {tokens:,} tokens")
                continue
            encoded.ids.tofile(ids)
            encoded.trained.tofile(mask)
            result.lengths.append(tokens)
            result.sources[self._part.input] += 1
            result.trained_tokens += int(encoded.trained.sum())

    def _encode_record(
        self, record: int, value: dict[str, Any] | BadRow
    ) -> EncodedConversation | None:
        """Return a record's tokens, or None if it is left out."""
        if isinstance(value, BadRow):
            self._refuse(record, BAD_RECORD, value.reason)
            return None
        fields = value
        if kind_of(self._part.input) not in JSON_LINES:
            fields = without_nulls(value)
        reason = BAD_RECORD
        try:
            conversation, spelled = self._encoder.special_tokens.escape(parse(fields))
            if spelled and not self._settings.escape:
                reason = SPECIAL_TOKEN
                names = ", ".join(sorted(spelled))
                raise BadConversation(
                    f"spells out {names}, which would be read as such; leave it out, or escape it "
                    f"with --special-tokens escape"
                )
            encoded = self._encoder.encode(conversation)
        except BadConversation as error:
            self._refuse(record, reason, str(error))
            return None
        self.result.special_tokens.update(spelled)
        self.result.unread_keys.update(conversation.unread)
        return encoded

    def _refuse(self, record: int, reason: str, detail: str) -> None:
        if not self._settings.skip_bad_records:
            raise BadRecord(f"{documents.where(self._part, record)}: {detail}")
        self._leave_out(record, reason, detail)

    def _leave_out(self, record: int, reason: str, detail: str) -> None:
        line = {
            "input": documents.source(self._part),
            "record": self._records_before(self._part) + record,
            "reason": reason,
            "detail": detail,
        }
        self.result.left_out.append(line)


# --- Sequences


def _write_sequences(
    folder: Path, results: list[_PartResult], lengths: np.ndarray, sequences: list[list[int]]
) -> None:
    """Write the arrays, and remove the parts' files.

    Args:
        lengths: tokens of each conversation, in the order of the parts.
        sequences: positions of the conversations in ``lengths``, for each sequence.
    """
    # the conversations as they lie in the output
    order = np.array([position for sequence in sequences for position in sequence])
    ends = np.cumsum(lengths[order])
    np.save(folder / CUMULATIVE_LENGTHS, np.concatenate([[0], ends]).astype(np.int64))
    counts = [len(sequence) for sequence in sequences]
    np.save(folder / FIRST_CONVERSATIONS, np.cumsum([0, *counts]).astype(np.int64))

    # where in the output each conversation begins, by its position in the parts
    starts = np.empty(len(lengths), dtype=np.int64)
    starts[order] = ends - lengths[order]
    tokens = (int(lengths.sum()),)
    ids = open_memmap(folder / IDS, mode="w+", dtype=np.int32, shape=tokens)
    mask = open_memmap(folder / LOSS_MASK, mode="w+", dtype=np.bool_, shape=tokens)
    position = 0
    for number, result in enumerate(results):
        ids_file, mask_file = _token_files(folder, number)
        part_ids = np.fromfile(ids_file, dtype=np.int32)
        part_mask = np.fromfile(mask_file, dtype=np.bool_)
        bounds = np.cumsum([0, *result.lengths]).tolist()
        for start, end in pairwise(bounds):
            target = slice(starts[position], starts[position] + end - start)
            ids[target] = part_ids[start:end]
            mask[target] = part_mask[start:end]
            position += 1
        ids_file.unlink()
        mask_file.unlink()
    ids.flush()
    mask.flush()
