"""Tokens drawn by numbers that are decided beforehand."""

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, count: int) -> np.ndarray:
    """Return ``count`` numbers from [0, 1), float64, the same for a seed wherever they are used."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def draw(logits: Tensor, temperatures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token for each row, by the inverse of its distribution function.

    Args:
        logits: [rows, vocabulary].
        temperatures: [rows]; 0 takes the most likely token.
        numbers: from [0, 1), float64, [rows].

    Returns:
        Tokens, and their log-probabilities at the temperature (at 1 where it is 0), both [rows]. A
        row whose logits are no numbers has a log-probability that is none.
    """
    is_greedy = temperatures == 0
    divisors = torch.where(is_greedy, 1, temperatures)
    log_probabilities = torch.log_softmax(logits.float() / divisors[:, None], dim=-1)

    # a large vocabulary's sum in fp32 would lose the unlikely tokens at its end
    cumulative = log_probabilities.exp().cumsum(dim=-1, dtype=torch.float64)
    places = numbers * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, places[:, None], right=True)[:, 0]
    drawn = drawn.clamp(max=logits.shape[1] - 1)

    ids = torch.where(is_greedy, logits.argmax(dim=-1), drawn)
    return ids, log_probabilities.gather(1, ids[:, None])[:, 0]
