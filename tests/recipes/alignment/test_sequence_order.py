"""Every sequence once an epoch, in an order of its own, each rank its part, none left out."""

from collections import Counter

import pytest

from recipes.alignment.sequence_order import (
    NONE,
    SequenceOrder,
    TrainBatches,
    ValidationBatches,
)

SEQUENCES, BATCH = 23, 4


def _order(seed: int = 7) -> SequenceOrder:
    return SequenceOrder(SEQUENCES, seed, 0.1)


def test_what_is_held_out_is_not_trained() -> None:
    order = _order()
    assert len(order.held_out) == 2
    assert sorted([*order.held_out, *order.trained]) == list(range(SEQUENCES))


def test_each_epoch_has_every_sequence_once_and_an_order_of_its_own() -> None:
    order = _order()
    count = len(order.trained)
    epochs = [order.batch(epoch * count, count) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(order.trained)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # a function of the seed and the epoch
    assert _order().batch(2 * count, count) == epochs[2]
    assert _order(seed=8).batch(0, count) != epochs[0]


def test_batches_run_over_the_end_of_an_epoch() -> None:
    steps = 21
    batches = list(TrainBatches(_order(), steps, BATCH, 0, 1))
    assert len(batches) == steps
    read = Counter(number for batch in batches for number in batch)
    # 84 sequences of 21 are four epochs
    assert set(read.values()) == {4}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_a_batch_and_a_resumed_one_reads_on(ranks) -> None:
    whole = list(TrainBatches(_order(), 6, BATCH, 0, 1))
    parts = []
    for rank in range(ranks):
        batches = TrainBatches(_order(), 6, BATCH, rank, ranks)
        batches.done = 2
        assert len(batches) == 4
        parts.append(list(batches))
    for step, batch in enumerate(whole[2:]):
        assert [number for part in parts for number in part[step]] == batch


def test_validation_reads_all_that_is_held_out_once() -> None:
    order = SequenceOrder(SEQUENCES, 7, 0.3)
    batches = [ValidationBatches(order, BATCH, rank, 2) for rank in range(2)]
    assert len(batches[0]) == 2
    read = [number for part in batches for batch in part for number in batch]
    assert len(read) == 2 * BATCH
    assert sorted(number for number in read if number != NONE) == sorted(order.held_out)
