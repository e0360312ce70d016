"""Numbers of tokens: of pieces, whose sum estimates a prompt's, and of whole prompts."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from recipes.common.encoder import Encoder
from recipes.common.tokenizer_files import load

# characters that are encoded at once
_BATCH = 1 << 22
# little is compared with the reference, much is remembered: the same words come again and again
_CHECKED_SHARE = 0.001
_REMEMBERED_CHARACTERS = 1 << 28


class Counter:
    """Counts by the fast encoder, and by the reference from the first text on which they differ."""

    def __init__(self, folder: Path) -> None:
        """Count with the tokenizer in ``folder``; it is loaded at the first count.

        Raises:
            UserError: at the first count: ``folder`` holds no tokenizer.
        """
        self._folder = folder
        self._reference_only = False

    # a worker process loads the tokenizer itself
    def __getstate__(self) -> tuple[Path, bool]:
        return self._folder, self._encoder.reference_only

    def __setstate__(self, state: tuple[Path, bool]) -> None:
        self._folder, self._reference_only = state

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(
            self._folder,
            self._reference_only,
            _CHECKED_SHARE,
            _REMEMBERED_CHARACTERS,
        )

    @cached_property
    def added(self) -> int:
        """Tokens that the tokenizer adds to every prompt: begin of text, end of text."""
        return load(self._folder).num_special_tokens_to_add(False)

    def counts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each of ``texts`` by itself, without added ones.

        Args:
            texts: pieces of a prompt, in any number.

        Returns:
            int64, as long as ``texts``.
        """
        if not texts:
            return np.zeros(0, np.int64)

        # batches of whole texts
        batches = []
        start = 0
        size = 0
        for stop, text in enumerate(texts, 1):
            size += len(text)
            if size > _BATCH or stop == len(texts):
                batches.append(self._encode(texts[start:stop]))
                start = stop
                size = 0
        return np.concatenate(batches)

    def count(self, text: str) -> int:
        """Return the number of tokens of the prompt ``text``, with those that are added."""
        (tokens,) = self.counts([text]).tolist()
        return tokens + self.added

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        encoder = self._encoder
        _, counts = encoder.run(lambda: encoder.encode(texts))
        return counts.astype(np.int64)
