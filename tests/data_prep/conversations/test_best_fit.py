from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.conversations.best_fit import best_fit


def slow_best_fit(lengths: list[int], capacity: int) -> int:
    """Return the number of sequences, by a search through all of them for each length."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return len(rooms)


@given(st.lists(st.integers(1, 50), max_size=60))
def test_every_length_is_in_one_sequence_and_none_is_over(lengths: list[int]) -> None:
    sequences = best_fit(np.array(lengths, dtype=np.int64), 50)
    assert sorted(chain.from_iterable(sequences)) == list(range(len(lengths)))
    for sequence in sequences:
        assert 0 < sum(lengths[position] for position in sequence) <= 50
    assert len(sequences) == slow_best_fit(lengths, 50)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 5, 5], [[0, 1], [2]]),
        ([10], [[0]]),
        # 3 goes to the sequence with the least room, not to the first
        ([6, 7, 3], [[1, 2], [0]]),
        ([], []),
    ],
)
def test_small_cases(lengths: list[int], expected: list[list[int]]) -> None:
    assert best_fit(np.array(lengths, dtype=np.int64), 10) == expected
