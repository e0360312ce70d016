"""Bulk tokenization with gigatoken, spot-checked against ``tokenizers`` on a sample."""

import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from recipes.common.tokenizer_files import TOKENIZER, load

Result = TypeVar("Result")
# Share of the characters that both libraries encode; twice as much of text beyond ASCII, where
# they could differ.
CHECKED_SHARE = 0.005
_CHECKED_CHARACTERS = 1 << 16  # at most, of one document
_CACHE_LIMIT = 3 << 24  # characters of text after which gigatoken's cache of words is cleared


class EncoderMismatch(Exception):
    """gigatoken's ids differ from the reference's; the argument counts the differing documents."""


class Encoder:
    """A tokenizer folder's encoder: gigatoken, or the reference where gigatoken cannot be used.

    Attributes:
        reference_only: whether Hugging Face's library encodes alone.
        checked: documents whose ids were compared with the reference's.
        differing: of these, documents with other ids.
        fallback_documents: documents that the reference encoded for a character newer than Python's
            Unicode tables: what is a letter is read from Unicode, and the two libraries have
            different versions of it.
        load_error: why gigatoken cannot read this tokenizer, or None.
    """

    def __init__(
        self,
        folder: Path,
        reference_only: bool = False,
        checked_share: float | None = None,
        cache_limit: int = _CACHE_LIMIT,
    ) -> None:
        """Load the tokenizer in ``folder``.

        Args:
            folder: holds tokenizer.json.
            reference_only: use Hugging Face's library alone.
            checked_share: share of the characters that are compared; :data:`CHECKED_SHARE` if None.
            cache_limit: characters of text after which gigatoken's cache of words is cleared.

        Raises:
            UserError: ``folder`` holds no tokenizer.
        """
        self._reference, self._fast, self.load_error = _load(folder)
        self.reference_only = reference_only or self._fast is None
        self._checked_share = checked_share
        self._cache_limit = cache_limit
        self.checked = 0
        self.differing = 0
        self.fallback_documents = 0
        self._characters = 0
        self._compared_characters = 0

    @property
    def name(self) -> str:
        """The library that encodes, and its version."""
        library = "tokenizers" if self.reference_only else "gigatoken"
        return f"{library} {version(library)}"

    def run(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which calls :meth:`encode`.

        It is called again, and everything encoded by the reference, where gigatoken's ids differ.
        """
        try:
            return work()
        except EncoderMismatch as mismatch:
            self.differing = mismatch.args[0]
            self.reference_only = True
            self.fallback_documents = 0
            return work()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all ``texts``, one after the other, and the number of ids of each.

        No special token is added; one spelled out in a text becomes its id, as in Megatron's tool.

        Raises:
            EncoderMismatch: a document of the sample has other ids by the reference.
        """
        if self.reference_only or self._fast is None:
            return self._encode_by_reference(texts)
        ids, offsets = self._fast.encode_batch(texts, self._cache_limit)

        # the libraries may differ in these without an error, so they are not compared
        fallback = []
        compared = []
        for position, text in enumerate(texts):
            if _has_newer_characters(text):
                fallback.append(position)
            else:
                compared.append(text)
        self._check(self._fast, compared)
        if not fallback:
            return ids[offsets[0] : offsets[-1]], np.diff(offsets)

        # replace the ids of those documents by the reference's
        documents = [ids[start:stop] for start, stop in pairwise(offsets)]
        for position in fallback:
            documents[position], _ = self._encode_by_reference([texts[position]])
        self.fallback_documents += len(fallback)
        lengths = [len(document) for document in documents]
        return np.concatenate(documents), np.array(lengths)

    def _check(self, fast: "_GigatokenEncoder", texts: Sequence[str]) -> None:
        """Compare a sample of ``texts``, taken evenly over all characters seen so far."""
        share = self._checked_share
        if share is None:
            share = CHECKED_SHARE
        differing = 0
        for text in texts:
            text_share = share
            if not text.isascii():
                text_share *= 2
            # whenever the compared characters fall behind their share
            if self._compared_characters <= self._characters * text_share:
                sample = text[:_CHECKED_CHARACTERS]
                self._compared_characters += len(sample)
                self.checked += 1
                ids = self._reference.encode(sample, add_special_tokens=False).ids
                differing += ids != fast.encode(sample).tolist()
            self._characters += len(text)
        if differing:
            raise EncoderMismatch(differing)

    def _encode_by_reference(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.array(list(map(len, encodings)), dtype=np.int64)
        # concatenate takes no empty list
        documents = [np.empty(0, np.uint32)]
        for encoding in encodings:
            documents.append(np.array(encoding.ids, dtype=np.uint32))
        return np.concatenate(documents), lengths


class _GigatokenEncoder:
    """gigatoken's tokenizer, replaced now and then, as its cache of words only grows."""

    def __init__(self, file: Path) -> None:
        self._json = file.read_bytes()
        self._tokenizer = self._new_tokenizer()

    def _new_tokenizer(self) -> Any:
        import gigatoken

        self._characters = 0
        return gigatoken.Tokenizer.from_json(self._json)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text."""
        return self._tokenizer.encode(text)

    def encode_batch(self, texts: Sequence[str], cache_limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of ``texts``; and the offset of each in them, and the end's."""
        if self._characters > cache_limit:
            del self._tokenizer  # frees its memory before the next one needs it
            self._tokenizer = self._new_tokenizer()
        self._characters += sum(map(len, texts))

        if len(texts) == 1:  # a batch costs as much as encoding a hundred kilobytes
            ids = self._tokenizer.encode(texts[0])
            return ids, np.array([0, len(ids)])
        # on this thread: the worker processes are the parallelism
        layout = self._tokenizer.encode_batch(list(texts), parallel=False).layout
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data)


# both take a third of a second, and a process encodes many shards
@cache
def _load(folder: Path) -> tuple[Tokenizer, _GigatokenEncoder | None, str | None]:
    """Return the reference, gigatoken's encoder or None, and why that could not be loaded."""
    reference = load(folder)
    try:
        return reference, _GigatokenEncoder(folder / TOKENIZER), None
    except Exception as error:  # an unknown kind of tokenizer; gigatoken raises nothing narrower
        reason = " ".join(str(error).split())
        return reference, None, reason[:200]


@cache
def _is_newer_code_point() -> np.ndarray:
    """Whether each code point is unassigned in Python's Unicode tables: shape (0x110000,)."""
    codes = range(sys.maxunicode + 1)
    # Cn: not assigned
    return np.array([unicodedata.category(chr(code)) == "Cn" for code in codes])


def _has_newer_characters(text: str) -> bool:
    if text.isascii():
        return False
    # UTF-32 is one number a character, which indexes the table
    code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return bool(_is_newer_code_point()[code_points].any())
