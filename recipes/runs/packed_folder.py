"""A folder of packed conversations: its manifest, and its sequences read from mapped files."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from recipes.common.errors import UserError
from recipes.common.json_files import read_record, write_record
from recipes.common.tokenizer_files import TokenizerIdentity
from recipes.spec.sft import SftRecipe

MANIFEST = "manifest.json"
IDS = "ids.npy"
LOSS_MASK = "loss_mask.npy"
CUMULATIVE_LENGTHS = "cumulative_lengths.npy"
FIRST_CONVERSATIONS = "first_conversations.npy"

# of a large file, the blocks that tell it apart from another
_DIGEST_BLOCKS = 64
_DIGEST_BLOCK_BYTES = 2**16

_REMEDY = "pack the conversations again with `granite41 data pack`"
_DTYPES = {
    IDS: np.dtype(np.int32),
    LOSS_MASK: np.dtype(bool),
    CUMULATIVE_LENGTHS: np.dtype(np.int64),
    FIRST_CONVERSATIONS: np.dtype(np.int64),
}


@dataclass(frozen=True)
class PackedManifest:
    """The manifest of a packed folder.

    Attributes:
        sequences: how many.
        sequence_length: the most tokens of one.
        conversations, tokens: in all sequences; no token is a pad.
        trained_tokens: of them, those that the loss counts.
        longest: tokens of the longest conversation.
        left_out: reason -> records; ``left_out.jsonl`` lists them.
        special_tokens: special token -> how often a conversation spelled it out, and it was
            escaped.
        unread_keys: key of a message that templates do not read -> messages.
        sources: input -> conversations.
        passed_over: reason -> files of the inputs that were not read.
        tokenizer: that encoded all of them.
        template_sha256: of the chat template, in hex.
    """

    sequences: int
    sequence_length: int
    conversations: int
    tokens: int
    trained_tokens: int
    longest: int
    left_out: dict[str, int]
    special_tokens: dict[str, int]
    unread_keys: dict[str, int]
    sources: dict[str, int]
    passed_over: dict[str, int]
    tokenizer: TokenizerIdentity
    template_sha256: str

    @property
    def efficiency(self) -> float:
        """The share of the sequences' room that tokens fill."""
        return self.tokens / (self.sequences * self.sequence_length)

    @property
    def trained_share(self) -> float:
        """The share of the tokens that are trained."""
        return self.trained_tokens / self.tokens

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, whole or not at all."""
        write_record(folder / MANIFEST, self)


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
                f"{self.manifest.sequence_length:,} by {MANIFEST}; {_REMEDY}"
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
                f"beyond the tokenizer's {self.manifest.tokenizer.vocab_size:,}; {_REMEDY}"
            )
        return PackedSequence(
            ids=ids,
            loss_mask=self._loss_mask[tokens],
            cumulative_lengths=bounds - bounds[0],
        )


def read_packed_manifest(folder: Path) -> PackedManifest:
    """Return the manifest of a packed folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_record(PackedManifest, folder / MANIFEST, _REMEDY)


def num_held_out(sequences: int, validation_share: float) -> int:
    """Return how many sequences are held out of training: a share, at least one."""
    return max(1, round(validation_share * sequences))


def check_packed(folder: Path, manifest: PackedManifest, recipe: SftRecipe) -> None:
    """Check by the manifest alone that a stage can train on a packed folder.

    Raises:
        UserError: its sequences are longer than the stage's or fewer than a batch of it, or its
            tokenizer has more tokens than the model has rows.
    """
    length = recipe.sequence_length.value
    if manifest.sequence_length > length:
        raise UserError(
            f"{folder}: packed into sequences of {manifest.sequence_length:,} tokens, but "
            f"{recipe.stage} reads {length:,}; pack again with `--sequence-length {length}`"
        )

    rows = recipe.model.vocab_size.value
    if manifest.tokenizer.vocab_size > rows:
        raise UserError(
            f"{folder}: its tokenizer has ids up to {manifest.tokenizer.vocab_size - 1:,} but the "
            f"model only {rows:,} rows; pack again with the tokenizer of the model"
        )

    held_out = num_held_out(manifest.sequences, recipe.validation_share.value)
    trained = manifest.sequences - held_out
    batch = recipe.global_batch_size.value
    if trained < batch:
        raise UserError(
            f"{folder}: {manifest.sequences:,} sequences, of which {held_out:,} are held out, are "
            f"fewer than a batch of {batch:,}; pack more conversations, or lower "
            f"global_batch_size"
        )


def _map_bounds(file: Path, pieces: int, end: int) -> np.ndarray:
    """Map where pieces that cover 0 to ``end`` begin, and the end."""
    bounds = _map(file, pieces + 1)
    if bounds[0] != 0 or bounds[-1] != end or not (np.diff(bounds) > 0).all():
        raise UserError(f"{file}: does not rise from 0 to {end:,} by {MANIFEST}; {_REMEDY}")
    return bounds


def _map(file: Path, length: int) -> np.ndarray:
    try:
        array = open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; {_REMEDY}") from error
    except Exception as error:  # numpy evaluates the header, which may fail in any way
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: is no array of numpy ({reason:.100}); {_REMEDY}") from error
    expected = _DTYPES[file.name]
    if array.dtype != expected or array.shape != (length,):
        raise UserError(
            f"{file}: holds {array.dtype} of shape {array.shape}, expected {expected} of shape "
            f"({length},) by {MANIFEST}; {_REMEDY}"
        )
    return array
