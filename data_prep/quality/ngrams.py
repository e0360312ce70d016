"""Words and hashes of word n-grams, for near duplicates and for contamination alike."""

import string
import unicodedata

import numpy as np
import regex
import xxhash

# odd, so that no position of an n-gram is lost
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# regex and not re: its \w holds the marks without which the scripts of India fall apart
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[^\W\p{Han}\p{Hiragana}\p{Katakana}]+")
# a translation of bytes that leaves words of ASCII and makes everything else a space
_WORD_BYTES = f"{string.ascii_letters}{string.digits}_".encode()
_OTHER_BYTES = bytes(set(range(256)) - set(_WORD_BYTES))
_ASCII = bytes.maketrans(_OTHER_BYTES, b" " * len(_OTHER_BYTES))


def words(text: str) -> list[bytes]:
    """Return the words of ``text`` in UTF-8: lower-case NFC runs of letters, digits, marks and _.

    Chinese and Japanese are written without spaces: each of their characters counts as a word.
    """
    # the same words, five times faster
    if text.isascii():
        lower = text.lower().encode()
        return lower.translate(_ASCII).split()

    normalized = unicodedata.normalize("NFC", text).lower()
    words_of_text = _WORD.findall(normalized)
    # encoding each word by itself would take longer
    return " ".join(words_of_text).encode().split()


def word_hashes(words: list[bytes]) -> np.ndarray:
    """Return the words' xxh3-64 hashes: uint64, shape (words,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, words), np.uint64, len(words))


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Return the hashes of all n-grams, each a polynomial of the words' hashes modulo 2^64.

    Args:
        hashes: of the words, uint64, shape (words, ...).
        n: words of an n-gram.

    Returns:
        uint64, shape (words - n + 1, ...), empty for fewer words.
    """
    count = max(0, len(hashes) - n + 1)
    polynomials = np.zeros_like(hashes[:count])
    for position in range(n):
        polynomials *= _MULTIPLIER
        polynomials += hashes[position : position + count]
    return polynomials
