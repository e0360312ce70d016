"""Packed sequences by number, and loaders of their micro-batches."""

from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recipes.alignment.packed_batch import PackedBatch, collate, padded_length
from recipes.alignment.sequence_order import NONE, TrainBatches, ValidationBatches
from recipes.runs.packed_folder import PackedFolder, PackedSequence
from recipes.spec.recipe import Parallelism

_EMPTY = PackedSequence(
    ids=np.empty(0, np.int32),
    loss_mask=np.empty(0, bool),
    cumulative_lengths=np.zeros(1, np.int64),
)


class PackedSequences(Dataset):
    """The sequences of a folder by number; the one for an incomplete batch is empty."""

    def __init__(self, folder: PackedFolder) -> None:
        self._folder = folder

    def __getitem__(self, number: int) -> PackedSequence:
        """Return a sequence."""
        return _EMPTY if number == NONE else self._folder[number]


def loader(
    folder: PackedFolder, batches: TrainBatches | ValidationBatches, parallelism: Parallelism
) -> DataLoader:
    """Return a loader whose batches are lists of micro-batches, on the CPU."""
    cp = parallelism.context_parallel_size.value
    tp = 1
    if parallelism.sequence_parallel.value:
        tp = parallelism.tensor_model_parallel_size.value
    return DataLoader(
        PackedSequences(folder),
        batch_sampler=batches,
        collate_fn=partial(
            micro_batches,
            micro_batch_size=parallelism.micro_batch_size.value,
            length=padded_length(folder, cp, tp),
            context_parallel=cp,
        ),
        # ahead of a GPU; a CPU that trains has no time to spare
        num_workers=2 if torch.cuda.is_available() else 0,
    )


def micro_batches(
    sequences: list[PackedSequence], micro_batch_size: int, length: int, context_parallel: int
) -> list[PackedBatch]:
    """Return the micro-batches of a rank's part of a global batch."""
    return [
        collate(sequences[first : first + micro_batch_size], length, context_parallel)
        for first in range(0, len(sequences), micro_batch_size)
    ]
