"""The order in which training reads packed sequences: what is held out, epochs, global batches."""

from collections.abc import Iterator

import numpy as np

from recipes.runs.packed_manifest import num_held_out

# in place of a sequence, where the last batch of a validation has none left
NONE = -1


class SequenceOrder:
    """Which sequences are held out, and in which order the others are read.

    Each epoch has an order of its own, a function of seed and epoch, and every sequence once. A
    batch may hold the end of an epoch and the start of the next.

    Attributes:
        held_out: numbers of the sequences for validation.
        trained: of those for training, shape (sequences,).
    """

    def __init__(self, sequences: int, seed: int, validation_share: float) -> None:
        """Draw the sequences that are held out."""
        order = np.random.default_rng([seed, 0]).permutation(sequences)
        count = num_held_out(sequences, validation_share)
        self.held_out = order[:count]
        self.trained = np.sort(order[count:])
        self._seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, first: int, size: int) -> list[int]:
        """Return the numbers of ``size`` sequences, from the ``first`` that training reads on."""
        return [self._at(place) for place in range(first, first + size)]

    def _at(self, place: int) -> int:
        epoch, number = divmod(place, len(self.trained))
        if epoch not in self._epochs:
            generator = np.random.default_rng([self._seed, 1, epoch])
            # a batch reads of two epochs at most, unless they are short
            self._epochs = {epoch: generator.permutation(self.trained)}
        return int(self._epochs[epoch][number])


class TrainBatches:
    """This data-parallel rank's part of each global batch, as NeMo-Aligner takes a batch sampler.

    Attributes:
        done: steps that are done before the first batch.
        total_samples: sequences of the whole stage.
    """

    # the steps of the stage are whole batches of an endless order
    drop_last = True

    def __init__(
        self, order: SequenceOrder, steps: int, global_batch_size: int, rank: int, ranks: int
    ) -> None:
        self.done = 0
        self.total_samples = steps * global_batch_size
        self.global_batch_size = global_batch_size
        self._steps = steps
        self._order = order
        self._rank = rank
        self._ranks = ranks

    def __len__(self) -> int:
        """Return the number of batches that are left."""
        return self._steps - self.done

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the sequences of each batch that is left."""
        for step in range(self.done, self._steps):
            batch = self._order.batch(step * self.global_batch_size, self.global_batch_size)
            yield part(batch, self._rank, self._ranks)


class ValidationBatches:
    """This data-parallel rank's part of each batch of the sequences that are held out."""

    def __init__(self, order: SequenceOrder, global_batch_size: int, rank: int, ranks: int) -> None:
        self._sequences = [int(number) for number in order.held_out]
        self._global_batch_size = global_batch_size
        self._rank = rank
        self._ranks = ranks

    def __len__(self) -> int:
        """Return the number of batches; the last may not be full."""
        return -(-len(self._sequences) // self._global_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the sequences of each batch."""
        for first in range(0, len(self._sequences), self._global_batch_size):
            batch = self._sequences[first : first + self._global_batch_size]
            # every rank has as many micro-batches as the others
            batch += [NONE] * (self._global_batch_size - len(batch))
            yield part(batch, self._rank, self._ranks)


def part(batch: list[int], rank: int, ranks: int) -> list[int]:
    """Return a data-parallel rank's part of a global batch."""
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]
