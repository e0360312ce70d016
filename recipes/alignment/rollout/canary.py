"""Whether an engine computes with the trainer's weights: log-probabilities of a few answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.alignment.rollout.engine import Request

PROMPTS = 8
TOKENS = 16


@dataclass(frozen=True)
class Limits:
    """How far the log-probabilities of engine and trainer may be apart.

    Attributes:
        largest: of any token.
        mean: of all tokens.
        divergence: mean of r - 1 - log r, r = p_engine / p_trainer (k3; Schulman 2020).
    """

    largest: float
    mean: float
    divergence: float


# by safetensors' name of the weights' type; kernels differ in the order of their sums
LIMITS = {
    "F32": Limits(largest=1e-5, mean=1e-5, divergence=1e-3),
    "BF16": Limits(largest=float("inf"), mean=0.02, divergence=1e-3),
    "F16": Limits(largest=float("inf"), mean=0.02, divergence=1e-3),
}


@dataclass(frozen=True)
class Gap:
    """How far they are apart; attributes as of :class:`Limits`."""

    largest: float
    mean: float
    divergence: float

    def exceeds(self, limits: Limits) -> bool:
        """Whether one of them is above its limit, or no number."""
        return not (
            self.largest <= limits.largest
            and self.mean <= limits.mean
            and self.divergence <= limits.divergence
        )

    def __str__(self) -> str:
        return (
            f"up to {self.largest:.2g}, {self.mean:.2g} in the mean, divergence "
            f"{self.divergence:.2g}"
        )


def gap(engine: Sequence[np.ndarray], trainer: Sequence[np.ndarray]) -> Gap:
    """Return how far apart the log-probabilities of the same answers are."""
    differences = np.concatenate(engine).astype(np.float64) - np.concatenate(trainer)
    distances = np.abs(differences)
    with np.errstate(over="ignore"):
        divergence = np.expm1(differences) - differences
    return Gap(
        largest=float(distances.max()),
        mean=float(distances.mean()),
        divergence=float(divergence.mean()),
    )


def canary_requests(prompts: Sequence[np.ndarray], positions: int) -> list[Request]:
    """Return the requests for the most likely answers to the first prompts that leave room for one.

    Args:
        prompts: ids of each, int32.
        positions: tokens of a prompt and its answer.
    """
    short = [ids for ids in prompts if 0 < len(ids) < positions][:PROMPTS]
    return [
        Request(
            prompt_id=f"canary-{number}",
            ids=ids,
            samples=1,
            seed=0,
            max_tokens=min(TOKENS, positions - len(ids)),
            temperature=0.0,
        )
        for number, ids in enumerate(short)
    ]
