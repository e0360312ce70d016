"""Exact and near duplicates: signatures of every text, and which documents go in favour of which.

The signatures (datasketch's MinHash) lie on disk; datasketch's own MinHashLSH would hold them in memory as Python
objects, some kilobytes a document, so the bands are compared here by sorting, one band at a time.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.quality import ngrams

HASHES = 128  # of a signature: the standard error of an estimated similarity of 0.8 is 0.035
NGRAM_WORDS = 5
_RECALL = 0.9  # least probability that a pair at the threshold shares a band
_EMPTY = np.uint32(2**32 - 1)  # every hash of the signature of a text without words
_BATCH = 1024  # n-grams hashed at a time: bounds the memory of a long text

IDENTITY = np.dtype([("high", "<u8"), ("low", "<u8"), ("input", "<u4"), ("record", "<u8")])
"""A document: its text's hash, the index of its input and its record number there."""

REMOVAL = np.dtype(
    [
        ("document", "<u8"),
        ("high", "<u8"),
        ("low", "<u8"),
        ("input", "<u4"),
        ("record", "<u8"),
        ("similarity", "<f4"),
    ]
)
"""A document to remove: its number in the shard, its text's hash, the document kept; similarity 2 says equal text."""

EXACT = 2.0


def text_hash(text: str) -> tuple[int, int]:
    """Return the halves of the xxh3-128 hash of ``text`` in UTF-8.

    Two different texts among 10^10 share one with probability 1.5e-19.
    """
    value = xxhash.xxh3_128_intdigest(text.encode())
    return value >> 64, value & (2**64 - 1)


def signature(text: str) -> np.ndarray:
    """Return the MinHash signature of the set of word 5-grams of ``text``: uint32, shape (128,).

    A text of fewer words is one n-gram; one without words resembles no other.
    """
    from datasketch import MinHash

    hashes = ngrams.word_hashes(ngrams.words(text))
    found = ngrams.ngram_hashes(hashes, max(1, min(NGRAM_WORDS, len(hashes))))
    sketch = MinHash(HASHES, permutations=_permutations(), scheme="affine32", hashfunc=int)
    values = (found >> np.uint64(32)).tolist()
    for start in range(0, len(values), _BATCH):
        sketch.update_batch(values[start : start + _BATCH])
    return sketch.hashvalues


@lru_cache(1)
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(HASHES, seed=1, scheme="affine32").permutations


def band_rows(threshold: float) -> int:
    """Return how many hashes make a band: the most with which a pair at ``threshold`` shares one, 9 times of 10.

    With b bands of r hashes that is 1 - (1 - s^r)^b at similarity s (Leskovec, Rajaraman and Ullman, Mining of Massive
    Datasets, 3.4.2): at 0.8 there are 16 bands of 8, at 0.9 a pair is found with 0.9999.
    """
    rows = HASHES // 2
    while rows > 1 and 1 - (1 - threshold**rows) ** (HASHES // rows) < _RECALL:
        rows //= 2
    return rows


def decide(
    signatures: list[Path],
    target: list[Path],
    *,
    exact: bool,
    threshold: float | None,
    say: Callable[[str], None],
) -> None:
    """Write which documents of each shard go, as :data:`REMOVAL`, in order.

    The first of equal texts stays. Of the others one goes if its estimated similarity to an earlier one *that stays* is
    at least ``threshold``; nothing goes for resembling what is gone.

    Args:
        signatures: per shard, PATH.identities and, with ``threshold``, PATH.minhash.
        target: per shard, the file to write.
        exact: look for equal texts.
        threshold: Jaccard similarity of the sets of word 5-grams; None looks for no near duplicates.
        say: receives one line.
    """
    sizes = [
        file.with_suffix(".identities").stat().st_size // IDENTITY.itemsize for file in signatures
    ]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    identities = np.empty(starts[-1], IDENTITY)
    for file, start, size in zip(signatures, starts, sizes, strict=False):
        identities[start : start + size] = np.fromfile(file.with_suffix(".identities"), IDENTITY)
    kept_for = np.full(len(identities), -1, np.int64)
    similarity = np.full(len(identities), EXACT, np.float32)
    if exact:
        order = np.lexsort((identities["low"], identities["high"]))
        _, first = _groups(identities[["high", "low"]][order])
        kept_for[order] = np.where(order[first] == order, -1, order[first])
        del order, first
    found = np.count_nonzero(kept_for >= 0)
    if threshold is not None:
        _near(signatures, starts, kept_for, similarity, threshold)
    near = np.count_nonzero(kept_for >= 0) - found
    say(f"duplicates: {found:,} exact and {near:,} near among {len(identities):,} documents")
    for file, start, size in zip(target, starts, sizes, strict=False):
        gone = start + np.flatnonzero(kept_for[start : start + size] >= 0)
        rows = np.empty(len(gone), REMOVAL)
        rows["document"] = gone - start
        rows["similarity"] = similarity[gone]
        for field in ("high", "low"):
            rows[field] = identities[field][gone]
        for field in ("input", "record"):
            rows[field] = identities[field][kept_for[gone]]
        rows.tofile(file)


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted values: where a group of equal ones begins (bool), and the position of each one's first."""
    begins = np.ones(len(values), bool)
    begins[1:] = values[1:] != values[:-1]
    return begins, np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))


def _near(
    signatures: list[Path],
    starts: np.ndarray,
    kept_for: np.ndarray,
    similarity: np.ndarray,
    threshold: float,
) -> None:
    """Fill in ``kept_for`` and ``similarity`` of near duplicates, in input order."""

    @lru_cache(64)  # of maybe a thousand, each an open file
    def minhash(shard: int) -> np.ndarray:
        file = signatures[shard].with_suffix(".minhash")
        if not file.stat().st_size:
            return np.empty((0, HASHES), np.uint32)
        return np.memmap(file, np.uint32, "r").reshape(-1, HASHES)

    def of(document: int) -> np.ndarray:
        shard = int(np.searchsorted(starts, document, "right")) - 1
        return minhash(shard)[document - starts[shard]]

    documents, groups = _company(minhash, starts, kept_for < 0, band_rows(threshold))
    # of each group the first document that stays, and in few groups there are more: those unlike the first
    stays = np.full(groups.max(initial=-1) + 1, -1, np.int64)
    more: dict[int, list[int]] = {}
    bounds = np.append(np.flatnonzero(_groups(documents)[0]), len(documents))
    for start, stop in pairwise(bounds):
        document, shared = int(documents[start]), groups[start:stop]
        firsts = stays[shared]
        further = {other for group in shared.tolist() for other in more.get(group, ())}
        mine = of(document)
        for other in sorted({*firsts[firsts >= 0].tolist(), *further}):
            estimate = np.count_nonzero(of(other) == mine) / HASHES
            if estimate >= threshold:
                kept_for[document], similarity[document] = other, estimate
                break
        else:
            stays[shared[firsts < 0]] = document
            for group in shared[firsts >= 0].tolist():
                more.setdefault(group, []).append(document)


def _company(
    minhash: Callable[[int], np.ndarray], starts: np.ndarray, wanted: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The documents that share a band with another, with the number of that group, sorted by document."""
    documents, groups, number = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], 0
    column = np.empty(starts[-1], np.uint64)
    for band in range(HASHES // rows):
        for shard in range(len(starts) - 1):
            hashes = np.asarray(minhash(shard)[:, band * rows : (band + 1) * rows])
            column[starts[shard] : starts[shard + 1]] = ngrams.ngram_hashes(
                hashes.T.astype(np.uint64), rows
            )[0]
            if band == 0:
                wanted[starts[shard] : starts[shard + 1]] &= (hashes != _EMPTY).any(axis=1)
        chosen = np.flatnonzero(wanted)
        chosen = chosen[np.argsort(column[chosen], kind="stable")]
        begins, _ = _groups(column[chosen])
        shared = ~(begins & np.append(begins[1:], True)[: len(begins)])
        documents.append(chosen[shared].astype(np.uint32))
        groups.append(number + np.cumsum(begins[shared]) - 1)
        number += np.count_nonzero(begins & shared)
    found = np.concatenate(documents)
    order = np.argsort(found, kind="stable")
    return found[order], np.concatenate(groups)[order]
