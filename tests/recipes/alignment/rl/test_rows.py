"""Rows are about equally long, within their room, and hold every sequence once."""

import random

import pytest

from recipes.alignment.rl.rows import balanced_rows

CONTEXT = 8192


def _totals(rows: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[number] for number in row) for row in rows]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("answers", [16, 128, 1024])
def test_pads_are_few(seed, answers) -> None:
    """Answers of reasoning, a few of which are as long as the context."""
    draw = random.Random(seed)
    lengths = [min(CONTEXT, int(draw.lognormvariate(6.5, 1.0)) + 100) for _ in range(answers)]
    rows = balanced_rows(lengths, 4 * CONTEXT)
    totals = _totals(rows, lengths)
    assert sorted(number for row in rows for number in row) == list(range(answers))
    assert max(totals) <= 4 * CONTEXT
    assert 1 - sum(lengths) / (max(totals) * len(rows)) < 0.05


def test_a_row_too_many_where_sequences_do_not_fit_evenly() -> None:
    lengths = [6, 6, 6]
    assert balanced_rows(lengths, 10) == [[0], [1], [2]]
    assert balanced_rows(lengths, 12) == [[0, 2], [1]]


def test_the_same_lengths_give_the_same_rows() -> None:
    lengths = [5] * 12
    assert balanced_rows(lengths, 20) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_a_sequence_beyond_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 11 tokens in rows of at most 10"):
        balanced_rows([3, 11], 10)
