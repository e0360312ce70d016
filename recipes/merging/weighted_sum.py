"""Every method of merging is a weighted sum of the parents' tensors; only where its factors come
from differs.

``linear``: the sum of w_i x_i (model soups, arXiv 2203.05482). ``task``: base + the sum of w_i (x_i
- base) (task arithmetic, arXiv 2212.04089), the same as (1 - the sum of w_i) base + the sum of w_i
x_i. ``slerp``: spherical linear interpolation of two tensors, each taken as one vector
(:func:`slerp_factors`).
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self

import torch
from torch import Tensor

from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError
from recipes.model.bridge.mapping import Weight

METHODS = ("linear", "slerp", "task")
# numbers of a parent that a thread has in memory at a time; fewer cost calls, more leave the
# processor's cache
CHUNK_ELEMENTS = 2**19
_MOST_WORKERS = 8
# mergekit 0.1.4, merge_methods/slerp.py: DOT_THRESHOLD and eps
_PARALLEL = 0.9995
_ZERO = 1e-8


class Source(Protocol):
    """Where the tensors of one parent are read from."""

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type that ``weight`` is stored in."""

    def read_rows(
        self,
        weight: Weight,
        start: int,
        target: Tensor,
    ) -> None:
        """Read the rows of ``weight`` from ``start`` into ``target``, [rows, columns] of the stored
        type.
        """


class Merge:
    """A weighted sum of parents, read and computed a few rows at a time by threads that each take
    rows of their own.

    Used as a context manager: torch's operations themselves run on one thread within it, as threads
    that wait for each other at every operation are slow on a machine that does other work too.

    Args:
        method: one of :data:`METHODS`.
        sources: the parents; for ``task`` the base comes first.
        factors: of each source; for ``slerp`` ``(1 - t, t)``.
    """

    def __init__(
        self,
        method: str,
        sources: Sequence[Source],
        factors: Sequence[float],
    ) -> None:
        self.method = method
        self.sources = sources
        self.factors = factors
        self._workers = min(_MOST_WORKERS, usable_cpus())

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._workers)
        # used again and again: to get fresh memory from the kernel takes longer than to fill it
        self._buffers = torch.empty(2 * self._workers, CHUNK_ELEMENTS)
        self._thread = threading.local()
        self._former_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._former_threads)

    def rows(self, weight: Weight) -> Iterator[Tensor]:
        """Yield the merged rows of ``weight``, :func:`rows_per_chunk` of them at a time.

        Arithmetic is in fp32. A parent whose factor is 0 is not read, so that a factor of 1 gives
        its parent bit for bit.

        Yields:
            [rows, columns] in the stored type, valid until the next.

        Raises:
            UserError: the result has a number that is not finite or too large for its type.
        """
        used = []
        factors_of_sources = self._row_factors(weight)
        for source, factors in zip(self.sources, factors_of_sources, strict=True):
            if factors.any():
                used.append((source, factors))
        dtype = self.sources[0].dtype(weight)
        limit = torch.finfo(dtype).max

        def merge(rows: slice, stored: Tensor) -> Tensor:
            total, term = self._thread_buffers(stored)
            for number, (source, factors) in enumerate(used):
                source.read_rows(weight, rows.start, stored)
                if number == 0:
                    total.copy_(stored).mul_(factors[rows])
                else:
                    total.addcmul_(term.copy_(stored), factors[rows])

            # a comparison with NaN is False too
            lowest, highest = total.aminmax()
            if not (lowest >= -limit and highest <= limit):
                raise UserError(
                    f"{next(iter(weight.parts))}: the merge is not finite in {dtype}; "
                    "a parent has NaN or infinite numbers, or the weights are too large"
                )
            return stored.copy_(total)

        return self._compute(merge, weight)

    def _row_factors(self, weight: Weight) -> list[Tensor]:
        """Return each source's factors, [rows of ``weight``, 1]; with slerp its parts have
        different ones.
        """
        if self.method != "slerp":
            size = (weight.shape[0], 1)
            return [torch.full(size, factor) for factor in self.factors]

        # of either source, the factors of the parts, each [rows of the part, 1]
        first: list[Tensor] = []
        second: list[Tensor] = []
        shapes = weight.parts.values()
        products_of_parts = self._dot_products(weight)
        for shape, products in zip(shapes, products_of_parts, strict=True):
            factors = slerp_factors(self.factors[1], *products)
            size = (shape[0], 1)
            first.append(torch.full(size, factors[0]))
            second.append(torch.full(size, factors[1]))

        # in the order in which Megatron mixes the rows of the parts
        return [weight.merge(first), weight.merge(second)]

    def _dot_products(self, weight: Weight) -> list[tuple[float, float, float]]:
        """Return, for each part of ``weight``, the dot products of the sources: a·b, a·a, b·b."""

        def row_products(rows: slice, stored: Tensor) -> Tensor:
            a, b = self._thread_buffers(stored)
            squares = []
            for source, numbers in zip(self.sources, (a, b), strict=True):
                source.read_rows(weight, rows.start, stored)
                numbers.copy_(stored)
                lengths = torch.linalg.vector_norm(numbers, dim=1)
                squares.append(lengths.square())
            dot_products = a.mul_(b).sum(1)
            return torch.stack([dot_products, *squares], dim=1)

        # [rows, 3], split into the rows of each part
        chunks = list(self._compute(row_products, weight))
        by_row = torch.cat(chunks)
        products = []
        for part in weight.split(by_row):
            # in fp64, as a part may have billions of numbers
            sums = part.sum(0, dtype=torch.float64)
            dot, first_square, second_square = sums.tolist()
            products.append((dot, first_square, second_square))
        return products

    def _thread_buffers(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """Return two tensors of this thread in fp32, of the shape of ``stored``."""
        if not hasattr(self._thread, "numbers"):
            self._thread.numbers = torch.empty(2, CHUNK_ELEMENTS)
        elements = stored.numel()
        first, second = self._thread.numbers[:, :elements]
        return first.view(stored.shape), second.view(stored.shape)

    def _compute(
        self,
        task: Callable[[slice, Tensor], Tensor],
        weight: Weight,
    ) -> Iterator[Tensor]:
        """Yield what ``task`` returns for one chunk of rows after the other, while threads work on
        the next ones.

        ``task`` is called with the rows and with memory for them in the stored type.
        """
        rows_in_all = weight.shape[0]
        columns = weight.elements // rows_in_all
        rows_at_a_time = rows_per_chunk(weight)

        # as many results wait as there are buffers: the oldest is taken before its memory is reused
        dtype = self.sources[0].dtype(weight)
        buffers = self._buffers.view(dtype)
        waiting: deque[Future[Tensor]] = deque()
        for number, first in enumerate(range(0, rows_in_all, rows_at_a_time)):
            if len(waiting) == len(buffers):
                oldest = waiting.popleft()
                yield oldest.result()

            # the last chunk may have fewer rows
            last = min(first + rows_at_a_time, rows_in_all)
            rows = slice(first, last)
            buffer = buffers[number % len(buffers)]
            elements = (last - first) * columns
            stored = buffer[:elements].view(-1, columns)
            result = self._pool.submit(task, rows, stored)
            waiting.append(result)
        while waiting:
            yield waiting.popleft().result()


def rows_per_chunk(weight: Weight) -> int:
    """Return how many rows of ``weight`` are computed at a time."""
    return max(1, CHUNK_ELEMENTS * weight.shape[0] // weight.elements)


def slerp_factors(
    t: float,
    dot: float,
    first: float,
    second: float,
) -> tuple[float, float]:
    """Return the factors of the two vectors: sin((1 - t) angle) / sin(angle) and sin(t angle) /
    sin(angle).

    As mergekit 0.1.4 has it (``merge_methods/slerp.py``), where the formula is Shoemake's (SIGGRAPH
    1985): the angle is that between the vectors scaled to length 1, the factors are applied to the
    vectors as they are. Vectors that are nearly parallel or opposed (cosine beyond ±0.9995) get 1 -
    t and t. A vector no longer than 1e-8 is not scaled, so that a zero vector counts as
    perpendicular.

    Args:
        t: 0 for the first vector, 1 for the second.
        dot: their dot product.
        first: the first one's with itself.
        second: the second one's.
    """
    scale = 1.0
    for square in (first, second):
        length = math.sqrt(square)
        if length > _ZERO:
            scale *= length

    # a comparison with NaN is False too
    cosine = dot / scale
    if not abs(cosine) <= _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    sine = math.sin(angle)
    first_factor = math.sin(angle - angle * t) / sine
    second_factor = math.sin(angle * t) / sine
    return first_factor, second_factor
