"""Tokenization: documents to shards of Megatron's .bin/.idx files, each with its manifest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import documents, indexed, shards
from data_prep.documents import BadRecord, Document, Part
from data_prep.input_files import counts
from data_prep.tokenized_folder import (
    MANIFEST,
    EncoderReport,
    ShardManifest,
    ShardSource,
    TokenizedManifest,
    TokenizedShard,
)
from recipes.common.encoder import Encoder
from recipes.common.json_files import read_json_or_none
from recipes.common.tokenizer_files import TokenizerFolder, TokenizerIdentity

LONG_BYTES = 64 * 2**20  # a document of this size may be a file that was not split into records
_BATCH_CHARACTERS = 1 << 20  # encoded at a time; bounds the memory
_MAX_NAMED = 3  # left-out records that are named one by one, per shard and reason


@dataclass(frozen=True)
class Settings:
    """What decides, besides the inputs, what the shards hold.

    Attributes:
        tokenizer: that encodes.
        text_field: the field of a record that holds the text.
        license: of the text, for the manifests.
        skip_bad_records: leave out, name and count records that are no text, instead of raising.
    """

    tokenizer: TokenizerIdentity
    text_field: str
    license: str
    skip_bad_records: bool


def tokenize(
    inputs: list[str],
    output: Path,
    tokenizer_folder: Path,
    *,
    text_field: str = "text",
    license: str | None = None,
    skip_bad_records: bool = False,
    workers: int = 1,
    max_shards: int | None = None,
    only: int | None = None,
    dryrun: bool = False,
) -> TokenizedManifest | None:
    """Tokenize ``inputs`` into ``output``: shard-NNNNN.bin, .idx and .json, and last manifest.json.

    The .bin and .idx of a shard are, byte for byte, what Megatron-LM's ``preprocess_data.py
    --append-eod`` writes for the same documents and tokenizer: each document's ids and one
    end-of-text. Empty documents are left out and counted. A run that was interrupted resumes with
    the shards that are missing.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``.
        output: a folder that is new, empty, or has unfinished output of this function.
        tokenizer_folder: holds tokenizer.json and tokenizer_config.json.
        text_field, license, skip_bad_records: see :class:`Settings`.
        workers: processes.
        max_shards: shards at most, instead of one for every 32 MiB of input.
        only: do this one shard, as in a job array.
        dryrun: print what would be done and do nothing.

    Returns:
        The manifest, or None while a shard is missing.

    Raises:
        UserError: what the functions below and :func:`shards.run` refuse.
    """
    tokenizer = TokenizerFolder(tokenizer_folder).identity
    settings = Settings(tokenizer, text_field, license or "not stated", skip_bad_records)
    plan = shards.make_plan(inputs, max_shards)
    if dryrun:
        count = len(plan.shards)
        megabytes = sum(file.bytes for file in plan.inputs) / 1e6
        print(
            f"{count} shards of {megabytes:,.1f} MB of input, numbered 0 to {count - 1}, "
            f"would go to {output}"
        )
        return None

    work = partial(encode_shard, tokenizer_folder=tokenizer_folder, settings=settings)
    shards.run(output, plan, asdict(settings), work, workers=workers, only=only)
    return finish(output)


def finish(output: Path) -> TokenizedManifest | None:
    """Write ``output``'s manifest.json once all of its shards are finished, and return it.

    Raises:
        UserError: the plan or a shard's manifest is damaged.
    """
    finished = shards.read_manifests(output, ShardManifest)
    if finished is None:
        return None

    sources = Counter[str]()
    left_out = Counter[str]()
    entries = []
    for index, shard in enumerate(finished):
        left_out.update(shard.left_out)
        for source in shard.sources:
            sources[source.input] += source.documents
        # a shard within one long document holds none, and Megatron does not open an empty file
        if shard.documents:
            entries.append(_describe(index, shard))

    total_documents = sum(shard.documents for shard in finished)
    manifest = TokenizedManifest(
        documents=total_documents,
        tokens=sum(shard.tokens for shard in finished),
        bytes=sum(shard.bytes for shard in finished),
        left_out=dict(left_out),
        licenses={finished[0].license: total_documents},
        sources=dict(sources),
        tokenizer=finished[0].tokenizer,
        shards=entries,
        # not in the plan, which decides what may be continued: it changes no shard
        packed_tokens=_packed_tokens(sources),
        passed_over=counts(shards.read_plan(output).passed_over),
    )
    manifest.write(output)
    return manifest


def _describe(index: int, shard: ShardManifest) -> TokenizedShard:
    return TokenizedShard(
        prefix=shards.shard_name(index),
        documents=shard.documents,
        tokens=shard.tokens,
        bytes=shard.bytes,
        bin_sha256=shard.bin_sha256,
        idx_sha256=shard.idx_sha256,
    )


def _packed_tokens(inputs: Iterable[str]) -> int | None:
    """The largest ``max_tokens`` of the manifests that ``granite41 data repositories`` wrote."""
    files = [name for name in inputs if not name.startswith(documents.HUB)]
    packed = []
    for folder in {Path(name).parent for name in files}:
        manifest = read_json_or_none(folder / MANIFEST) or {}
        settings = manifest.get("settings")
        if not isinstance(settings, dict):
            continue
        # any JSON file of that name; true is no number
        max_tokens = settings.get("max_tokens")
        if type(max_tokens) is int and max_tokens > 0:
            packed.append(max_tokens)
    return max(packed, default=None)


def encode_shard(
    parts: list[Part], folder: Path, name: str, *, tokenizer_folder: Path, settings: Settings
) -> dict[str, Any]:
    """Write one shard, ``folder/name``.bin and .idx, and return its manifest.

    The ids are gigatoken's, compared with the pinned loader's on a sample; if one document differs,
    or if gigatoken cannot read the tokenizer, the whole shard is encoded by the pinned loader and
    its manifest says so. A pure function of its arguments.

    Raises:
        UserError: an input is damaged or a record is no text (see :func:`documents.read`).
    """
    encoder = Encoder(tokenizer_folder)

    def encode() -> ShardManifest:
        shard = _ShardEncoder(folder / name, encoder, settings)
        shard.encode(parts)
        return shard.manifest

    manifest = encoder.run(encode)
    if encoder.load_error:
        manifest.notes.insert(
            0,
            f"{tokenizer_folder}: encoded by {encoder.name}, as gigatoken cannot read it "
            f"({encoder.load_error})",
        )
    if encoder.differing:
        manifest.notes.insert(
            0,
            f"{name}: gigatoken gave other ids than tokenizers for {encoder.differing} of "
            f"{encoder.checked} documents compared; the whole shard was encoded by tokenizers",
        )
    return asdict(manifest)


class _ShardEncoder:
    """Encodes the documents of one shard.

    Attributes:
        manifest: of the shard; counts what was encoded so far.
    """

    def __init__(self, prefix: Path, encoder: Encoder, settings: Settings) -> None:
        self._prefix = prefix
        self._encoder = encoder
        self._settings = settings
        self.manifest = ShardManifest(
            documents=0,
            tokens=0,
            bytes=0,
            bin_sha256="",
            idx_sha256="",
            end_of_text_within_documents=0,
            left_out={},
            sources=[],
            license=settings.license,
            tokenizer=settings.tokenizer,
            encoder=EncoderReport(encoder.name),
            notes=[],
        )

    def encode(self, parts: list[Part]) -> None:
        """Write the shard's two files."""
        settings = self._settings
        manifest = self.manifest
        with indexed.Writer(self._prefix, settings.tokenizer.vocab_size) as writer:
            for part in parts:
                before = manifest.documents
                found = documents.read(part, settings.text_field, on_bad=self._on_bad_record)
                for batch in _batches(found):
                    self._encode_batch(writer, part, batch)
                count = manifest.documents - before
                manifest.sources.append(ShardSource(part.input, part.start, part.stop, count))
            manifest.bin_sha256, manifest.idx_sha256 = writer.finish()

        encoder = self._encoder
        manifest.encoder = EncoderReport(
            encoder.name, encoder.checked, encoder.differing, encoder.fallback_documents
        )
        if manifest.end_of_text_within_documents:
            manifest.notes.append(
                f"{self._prefix.name}: end-of-text is spelled out "
                f"{manifest.end_of_text_within_documents} times within documents and ends them "
                f"there"
            )

    def _encode_batch(self, writer: indexed.Writer, part: Part, batch: list[Document]) -> None:
        manifest = self.manifest
        end_of_text = manifest.tokenizer.end_of_text
        ids, lengths = self._encoder.encode([document.text for document in batch])
        # counted apart: a document without text gets no end-of-text
        for position in np.flatnonzero(lengths == 0):
            where = documents.where(part, batch[position].record)
            self._leave_out("empty documents", f"{where}: is empty (left out)")
        manifest.end_of_text_within_documents += int(np.count_nonzero(ids == end_of_text))

        # one end-of-text after the last id of each document
        lengths = lengths[lengths > 0]
        ends = np.cumsum(lengths)
        tokens = np.insert(ids.astype(writer.dtype), ends, end_of_text)
        writer.add(tokens, lengths + 1)

        # bytes of text in UTF-8
        sizes = [len(document.text.encode()) for document in batch]
        longest = max(sizes)
        if longest >= LONG_BYTES:
            where = documents.where(part, batch[sizes.index(longest)].record)
            manifest.notes.append(
                f"{where}: is one document of {longest / 1e6:,.0f} MB, kept whole"
            )

        manifest.documents += len(lengths)
        manifest.tokens += len(ids) + len(lengths)
        manifest.bytes += sum(sizes)

    def _on_bad_record(self, error: BadRecord) -> None:
        if not self._settings.skip_bad_records:
            raise error
        self._leave_out("bad records", f"{error} (left out)")

    def _leave_out(self, reason: str, sentence: str) -> None:
        left_out = self.manifest.left_out
        left_out[reason] = left_out.get(reason, 0) + 1
        # the first few are named, all are counted
        if left_out[reason] <= _MAX_NAMED:
            self.manifest.notes.append(sentence)


def _batches(found: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents into lists of about :data:`_BATCH_CHARACTERS`."""
    batch = []
    characters = 0
    for document in found:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch = []
            characters = 0
    if batch:
        yield batch
