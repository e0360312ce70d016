"""Numbers of tokens: of pieces, whose sum estimates a prompt's, and of whole prompts, which decide."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from recipes.common.encoder import Encoder, EncoderMismatch, load

_BATCH = 1 << 22  # characters that are encoded at once
# the same words come again and again
_CHECKED_SHARE = 0.001
_REMEMBERED_CHARACTERS = 1 << 28


class Counter:
    """Counts by the fast encoder, and by the reference from the first text on which the two differ."""

    def __init__(self, folder: Path) -> None:
        """Count with the tokenizer in ``folder``; it is loaded at the first count.

        Raises:
            UserError: at the first count: ``folder`` holds no tokenizer.
        """
        self._folder = folder
        self._reference_only = False

    def __getstate__(self) -> tuple[Path, bool]:
        return self._folder, self._reference_only

    def __setstate__(self, state: tuple[Path, bool]) -> None:
        self._folder, self._reference_only = state

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._folder, self._reference_only, _CHECKED_SHARE, _REMEMBERED_CHARACTERS)

    @cached_property
    def added(self) -> int:
        """Tokens that the tokenizer adds to every prompt: begin of text, end of text."""
        return load(self._folder).num_special_tokens_to_add(False)

    def counts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each of ``texts`` by itself, int64, without those that are added."""
        if not texts:
            return np.zeros(0, np.int64)
        parts, start, size = [], 0, 0
        for stop, text in enumerate(texts, 1):
            size += len(text)
            if size > _BATCH or stop == len(texts):
                parts.append(self._encoded(texts[start:stop]))
                start, size = stop, 0
        return np.concatenate(parts)

    def count(self, text: str) -> int:
        """Return the number of tokens of the prompt ``text``, with those that are added."""
        return int(self.counts([text])[0]) + self.added

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        try:
            return self._encoder.encode(texts)[1].astype(np.int64)
        except EncoderMismatch:
            self._reference_only = True
            del self._encoder
            return self._encoder.encode(texts)[1].astype(np.int64)
