"""Packing lengths into sequences by best fit, the longest first."""

from bisect import bisect_left, insort

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Return the positions of the lengths in each sequence.

    Each length, from the longest down, goes where it leaves the least room: best-fit decreasing,
    which needs at most 11/9 of the fewest sequences and 4 (Johnson, 1974). Of equal rooms the
    sequence that was changed last is taken, so that equal inputs give equal outputs.

    Args:
        lengths: shape (conversations,), each from 1 to ``capacity``.
        capacity: of a sequence, in tokens.
    """
    sequences: list[list[int]] = []
    # the rooms that sequences have left, sorted, and which sequences have each: there are at most
    # as many different rooms as tokens in a sequence, however many lengths there are
    rooms: list[int] = []
    with_room: dict[int, list[int]] = {}
    for position in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[position])
        index = bisect_left(rooms, length)
        if index == len(rooms):
            room = capacity
            number = len(sequences)
            sequences.append([])
        else:
            room = rooms[index]
            number = with_room[room].pop()
            if not with_room[room]:
                del rooms[index]
        sequences[number].append(position)

        left = room - length
        if left:
            waiting = with_room.setdefault(left, [])
            if not waiting:
                insort(rooms, left)
            waiting.append(number)
    return sequences
