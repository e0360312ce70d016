"""Exact and near duplicates: signatures of every text, and which documents are removed.

The signatures (datasketch's MinHash) are on disk; datasketch's own MinHashLSH would hold them in
memory as Python objects, some kilobytes a document, so bands are compared by sorting, one at a
time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.quality import ngrams

log = logging.getLogger(__name__)

HASHES = 128  # of a signature: the standard error of an estimated similarity of 0.8 is 0.035
NGRAM_WORDS = 5
_RECALL = 0.9  # least probability that a pair at the threshold shares a band
_EMPTY = np.uint32(2**32 - 1)  # every hash of the signature of a text without words
_BATCH = 1024  # n-grams hashed at a time: bounds the memory of a long text

IDENTITY = np.dtype("<u8, <u8, <u4, <u8")
IDENTITY.names = ("high", "low", "input", "record")
"""A document: its text's hash, the index of its input and its record number there."""

REMOVAL = np.dtype("<u8, <u8, <u8, <u4, <u8, <f4")
REMOVAL.names = ("document", "high", "low", "input", "record", "similarity")
"""A document to remove: its number in the shard, its text's hash, the one kept; 2 is equal text."""

EXACT = 2.0


def text_hash(text: str) -> tuple[int, int]:
    """Return the halves of the xxh3-128 hash of ``text`` in UTF-8.

    Two different texts among 10^10 share one with probability 1.5e-19.
    """
    value = xxhash.xxh3_128_intdigest(text.encode())
    high, low = divmod(value, 2**64)
    return high, low


def signature(text: str) -> np.ndarray:
    """Return the MinHash signature of the set of word 5-grams of ``text``: uint32, shape (128,).

    A text of fewer words is one n-gram; one without words resembles no other.
    """
    from datasketch import MinHash

    hashes = ngrams.word_hashes(ngrams.words(text))
    length = max(1, min(NGRAM_WORDS, len(hashes)))
    shingles = ngrams.ngram_hashes(hashes, length)
    sketch = MinHash(
        HASHES,
        permutations=_permutations(),
        scheme="affine32",
        hashfunc=int,
    )

    # the scheme takes hashes of 32 bits: the upper half of each
    upper = shingles >> np.uint64(32)
    values = upper.tolist()
    for start in range(0, len(values), _BATCH):
        batch = values[start : start + _BATCH]
        sketch.update_batch(batch)
    return sketch.hashvalues


@lru_cache(1)
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(HASHES, seed=1, scheme="affine32").permutations


def band_rows(threshold: float) -> int:
    """Return how many hashes make a band: the most at which nine of ten pairs share one.

    With b bands of r hashes that is 1 - (1 - s^r)^b at similarity s (Leskovec, Rajaraman and
    Ullman, Mining of Massive Datasets, 3.4.2): at 0.8 there are 16 bands of 8, at 0.9 a pair is
    found with 0.9999.
    """
    rows = HASHES // 2
    while rows > 1:
        bands = HASHES // rows
        recall = 1 - (1 - threshold**rows) ** bands
        if recall >= _RECALL:
            break
        rows //= 2
    return rows


def decide(
    signatures: list[Path],
    target: list[Path],
    *,
    exact: bool,
    threshold: float | None,
) -> None:
    """Write which documents of each shard are removed, as :data:`REMOVAL`, in order.

    The first of equal texts stays. Of the others one is removed if its estimated similarity to an
    earlier one *that stays* is at least ``threshold``; resembling a removed one does not count.

    Args:
        signatures: per shard, PATH.identities and, with ``threshold``, PATH.minhash.
        target: per shard, the file to write.
        exact: look for equal texts.
        threshold: Jaccard similarity of the sets of word 5-grams; None looks for no near
            duplicates.
    """
    starts, identities = _read_identities(signatures)
    # of each document the one that it duplicates, or -1 for one that stays
    duplicate_of = np.full(len(identities), -1, np.int64)
    similarity = np.full(len(identities), EXACT, np.float32)

    # equal texts first: those that they remove are not compared any more
    if exact:
        _find_equal(identities, duplicate_of)
    num_exact = np.count_nonzero(duplicate_of >= 0)
    if threshold is not None:
        _find_near(_Signatures(signatures, starts), threshold, duplicate_of, similarity)
    num_near = np.count_nonzero(duplicate_of >= 0) - num_exact
    log.info(
        "duplicates: %s exact and %s near among %s documents",
        f"{num_exact:,}",
        f"{num_near:,}",
        f"{len(identities):,}",
    )

    for file, (start, end) in zip(target, pairwise(starts), strict=True):
        # documents are numbered over all shards here, and within the shard in its file
        numbers = np.flatnonzero(duplicate_of[start:end] >= 0)
        removed = start + numbers
        rows = np.empty(len(removed), REMOVAL)
        rows["document"] = numbers
        rows["similarity"] = similarity[removed]

        texts = identities[removed]
        for name in ("high", "low"):
            rows[name] = texts[name]

        kept = identities[duplicate_of[removed]]
        for name in ("input", "record"):
            rows[name] = kept[name]
        rows.tofile(file)


def _read_identities(signatures: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each shard's documents start, shape (shards + 1,), and all :data:`IDENTITY`."""
    files = [file.with_suffix(".identities") for file in signatures]
    sizes = [file.stat().st_size // IDENTITY.itemsize for file in files]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    identities = np.empty(starts[-1], IDENTITY)
    for file, (start, end) in zip(files, pairwise(starts), strict=True):
        identities[start:end] = np.fromfile(file, IDENTITY)
    return starts, identities


def _find_equal(identities: np.ndarray, duplicate_of: np.ndarray) -> None:
    """Set ``duplicate_of`` of every text but the first of equal ones."""
    # a stable sort: the first of equal texts in input order is the first of its group
    order = np.lexsort((identities["low"], identities["high"]))
    hashes = identities[["high", "low"]]
    first = order[_first_of_group(hashes[order])]
    duplicate_of[order] = np.where(first == order, -1, first)


def _starts_group(values: np.ndarray) -> np.ndarray:
    """Return where a group of equal values starts in sorted ``values``: bool, same shape."""
    starts = np.ones(len(values), bool)
    starts[1:] = values[1:] != values[:-1]
    return starts


def _first_of_group(values: np.ndarray) -> np.ndarray:
    """Return the position of the first of each value's group in sorted ``values``."""
    positions = np.arange(len(values))
    positions[~_starts_group(values)] = 0
    # positions increase, so the highest so far is that of the newest start
    return np.maximum.accumulate(positions)


class _Signatures:
    """The MinHash signatures of all shards, on disk."""

    def __init__(self, files: Sequence[Path], starts: np.ndarray) -> None:
        """``starts`` holds the first document of each shard, and their number; (shards + 1,)."""
        self.starts = starts
        self._files = files

        # of maybe a thousand shards, each an open file
        self.shard = lru_cache(64)(self._open)

    def _open(self, shard: int) -> np.ndarray:
        """Return a shard's signatures: uint32, shape (documents, HASHES)."""
        file = self._files[shard].with_suffix(".minhash")
        if not file.stat().st_size:
            return np.empty((0, HASHES), np.uint32)
        return np.memmap(file, np.uint32, "r").reshape(-1, HASHES)

    def document(self, document: int) -> np.ndarray:
        """Return a document's signature, shape (HASHES,)."""
        # the last shard that starts at the document or before it
        shard = int(np.searchsorted(self.starts, document, "right")) - 1
        position = document - self.starts[shard]
        return self.shard(shard)[position]


@dataclass(frozen=True)
class _BandGroups:
    """Documents that share a band with another, sorted by document; one entry for each band shared.

    Attributes:
        documents: uint32, shape (entries,), sorted.
        groups: the number of the group of documents with this band, same shape.
    """

    documents: np.ndarray
    groups: np.ndarray


def _find_near(
    signatures: _Signatures,
    threshold: float,
    duplicate_of: np.ndarray,
    similarity: np.ndarray,
) -> None:
    """Set ``duplicate_of`` and ``similarity`` of near duplicates, in input order.

    Invariant: when a document is looked at, ``representative`` and ``other_representatives`` hold
    all earlier documents that stay, by the groups that they are in.
    """
    bands = _group_by_band(signatures, duplicate_of < 0, band_rows(threshold))
    num_groups = bands.groups.max(initial=-1) + 1
    representative = np.full(num_groups, -1, np.int64)
    # few groups have more than one: those unlike the first
    other_representatives: dict[int, list[int]] = {}

    # entries are sorted by document: those of one are a range
    starts = np.flatnonzero(_starts_group(bands.documents))
    bounds = np.append(starts, len(bands.documents))
    for start, end in pairwise(bounds):
        document = int(bands.documents[start])
        groups = bands.groups[start:end]

        # -1 where a group has no representative yet
        candidates = set(representative[groups].tolist())
        candidates.discard(-1)
        for group in groups.tolist():
            candidates.update(other_representatives.get(group, ()))

        match, estimate = _first_similar(
            signatures,
            document,
            sorted(candidates),
            threshold,
        )
        if match is not None:
            duplicate_of[document] = match
            similarity[document] = estimate
            continue

        # it stays, and represents its groups
        for group in groups.tolist():
            if representative[group] < 0:
                representative[group] = document
            else:
                others = other_representatives.setdefault(group, [])
                others.append(document)


def _first_similar(
    signatures: _Signatures,
    document: int,
    candidates: Sequence[int],
    threshold: float,
) -> tuple[int | None, float]:
    """Return the first candidate whose estimated similarity reaches ``threshold``, and that."""
    signature = signatures.document(document)
    for candidate in candidates:
        is_equal = signatures.document(candidate) == signature
        estimate = np.count_nonzero(is_equal) / HASHES
        if estimate >= threshold:
            return candidate, estimate
    return None, 0.0


def _group_by_band(
    signatures: _Signatures,
    is_candidate: np.ndarray,
    rows: int,
) -> _BandGroups:
    """Group the candidates, bool of shape (documents,), by equal bands of ``rows`` hashes."""
    is_candidate = is_candidate & _has_words(signatures, rows)
    candidates = np.flatnonzero(is_candidate)
    documents = [np.empty(0, np.uint32)]
    groups = [np.empty(0, np.int64)]
    num_groups = 0

    for band in range(HASHES // rows):
        hashes = _band_hashes(signatures, band, rows)
        hashes = hashes[candidates]
        order = np.argsort(hashes, kind="stable")
        starts = _starts_group(hashes[order])

        # alone in its group is who starts one and is followed by a start
        is_alone = starts.copy()
        is_alone[:-1] &= starts[1:]
        shared = order[~is_alone]
        documents.append(candidates[shared].astype(np.uint32))

        # numbered from the last band's on
        shared_starts = starts[~is_alone]
        groups.append(num_groups + np.cumsum(shared_starts) - 1)
        num_groups += np.count_nonzero(shared_starts)

    all_documents = np.concatenate(documents)
    all_groups = np.concatenate(groups)
    order = np.argsort(all_documents, kind="stable")
    return _BandGroups(all_documents[order], all_groups[order])


def _has_words(signatures: _Signatures, rows: int) -> np.ndarray:
    """Return which documents have a word, by their first ``rows`` hashes: bool, (documents,)."""
    has_words = [np.empty(0, bool)]
    for shard in range(len(signatures.starts) - 1):
        hashes = signatures.shard(shard)[:, :rows]
        has_words.append((hashes != _EMPTY).any(axis=1))
    return np.concatenate(has_words)


def _band_hashes(
    signatures: _Signatures,
    band: int,
    rows: int,
) -> np.ndarray:
    """Return a hash of each document's band: uint64, shape (documents,)."""
    starts = signatures.starts
    hashes = np.empty(starts[-1], np.uint64)
    first_row = band * rows
    for shard, (start, end) in enumerate(pairwise(starts)):
        values = signatures.shard(shard)[:, first_row : first_row + rows]
        # the hash of one n-gram of as many words as the band has rows
        words = values.T.astype(np.uint64)
        (hashes[start:end],) = ngrams.ngram_hashes(words, rows)
    return hashes
