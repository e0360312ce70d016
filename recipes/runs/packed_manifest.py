"""The manifest of a folder of packed conversations, and whether a stage can train on them."""

from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.json_files import read_record, write_record
from recipes.common.tokenizer_files import TokenizerIdentity
from recipes.spec.sft import SftRecipe

MANIFEST = "manifest.json"
REMEDY = "pack the conversations again with `granite41 data pack`"


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


def read_packed_manifest(folder: Path) -> PackedManifest:
    """Return the manifest of a packed folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_record(PackedManifest, folder / MANIFEST, REMEDY)


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
