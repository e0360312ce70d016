"""Text to token ids in bulk: gigatoken's speed, held against the pinned loader on a sample of every shard."""

import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from recipes.common.errors import UserError

# Share of the characters that both libraries encode; twice as much of text beyond ASCII, where they could differ.
CHECKED_SHARE = 0.005
_CHECKED_CHARACTERS = 1 << 16  # at most so many of one document
_REMEMBERED_CHARACTERS = 3 << 24  # of text after which gigatoken's memory of words is cleared


def load(folder: Path) -> Tokenizer:
    """Load ``folder``'s tokenizer.json: the one loader of this project, whatever class tokenizer_config.json names.

    Raises:
        UserError: the file is missing or no tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            f"{file}: no such file, expected a Hugging Face tokenizer; name a folder that holds one"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{file}: is no Hugging Face tokenizer ({reason}); fetch it again or name another"
        ) from error


class Differs(Exception):
    """The fast encoder gives other ids than the reference; the argument is how many of the checked documents differ."""


class Encoder:
    """A tokenizer folder's encoder.

    Attributes:
        name: the library that encodes, and its version.
        checked: documents whose ids were compared with the reference's.
        newer: documents that the reference encoded for a character newer than Python's Unicode tables: what is a letter
            is read from Unicode, and the two libraries have different versions of it.
        refused: why the fast library cannot read this tokenizer, or None.
    """

    def __init__(
        self,
        folder: Path,
        reference_only: bool = False,
        checked_share: float | None = None,
        remembered_characters: int = _REMEMBERED_CHARACTERS,
    ) -> None:
        """Load the tokenizer in ``folder``; with ``reference_only`` by Hugging Face's library alone.

        Args:
            checked_share: in the place of :data:`CHECKED_SHARE`.
            remembered_characters: of text, after which gigatoken's memory of words is cleared.

        Raises:
            UserError: ``folder`` holds no tokenizer.
        """
        self._reference, self._fast, self.refused = _load(folder)
        if reference_only:
            self._fast = None
        library = "tokenizers" if self._fast is None else "gigatoken"
        self.name = f"{library} {version(library)}"
        self._checked_share, self._remembered = checked_share, remembered_characters
        self.checked = self.newer = self._seen = self._compared = 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all ``texts``, one after the other, and the number of ids of each.

        No special token is added; one that is spelled out in a text becomes its id, as in Megatron's own tool.

        Raises:
            Differs: a document of the sample has other ids by the reference.
        """
        if self._fast is None:
            return self._by_reference(texts)
        ids, offsets = self._fast.encode_batch(texts, self._remembered)
        newer = {position for position, text in enumerate(texts) if _has_newer_characters(text)}
        self._check(
            self._fast, [text for position, text in enumerate(texts) if position not in newer]
        )
        if not newer:
            return ids[offsets[0] : offsets[-1]], np.diff(offsets)
        documents = [ids[start:stop] for start, stop in pairwise(offsets)]
        for position in newer:
            documents[position], _ = self._by_reference([texts[position]])
        self.newer += len(newer)
        return np.concatenate(documents), np.array([len(document) for document in documents])

    def _check(self, fast: "_Fast", texts: Sequence[str]) -> None:
        differing = 0
        for text in texts:
            share = CHECKED_SHARE if self._checked_share is None else self._checked_share
            if self._compared <= self._seen * share * (1 if text.isascii() else 2):
                sample = text[:_CHECKED_CHARACTERS]
                self._compared += len(sample)
                self.checked += 1
                ids = self._reference.encode(sample, add_special_tokens=False).ids
                differing += ids != fast.encode(sample).tolist()
            self._seen += len(text)
        if differing:
            raise Differs(differing)

    def _by_reference(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        ids = np.concatenate(
            [np.empty(0, np.uint32), *(np.array(e.ids, dtype=np.uint32) for e in encodings)]
        )
        return ids, lengths


class _Fast:
    """gigatoken's tokenizer, made anew now and then: it remembers every word that it has met."""

    def __init__(self, file: Path) -> None:
        self._json = file.read_bytes()
        self._tokenizer = self._made()

    def _made(self) -> Any:
        import gigatoken

        self._seen = 0
        return gigatoken.Tokenizer.from_json(self._json)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text."""
        return self._tokenizer.encode(text)

    def encode_batch(
        self, texts: Sequence[str], remembered_characters: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of ``texts``, and where each begins in them, and the end."""
        if self._seen > remembered_characters:
            del self._tokenizer  # before the next one needs its room
            self._tokenizer = self._made()
        self._seen += sum(map(len, texts))
        if len(texts) == 1:  # the making of a batch takes as long as a hundred kilobytes
            ids = self._tokenizer.encode(texts[0])
            return ids, np.array([0, len(ids)])
        # on this thread: the processes are the parallelism
        layout = self._tokenizer.encode_batch(list(texts), parallel=False).layout
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data)


# both take a third of a second, and a process encodes many shards
@cache
def _load(folder: Path) -> tuple[Tokenizer, _Fast | None, str | None]:
    """The reference, gigatoken's tokenizer or None, and why it could not be loaded."""
    reference = load(folder)
    try:
        return reference, _Fast(folder / "tokenizer.json"), None
    except (
        Exception
    ) as error:  # a kind of tokenizer that gigatoken does not know; it raises nothing narrower
        return reference, None, " ".join(str(error).split())[:200]


@cache
def _newer() -> np.ndarray:
    """Whether each code point is newer than Python's Unicode tables, or none: shape (0x110000,)."""
    return np.array([unicodedata.category(chr(code)) == "Cn" for code in range(sys.maxunicode + 1)])


def _has_newer_characters(text: str) -> bool:
    if text.isascii():
        return False
    return bool(_newer()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())
