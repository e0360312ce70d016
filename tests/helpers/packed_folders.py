"""Folders of packed sequences, without conversations and their template."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipes.common.tokenizer_files import TokenizerIdentity
from recipes.runs.packed_folder import (
    CUMULATIVE_LENGTHS,
    FIRST_CONVERSATIONS,
    IDS,
    LOSS_MASK,
    PackedFolder,
    PackedSequence,
)
from recipes.runs.packed_manifest import PackedManifest


def write_packed(
    folder: Path,
    sequences: Sequence[PackedSequence],
    tokenizer: TokenizerIdentity | None = None,
) -> PackedFolder:
    """Write a packed folder of these sequences."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.concatenate([sequence.ids for sequence in sequences])
    loss_mask = np.concatenate([sequence.loss_mask for sequence in sequences])
    lengths = np.concatenate([np.diff(sequence.cumulative_lengths) for sequence in sequences])
    counts = [len(sequence.cumulative_lengths) - 1 for sequence in sequences]
    np.save(folder / IDS, ids)
    np.save(folder / LOSS_MASK, loss_mask)
    np.save(folder / CUMULATIVE_LENGTHS, np.concatenate([[0], np.cumsum(lengths)]))
    np.save(folder / FIRST_CONVERSATIONS, np.cumsum([0, *counts]))
    manifest = PackedManifest(
        sequences=len(sequences),
        sequence_length=max(len(sequence.ids) for sequence in sequences),
        conversations=len(lengths),
        tokens=len(ids),
        trained_tokens=int(loss_mask.sum()),
        longest=int(lengths.max()),
        left_out={},
        special_tokens={},
        unread_keys={},
        sources={"a.jsonl": len(lengths)},
        passed_over={},
        tokenizer=tokenizer or TokenizerIdentity("0" * 64, 320, 2),
        template_sha256="0" * 64,
    )
    manifest.write(folder)
    return PackedFolder(folder)
