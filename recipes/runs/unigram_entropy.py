"""Unigram entropy: the loss of a model that knows only how often each token occurs."""

from collections.abc import Mapping, Sequence

import numpy as np


def blend_entropy(counts: Mapping[str, Sequence[int]], weights: Mapping[str, float]) -> float:
    """Return the unigram entropy, in nats per token, of a blend of components.

    H = -sum_v p(v) ln p(v), where p(v) = sum_c w_c n_c(v) / N_c, w are the weights scaled to sum
    to 1, n_c(v) is how often component c holds token v and N_c its number of tokens.

    Args:
        counts: component -> occurrences of each token id; lists of the vocabulary's length.
        weights: component -> share of the blend's tokens, in any unit (percent, fraction).

    Raises:
        ValueError: no weight is positive, one is negative, or a weighted component has no tokens.
    """
    total_weight = sum(weights.values())
    if total_weight <= 0 or min(weights.values()) < 0:
        raise ValueError(f"weights must be non-negative with a positive sum, found {dict(weights)}")
    # p(v), as the sum of each component's part
    shares = []
    for component, weight in weights.items():
        occurrences = np.asarray(counts[component], dtype=np.float64)
        if not occurrences.sum():
            raise ValueError(f"component {component!r} has no tokens")
        shares.append(weight / total_weight * occurrences / occurrences.sum())
    probability = np.sum(shares, axis=0)
    # p ln p is 0 where p is
    probability = probability[probability > 0]
    return max(0.0, float(-(probability * np.log(probability)).sum()))
