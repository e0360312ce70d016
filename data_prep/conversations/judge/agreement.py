"""Agreement of two raters: accuracy and Cohen's kappa, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
_SEED = 0
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure of a set of samples.

    Attributes:
        value: of the set; None where it is undefined, as the kappa of raters who give all samples
            one same label.
        low, high: its 95 % bootstrap interval.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree.

    Attributes:
        samples: that both rated.
        accuracy: share of equal labels.
        kappa: agreement beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960).
    """

    samples: int
    accuracy: Estimate
    kappa: Estimate


def agreement(ours: Sequence[str], theirs: Sequence[str]) -> Agreement:
    """Return the agreement of two raters' labels, in the same order; at least one sample."""
    labels = sorted({*ours, *theirs})
    codes = {label: code for code, label in enumerate(labels)}
    num_samples = len(ours)
    pairs = [
        codes[first] * len(labels) + codes[second]
        for first, second in zip(ours, theirs, strict=True)
    ]
    counts = np.bincount(pairs, minlength=len(labels) ** 2)

    # resampling samples is drawing cells of their table; the table itself comes first
    draws = np.random.default_rng(_SEED).multinomial(
        num_samples,
        counts / num_samples,
        size=RESAMPLES,
    )
    shares = np.vstack([counts, draws]) / num_samples
    # [1 + RESAMPLES, our label, their label]
    shares = shares.reshape(-1, len(labels), len(labels))

    accuracy = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(axis=1) * shares.sum(axis=2)).sum(axis=1)
    is_defined = ~np.isclose(chance, 1)
    kappa = np.full(len(shares), np.nan)
    np.divide(accuracy - chance, 1 - chance, out=kappa, where=is_defined)
    return Agreement(num_samples, _estimate(accuracy), _estimate(kappa))


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value."""
    array = np.array(values, dtype=float)
    generator = np.random.default_rng(_SEED)
    means = [array.mean()]
    for _ in range(RESAMPLES):
        picks = generator.integers(len(array), size=len(array))
        means.append(array[picks].mean())
    return _estimate(np.array(means))


def _estimate(figures: np.ndarray) -> Estimate:
    """Return the first of ``figures``, with the interval of the others that are defined."""
    defined = figures[1:][~np.isnan(figures[1:])]
    if np.isnan(figures[0]) or not len(defined):
        return Estimate(None, None, None)
    low, high = np.percentile(defined, _PERCENTILES)
    return Estimate(float(figures[0]), float(low), float(high))
