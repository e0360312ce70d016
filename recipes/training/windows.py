"""The window of documents that a stage reads of a shard, wrapping around its end.

It holds whole documents, from where the stage before has stopped. Documents are numbered in the
order in which all stages read them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Window:
    """The documents that a stage reads of a shard's training part.

    Attributes:
        documents: their numbers within the training part, from the window's start on.
        next_document: where the next stage's window starts.
        epochs: tokens from the start to ``next_document`` over the training part's tokens, 2.0 for
            twice around.
    """

    documents: np.ndarray
    next_document: int
    epochs: float


def window(lengths: np.ndarray, start: int, tokens: int) -> Window:
    """Return the fewest whole documents from ``start`` on, around the end, that hold ``tokens``
    tokens.

    Where the whole part holds fewer tokens than that, each of its documents is returned once: going
    around several times, and in which order, is the reader's.

    Args:
        lengths: tokens of each document of the training part, shape (documents,); at least one is
            positive.
        start: first document of the window, counted around the end.
        tokens: how many the stage needs, at least 1.
    """
    documents = len(lengths)
    start %= documents
    # ends[i]: tokens of the first i + 1 documents
    ends = np.cumsum(lengths, dtype=np.int64)
    tokens_before = 0
    if start:
        tokens_before = int(ends[start - 1])
    total = int(ends[-1])

    # how often the end is passed, and the tokens needed after the last time, at least 1
    laps, rest = divmod(tokens_before + tokens - 1, total)
    stop = int(np.searchsorted(ends, rest + 1)) + 1
    tokens_read = laps * total + int(ends[stop - 1]) - tokens_before

    # each document once, even if the stage reads some of them again
    count = laps * documents + stop - start
    if tokens > total:
        count = documents
    indices = np.arange(start, start + count)
    indices[indices >= documents] -= documents
    return Window(indices, stop % documents, tokens_read / total)


def epochs_with_repeats(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Return component -> epochs read after a stage, for the components of which it reads documents
    again.

    Args:
        before: shard -> ``component`` and ``epochs`` read before the stage.
        after: shard -> ``epochs`` read after it. Where shards of a component differ, the most
            epochs count.
    """
    epochs = defaultdict[str, float](float)
    for shard, read in after.items():
        if read["epochs"] > 1:
            name = before[shard]["component"]
            epochs[name] = max(epochs[name], read["epochs"])
    return dict(sorted(epochs.items()))
