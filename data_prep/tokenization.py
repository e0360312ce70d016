"""Tokenization: documents to shards of Megatron's .bin/.idx files, each with its manifest."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import documents, indexed, shards
from data_prep.documents import BadRecord, Part
from recipes.common import tokenizer_files
from recipes.common.encoder import Differs, Encoder
from recipes.common.files import write_text

MANIFEST = "manifest.json"
LONG_BYTES = (
    64 * 2**20
)  # a document this long is worth a word: it may be a file that was not split into records
_BATCH_CHARACTERS = 1 << 20  # encoded at a time; bounds the memory
_NAMED = 3  # left-out records that are named one by one, per shard and reason


def tokenize(
    inputs: list[str],
    output: Path,
    tokenizer_folder: Path,
    *,
    text_field: str = "text",
    licence: str | None = None,
    skip_bad_records: bool = False,
    workers: int = 1,
    shards_wanted: int | None = None,
    only: int | None = None,
    dryrun: bool = False,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> None:
    """Tokenize ``inputs`` into ``output``: shard-NNNNN.bin, .idx and .json, and manifest.json when all are there.

    The .bin and .idx of a shard are, byte for byte, what Megatron-LM's ``preprocess_data.py --append-eod`` writes for
    the same documents and tokenizer: each document's ids and one end-of-text. Empty documents are left out and counted.
    A run that was interrupted goes on with the shards that are missing.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``.
        output: a new, empty or begun folder.
        tokenizer_folder: holds tokenizer.json and tokenizer_config.json.
        text_field: the field of a record that holds the text.
        licence: of the text, for the manifests.
        skip_bad_records: leave out, name and count records that are no text, instead of refusing.
        workers: processes.
        shards_wanted: at most so many shards instead of one for every 32 MiB of input.
        only: do this one shard, as in a job array.
        dryrun: say what would be done and do nothing.
        say: receives progress.
        warn: receives what was noticed about single documents.

    Raises:
        UserError: what the functions below and :func:`shards.run` refuse.
    """
    settings = {
        "tokenizer": {
            "fingerprint": tokenizer_files.fingerprint(tokenizer_folder),
            "vocab_size": tokenizer_files.vocab_size(tokenizer_folder),
            "end_of_text": tokenizer_files.end_of_text(tokenizer_folder),
        },
        "text_field": text_field,
        "licence": licence or "not stated",
        "skip_bad_records": skip_bad_records,
    }
    plan = shards.plan(inputs, shards_wanted)
    if dryrun:
        size = sum(part.bytes for parts in plan for part in parts)
        say(
            f"{len(plan)} shards of {size / 1e6:,.1f} MB of input, numbered 0 to {len(plan) - 1}, would go to {output}"
        )
        return
    work = partial(encode_shard, tokenizer_folder=tokenizer_folder, settings=settings)
    shards.run(output, plan, settings, work, workers=workers, only=only, say=say, warn=warn)
    finish(output)


def finish(output: Path) -> dict[str, Any] | None:
    """Write ``output``'s manifest.json once all of its shards are there, and return it, or None while one is missing.

    The manifest: ``documents``, ``tokens``, ``bytes`` (of text, in UTF-8), ``left_out`` (reason -> records),
    ``licences`` (licence -> documents), ``sources`` (input -> documents), ``tokenizer`` (fingerprint, vocab_size,
    end_of_text), ``shards`` (prefix, documents, tokens, bytes, bin_sha256, idx_sha256) and, where ``granite41 data
    repositories`` wrote an input, ``packed_tokens``, the most tokens that it packed into a document.
    """
    found = shards.manifests(output)
    if found is None:
        return None
    kept = ("documents", "tokens", "bytes", "bin_sha256", "idx_sha256")
    sources, left_out = Counter[str](), Counter[str]()
    for shard in found:
        sources.update({source["input"]: source["documents"] for source in shard["sources"]})
        left_out.update(shard["left_out"])
    totals = {key: sum(shard[key] for shard in found) for key in ("documents", "tokens", "bytes")}
    manifest = {
        **totals,
        "left_out": dict(left_out),
        "licences": {found[0]["licence"]: totals["documents"]},
        "sources": dict(sources),
        "tokenizer": found[0]["tokenizer"],
        # a shard may lie within one long document and hold none; Megatron does not open an empty file
        "shards": [
            {"prefix": shards.shard_name(shard["index"]), **{key: shard[key] for key in kept}}
            for shard in found
            if shard["documents"]
        ],
    }
    # not of the plan, which decides what may be continued: it changes no shard
    packed = _packed_tokens(sources)
    if packed:
        manifest["packed_tokens"] = packed
    write_text(output / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def _packed_tokens(inputs: Iterable[str]) -> int | None:
    """The largest ``max_tokens`` of the manifests that ``granite41 data repositories`` wrote beside ``inputs``."""
    found = []
    for folder in {Path(name).parent for name in inputs if not name.startswith(documents.HUB)}:
        try:
            max_tokens = json.loads((folder / MANIFEST).read_bytes())["settings"]["max_tokens"]
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            continue
        if type(max_tokens) is int and max_tokens > 0:
            found.append(max_tokens)
    return max(found, default=None)


def encode_shard(
    parts: list[Part], folder: Path, name: str, *, tokenizer_folder: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write one shard, ``folder/name``.bin and .idx, and return its manifest: a pure function of its arguments.

    The ids are gigatoken's, compared with the pinned loader's on a sample; if one document differs, or if gigatoken
    cannot read the tokenizer, the whole shard is encoded by the pinned loader and its manifest says so.

    Raises:
        UserError: an input is damaged or a record is no text (see :func:`documents.read`).
    """
    encoder, notes, differing = Encoder(tokenizer_folder), [], 0
    if encoder.refused:
        notes.append(
            f"{tokenizer_folder}: encoded by {encoder.name}, as gigatoken cannot read it ({encoder.refused})"
        )
    try:
        manifest = _encode(parts, folder / name, encoder, settings, notes)
    except Differs as found:
        differing = found.args[0]
        notes = [
            f"{name}: gigatoken gave other ids than tokenizers for {differing} of {encoder.checked} documents "
            f"compared; the whole shard was encoded by tokenizers"
        ]
        checked, encoder = encoder.checked, Encoder(tokenizer_folder, reference_only=True)
        encoder.checked = checked
        manifest = _encode(parts, folder / name, encoder, settings, notes)
    manifest["encoder"] = {
        "name": encoder.name,
        "checked_documents": encoder.checked,
        "differing_documents": differing,
        "documents_with_newer_characters": encoder.newer,
    }
    return manifest | {"notes": notes}


def _encode(
    parts: list[Part], prefix: Path, encoder: Encoder, settings: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    end_of_text = settings["tokenizer"]["end_of_text"]
    totals = Counter(documents=0, tokens=0, bytes=0, spelled_out=0)
    left_out, sources = Counter[str](), []

    def leave_out(reason: str, sentence: str) -> None:
        left_out[reason] += 1
        if left_out[reason] <= _NAMED:
            notes.append(sentence)

    def bad(error: BadRecord) -> None:
        if not settings["skip_bad_records"]:
            raise error
        leave_out("bad records", f"{error} (left out)")

    with indexed.Writer(prefix, settings["tokenizer"]["vocab_size"]) as writer:
        for part in parts:
            before = totals["documents"]
            for batch in _batches(documents.read(part, settings["text_field"], on_bad=bad)):
                ids, lengths = encoder.encode([document.text for document in batch])
                for position in np.flatnonzero(lengths == 0):
                    where = documents.where(part, batch[position].record)
                    leave_out("empty documents", f"{where}: is empty (left out)")
                totals["spelled_out"] += int(np.count_nonzero(ids == end_of_text))
                lengths = lengths[lengths > 0]
                ends = np.cumsum(lengths)
                writer.add(np.insert(ids.astype(writer.dtype), ends, end_of_text), lengths + 1)
                sizes = [len(document.text.encode()) for document in batch]
                if max(sizes) >= LONG_BYTES:
                    where = documents.where(part, batch[int(np.argmax(sizes))].record)
                    notes.append(
                        f"{where}: is one document of {max(sizes) / 1e6:,.0f} MB, kept whole"
                    )
                totals.update(
                    documents=len(lengths), tokens=len(ids) + len(lengths), bytes=sum(sizes)
                )
            sources.append(
                {
                    "input": part.input,
                    "start": part.start,
                    "stop": part.stop,
                    "documents": totals["documents"] - before,
                }
            )
        hashes = writer.finish()
    spelled_out = totals.pop("spelled_out")
    if spelled_out:
        notes.append(
            f"{prefix.name}: end-of-text is spelled out {spelled_out} times within documents and ends them there"
        )
    return {
        **totals,
        **hashes,
        "end_of_text_within_documents": spelled_out,
        "left_out": dict(left_out),
        "sources": sources,
        "licence": settings["licence"],
        "tokenizer": settings["tokenizer"],
    }


def _batches(found: Iterator[documents.Document]) -> Iterator[list[documents.Document]]:
    batch, characters = [], 0
    for document in found:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
