"""Text to token ids in bulk: gigatoken's speed, held against the pinned loader on a sample of every shard."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_prep import tokenizer

# Share of the characters that both libraries encode; twice as much of text beyond ASCII, where they could differ.
CHECKED_SHARE = 0.005
_CHECKED_CHARACTERS = 1 << 16  # at most so many of one document


class Differs(Exception):
    """The fast encoder gives other ids than the reference; the argument is how many of the checked documents differ."""


class Encoder:
    """A tokenizer folder's encoder.

    Attributes:
        name: the library that encodes, and its version.
        checked: documents whose ids were compared with the reference's.
        refused: why the fast library cannot read this tokenizer, or None.
    """

    def __init__(self, folder: Path, reference_only: bool = False) -> None:
        """Load the tokenizer in ``folder``; with ``reference_only`` by Hugging Face's library alone.

        Raises:
            UserError: ``folder`` holds no tokenizer.
        """
        self._reference, self._fast, self.refused = _load(folder)
        if reference_only:
            self._fast = None
        library = "tokenizers" if self._fast is None else "gigatoken"
        self.name = f"{library} {version(library)}"
        self.checked = self._seen = self._compared = 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all ``texts``, one after the other, and the number of ids of each.

        No special token is added; one that is spelled out in a text becomes its id, as in Megatron's own tool.

        Raises:
            Differs: a document of the sample has other ids by the reference.
        """
        if self._fast is None:
            return self._by_reference(texts)
        # on this thread: the processes are the parallelism
        layout = self._fast.encode_batch(list(texts), parallel=False).layout
        offsets, ids = np.asarray(layout.offsets.data), np.asarray(layout.content.data)
        self._check(texts)
        return ids[offsets[0] : offsets[-1]], np.diff(offsets)

    def _check(self, texts: Sequence[str]) -> None:
        differing = 0
        for text in texts:
            if self._compared <= self._seen * CHECKED_SHARE * (1 if text.isascii() else 2):
                sample = text[:_CHECKED_CHARACTERS]
                self._compared += len(sample)
                self.checked += 1
                ids = self._reference.encode(sample, add_special_tokens=False).ids
                differing += ids != self._fast.encode(sample).tolist()
            self._seen += len(text)
        if differing:
            raise Differs(differing)

    def _by_reference(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        ids = np.concatenate([np.empty(0, np.uint32), *(np.array(e.ids, dtype=np.uint32) for e in encodings)])
        return ids, lengths


# both take a third of a second, and a process encodes many shards
@cache
def _load(folder: Path) -> tuple[Tokenizer, Any, str | None]:
    """The reference, gigatoken's tokenizer or None, and why it could not be loaded."""
    reference = tokenizer.load(folder)
    import gigatoken

    try:
        return reference, gigatoken.Tokenizer.from_json((folder / "tokenizer.json").read_bytes()), None
    except Exception as error:  # a kind of tokenizer that it does not know; it raises nothing narrower
        return reference, None, " ".join(str(error).split())[:200]
