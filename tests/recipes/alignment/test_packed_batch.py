"""Packed sequences as tensors: where tokens, labels, mask and pads are in the row."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.runs.packed_folder import PackedSequence

pytestmark = pytest.mark.slow

# of three sequences
LENGTHS = [[5, 3, 1], [9], [2, 2, 2, 4]]


def sequences() -> list[PackedSequence]:
    """Return sequences of ids that all differ, every third of which is trained."""
    made = []
    first = 100
    for lengths in LENGTHS:
        ids = np.arange(first, first + sum(lengths), dtype=np.int32)
        first += len(ids)
        bounds = np.cumsum([0, *lengths])
        made.append(PackedSequence(ids, ids % 3 == 0, bounds))
    return made


def conversations() -> list[tuple[list[int], list[bool]]]:
    """Return ids and mask of every conversation."""
    found = []
    for sequence in sequences():
        for start, end in pairwise(sequence.cumulative_lengths):
            ids = sequence.ids[start:end].tolist()
            found.append((ids, sequence.loss_mask[start:end].tolist()))
    return found


@pytest.mark.parametrize(("context_parallel", "length"), [(1, 10), (1, 13), (2, 16), (3, 24)])
def test_every_token_predicts_the_next_one_of_its_conversation(
    context_parallel: int, length: int
) -> None:
    from recipes.alignment.packed_batch import collate

    batch = collate(sequences(), length, context_parallel)
    packed = batch.packed_seq_params
    starts = packed.cu_seqlens_q
    if context_parallel > 1:
        starts = packed.cu_seqlens_q_padded
    assert batch.tokens.shape == (1, 3 * length)
    assert starts[-1] == 3 * length

    left = conversations()
    is_pad = torch.ones(3 * length, dtype=torch.bool)
    for start, end, tokens in zip(starts[:-1], starts[1:], packed.cu_seqlens_q.diff(), strict=True):
        assert (end - start) % (2 * context_parallel) == 0 or context_parallel == 1
        if batch.tokens[0, start] == 0:
            # pads at a sequence's end: as long as their place
            assert tokens == end - start
            continue
        ids, trained = left.pop(0)
        place = slice(start, start + len(ids))
        is_pad[place] = False
        assert tokens == len(ids)
        assert batch.tokens[0, place].tolist() == ids
        assert batch.labels[0, place].tolist() == [*ids[1:], 0]
        assert batch.loss_mask[0, place].tolist() == [*trained[1:], False]
        assert batch.position_ids[0, place].tolist() == list(range(len(ids)))
    assert not left
    assert not batch.loss_mask[0, is_pad].any()
    assert int(is_pad.sum()) == 3 * length - sum(map(sum, LENGTHS))


def test_pads_are_found_by_length_and_not_by_id() -> None:
    from recipes.alignment.packed_batch import collate

    # every token has the id of the pads, and is trained
    zeros = np.zeros(4, dtype=np.int32)
    sequence = PackedSequence(zeros, zeros == 0, np.array([0, 4]))
    batch = collate([sequence], 8)
    assert batch.loss_mask[0].tolist() == [True] * 3 + [False] * 5
    assert batch.packed_seq_params.cu_seqlens_q.tolist() == [0, 4, 8]


def test_a_sequence_without_tokens_is_pads() -> None:
    from recipes.alignment.packed_batch import collate

    empty = PackedSequence(np.empty(0, np.int32), np.empty(0, bool), np.zeros(1, np.int64))
    batch = collate([empty, *sequences()[1:2]], 9)
    assert batch.packed_seq_params.cu_seqlens_q.tolist() == [0, 9, 18]
    assert batch.loss_mask.sum() == 3
    assert not batch.loss_mask[0, :9].any()


def test_a_sequence_without_room_for_its_pads_is_refused() -> None:
    from recipes.alignment.packed_batch import collate

    with pytest.raises(ValueError, match="sequence 0 of the micro-batch has 16 tokens"):
        collate(sequences(), 12, context_parallel=2)


def test_values_of_tokens_are_placed_and_taken() -> None:
    from recipes.alignment.packed_batch import PackedRow, collate

    row = PackedRow(sequences(), 16, context_parallel=2)
    values = np.linspace(1, 2, sum(map(sum, LENGTHS)))
    placed = row.place(values)
    assert row.take(placed).tolist() == values.tolist()
    assert (placed == 0).sum() == 48 - len(values)
    # beside the labels
    ids = np.concatenate([sequence.ids for sequence in sequences()])
    values_by_id = dict(zip(ids.tolist(), values, strict=True))
    labels = collate(sequences(), 16, context_parallel=2).labels[0].tolist()
    expected = [values_by_id.get(label, 0.0) for label in labels]
    assert row.place_next(values)[0].tolist() == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [((1, 1), 10), ((1, 4), 12), ((2, 1), 16), ((2, 8), 16), ((2, 16), 32), ((3, 2), 24)],
)
def test_the_length_that_all_sequences_fit_in(
    split: tuple[int, int], expected: int, tmp_path: Path
) -> None:
    from recipes.alignment.packed_batch import collate, padded_length
    from tests.helpers.packed_folders import write_packed

    folder = write_packed(tmp_path, sequences())
    length = padded_length(folder, *split)
    assert length == expected
    # and no shorter one
    collate(sequences(), length, split[0])


def _parts(context_parallel: int, length: int) -> list[list[int]]:
    """Return the tokens of each context-parallel rank, whose trained labels are those of all."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    from recipes.alignment.packed_batch import collate

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(context_parallel_size=context_parallel)
    batch = collate(sequences(), length, context_parallel).on_this_context_parallel_rank()
    assert not (batch.labels[batch.loss_mask] % 3).any()
    parts: list[list[int]] = [[] for _ in range(context_parallel)]
    dist.all_gather_object(parts, batch.tokens[0].tolist())
    return parts


def test_ranks_hold_two_chunks_of_every_conversation(forked) -> None:
    first, second = forked(_parts, 2, 16, world_size=2)
    # eight of the first sequence's five tokens and pads: two chunks of two for each rank
    assert first[:4] == [100, 101, 0, 0]
    assert second[:4] == [102, 103, 104, 0]
    # four of the next one's three
    assert first[4:6] == [105, 0]
    assert second[4:6] == [106, 107]
