"""Answers of any length laid into the rows of the training pass, with few pads."""

import math
from collections.abc import Sequence


def balanced_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the numbers of the sequences of each row, every row about equally long.

    The longest sequence comes first, each into the row that is shortest so far. All rows are padded
    to the longest of them, so what they differ by is what is lost.

    Args:
        lengths: tokens of each sequence, at least one sequence.
        capacity: tokens that a row may have.

    Raises:
        ValueError: a sequence is longer than a row.
    """
    longest = max(lengths)
    if longest > capacity:
        raise ValueError(f"a sequence of {longest:,} tokens in rows of at most {capacity:,}")

    count = math.ceil(sum(lengths) / capacity)
    while True:
        rows = _shared(lengths, count)
        if max(sum(lengths[number] for number in row) for row in rows) <= capacity:
            return rows
        count += 1


def _shared(lengths: Sequence[int], count: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    # of equal lengths the first comes first
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        shortest = totals.index(min(totals))
        rows[shortest].append(number)
        totals[shortest] += lengths[number]
    return [sorted(row) for row in rows]
