"""The time that is left, for units that do not all cost the same."""

import time
from collections.abc import Callable


class Progress:
    """Estimates the time left from the cost of what is done and of what is not.

    Args:
        total: cost of all units, in a measure that is proportional to time, such as tokens.
        clock: returns seconds.
    """

    def __init__(
        self,
        total: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._done = 0.0
        self._clock = clock
        self._started = clock()

    def advance(self, cost: float) -> None:
        """Count a unit of this cost as done."""
        self._done += cost

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def rate(self) -> float:
        """Cost done per second; zero before anything is."""
        return self._done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest will take; None before anything is done."""
        if not self._done:
            return None
        return max(0.0, self._total - self._done) / self.rate


def duration(seconds: float | None) -> str:
    """Return seconds for a reader: ``40 s``, ``12 min``, ``3 h 05 min``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"
