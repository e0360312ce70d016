"""A folder of packed conversations: its sequences, read from mapped files."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from recipes.common.errors import UserError
from recipes.runs.packed_manifest import MANIFEST, REMEDY, read_packed_manifest

IDS = "ids.npy"
LOSS_MASK = "loss_mask.npy"
CUMULATIVE_LENGTHS = "cumulative_lengths.npy"
FIRST_CONVERSATIONS = "first_conversations.npy"

# of a large file, the blocks that tell it apart from another
_DIGEST_BLOCKS = 64
_DIGEST_BLOCK_BYTES = 2**16

_DTYPES = {
    IDS: np.dtype(np.int32),
    LOSS_MASK: np.dtype(bool),
    CUMULATIVE_LENGTHS: np.dtype(np.int64),
    FIRST_CONVERSATIONS: np.dtype(np.int64),
}


@dataclass(frozen=True)
class PackedSequence:
    """Whole conversations one after the other.

    Positions, boundaries and what attends to what all follow from ``cumulative_lengths``.

    Attributes:
        ids: int32, shape (tokens,).
        loss_mask: bool, shape (tokens,): whether the model learns to predict the token.
        cumulative_lengths: int64, shape (conversations + 1,): where each begins, and the end; 0
            first.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    cumulative_lengths: np.ndarray

    def conversation_numbers(self) -> np.ndarray:
        """Return the number, from 0, of each token's conversation: shape (tokens,)."""
        lengths = np.diff(self.cumulative_lengths)
        return np.repeat(np.arange(len(lengths)), lengths)

    def positions(self) -> np.ndarray:
        """Return each token's position in its conversation: shape (tokens,)."""
        starts = self.cumulative_lengths[self.conversation_numbers()]
        return np.arange(len(self.ids)) - starts


class PackedFolder:
    """A folder that ``granite41 data pack`` wrote; its files are mapped, not read.

    Attributes:
        folder: its path.
        manifest: of the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Map the files.

        Raises:
            UserError: a file is missing, damaged, or not of the size that the manifest states.
        """
        self.folder = folder
        self.manifest = read_packed_manifest(folder)
        self._ids = _map(folder / IDS, self.manifest.tokens)
        self._loss_mask = _map(folder / LOSS_MASK, self.manifest.tokens)
        self._starts = _map_bounds(
            folder / CUMULATIVE_LENGTHS, self.manifest.conversations, self.manifest.tokens
        )
        self._first = _map_bounds(
            folder / FIRST_CONVERSATIONS, self.manifest.sequences, self.manifest.conversations
        )
        if self.longest() > self.manifest.sequence_length:
            raise UserError(
                f"{folder}: holds a sequence of {self.longest():,} tokens, expected at most "
                f"{self.manifest.sequence_length:,} by {MANIFEST}; {REMEDY}"
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self._first) - 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the manifest and the files: of 4 MiB all over a larger one."""
        digest = hashlib.sha256((self.folder / MANIFEST).read_bytes())
        for array in (self._starts, self._first, self._ids, self._loss_mask):
            content = array.view(np.uint8)
            step = max(_DIGEST_BLOCK_BYTES, len(content) // _DIGEST_BLOCKS)
            for start in range(0, len(content), step):
                digest.update(content[start : start + _DIGEST_BLOCK_BYTES].tobytes())
        return digest.hexdigest()

    def longest(self, multiple: int = 1) -> int:
        """Return the tokens of the longest sequence, each conversation filled to a multiple."""
        lengths = -(-np.diff(self._starts) // multiple) * multiple
        return int(np.add.reduceat(lengths, self._first[:-1]).max())

    def __getitem__(self, index: int) -> PackedSequence:
        """Return a sequence by its number, from 0.

        Raises:
            UserError: the tokenizer has no such ids.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        first = self._first[index]
        last = self._first[index + 1]
        bounds = np.array(self._starts[first : last + 1])
        tokens = slice(bounds[0], bounds[-1])
        ids = self._ids[tokens]
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self.manifest.tokenizer.vocab_size:
            raise UserError(
                f"{self.folder / IDS}: sequence {index + 1} has ids from {lowest} to {highest}, "
                f"beyond the tokenizer's {self.manifest.tokenizer.vocab_size:,}; {REMEDY}"
            )
        return PackedSequence(
            ids=ids,
            loss_mask=self._loss_mask[tokens],
            cumulative_lengths=bounds - bounds[0],
        )


def _map_bounds(file: Path, pieces: int, end: int) -> np.ndarray:
    """Map where pieces that cover 0 to ``end`` begin, and the end."""
    bounds = _map(file, pieces + 1)
    if bounds[0] != 0 or bounds[-1] != end or not (np.diff(bounds) > 0).all():
        raise UserError(f"{file}: does not rise from 0 to {end:,} by {MANIFEST}; {REMEDY}")
    return bounds


def _map(file: Path, length: int) -> np.ndarray:
    try:
        array = open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; {REMEDY}") from error
    except Exception as error:  # numpy evaluates the header, which may fail in any way
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: is no array of numpy ({reason:.100}); {REMEDY}") from error
    expected = _DTYPES[file.name]
    if array.dtype != expected or array.shape != (length,):
        raise UserError(
            f"{file}: holds {array.dtype} of shape {array.shape}, expected {expected} of shape "
            f"({length},) by {MANIFEST}; {REMEDY}"
        )
    return array
