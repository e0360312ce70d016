"""Words and hashes of word n-grams, for near duplicates and for contamination alike."""

import unicodedata

import numpy as np
import regex
import xxhash

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no position of an n-gram is lost
# regex and not re: its \w holds the marks without which the scripts of India fall apart
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[^\W\p{Han}\p{Hiragana}\p{Katakana}]+")
_ASCII = (
    bytes(code if chr(code).isalnum() or chr(code) == "_" else 32 for code in range(128))
    + b" " * 128
)


def words(text: str) -> list[bytes]:
    """Return the words of ``text`` in UTF-8: NFC, lower case, runs of letters, digits, marks and underscores.

    Chinese and Japanese are written without spaces: each of their characters counts as a word.
    """
    if text.isascii():  # the same words, five times faster
        return text.lower().encode().translate(_ASCII).split()
    found = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return " ".join(found).encode().split()  # encoding each word would take longer


def word_hashes(found: list[bytes]) -> np.ndarray:
    """Return the words' xxh3-64 hashes: uint64, shape (words,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, found), np.uint64, len(found))


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Return the hashes of all n-grams: uint64, shape (words - n + 1, ...), empty where there are fewer than n words.

    A polynomial of the words' hashes modulo 2^64.
    """
    count = max(0, len(hashes) - n + 1)
    found = np.zeros((count, *hashes.shape[1:]), np.uint64)
    for position in range(n):
        found *= _MULTIPLIER
        found += hashes[position : position + count]
    return found
