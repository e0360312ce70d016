"""Learning-rate schedules: pure functions of the tokens that a stage has seen.

Every ``lr`` is the base learning rate, before muP divides that of the hidden matrices by the width
multiplier.
"""

import math
from dataclasses import dataclass

from recipes.spec.origin import Sourced


@dataclass(frozen=True)
class PowerSchedule:
    """lr(n) = min(lr_max, batch * a * n**b) with a linear warm-up.

    Source: the Power Scheduler paper, arXiv 2408.13359.

    Attributes:
        a, b: amplitude and exponent.
        lr_max: upper bound.
        batch: the paper's beta, the global batch in sequences of 4,096 tokens.
        warmup_tokens: tokens of this stage over which the learning rate rises linearly from 0 to
            lr(n_warmup).
        start_tokens: tokens that the run has seen before this stage.
        token_factor: tokens of a full-size run that one token of this run stands for.
    """

    a: Sourced[float]
    b: Sourced[float]
    lr_max: Sourced[float]
    batch: Sourced[int]
    warmup_tokens: Sourced[int]
    start_tokens: Sourced[int]
    token_factor: Sourced[int]

    def _power(self, tokens: float) -> float:
        # tokens of the whole run, at full scale
        n = (self.start_tokens.value + tokens) * self.token_factor.value
        if n <= 0:
            return self.lr_max.value
        return min(self.lr_max.value, self.batch.value * self.a.value * n**self.b.value)

    def lr(self, tokens: float) -> float:
        """Return the base learning rate after ``tokens`` tokens of this stage."""
        warmup_tokens = self.warmup_tokens.value
        # up to where the power law takes over, without a jump
        if tokens < warmup_tokens:
            return self._power(warmup_tokens) * max(tokens, 0) / warmup_tokens
        return self._power(tokens)

    def __str__(self) -> str:
        return "power with warm-up" if self.warmup_tokens.value else "power"


@dataclass(frozen=True)
class ExponentialDecay:
    """From ``lr_start`` to exactly ``lr_end`` by (exp(1 - x) - 1) / (e - 1), x the fraction done.

    Attributes:
        tokens: over which it decays.
    """

    lr_start: Sourced[float]
    lr_end: Sourced[float]
    tokens: Sourced[int]

    def lr(self, tokens: float) -> float:
        """Return the base learning rate after ``tokens`` tokens, constant outside of the stage."""
        # expm1, as exp(x) - 1 loses digits at the end of the stage
        x = min(max(tokens / self.tokens.value, 0.0), 1.0)
        remaining = math.expm1(1 - x) / math.expm1(1)
        return self.lr_start.value * remaining + self.lr_end.value * (1 - remaining)

    def __str__(self) -> str:
        return f"exponential decay, {self.lr_start.value:.3g} to {self.lr_end.value:.3g}"


@dataclass(frozen=True)
class LinearDecay:
    """A linear warm-up from 0 to ``lr_start``, then a line to ``lr_end``.

    Attributes:
        tokens: after which it reaches ``lr_end``, the warm-up included.
    """

    lr_start: Sourced[float]
    lr_end: Sourced[float]
    tokens: Sourced[int]
    warmup_tokens: Sourced[int]

    def lr(self, tokens: float) -> float:
        """Return the base learning rate after ``tokens`` tokens, constant after the stage."""
        warmup_tokens = self.warmup_tokens.value
        if tokens < warmup_tokens:
            return self.lr_start.value * max(tokens, 0) / warmup_tokens
        x = min(max((tokens - warmup_tokens) / (self.tokens.value - warmup_tokens), 0.0), 1.0)
        return self.lr_start.value * (1 - x) + self.lr_end.value * x

    def __str__(self) -> str:
        warmup = " with warm-up" if self.warmup_tokens.value else ""
        return f"linear decay{warmup}, {self.lr_start.value:.3g} to {self.lr_end.value:.3g}"


@dataclass(frozen=True)
class ConstantSchedule:
    """The same learning rate throughout."""

    learning_rate: Sourced[float]

    def lr(self, tokens: float) -> float:
        """Return the learning rate, the same for all ``tokens``."""
        return self.learning_rate.value

    def __str__(self) -> str:
        return f"constant, {self.learning_rate.value:.3g}"


Schedule = PowerSchedule | ExponentialDecay | LinearDecay | ConstantSchedule
