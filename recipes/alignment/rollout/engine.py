"""What is asked of an engine, what it answers, and what every engine can do."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recipes.common.errors import UserError


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and how it is answered. Tokens are drawn from the whole distribution: top_p is 1,
    top_k is off.

    Attributes:
        prompt_id: of the prompt, in errors and in the seeds.
        ids: of the prompt's tokens, int32, shape (tokens,); they are never decoded and encoded
            again.
        samples: answers, each drawn by itself.
        seed: with ``prompt_id`` and the number of the answer it decides every draw, whatever else
            is generated at the same time.
        max_tokens: of an answer, its stop token included.
        temperature: the logits are divided by it; 0 takes the most likely token.
    """

    prompt_id: str
    ids: np.ndarray
    samples: int
    seed: int
    max_tokens: int
    temperature: float = 1.0

    def draw_seed(self, sample: int = 0) -> int:
        """Return the seed of an answer, from 0 up to 2^31 - 1; ``sample`` counts from 0."""
        words = f"{self.seed}/{sample}/{self.prompt_id}"
        digest = hashlib.sha256(words.encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, eq=False)
class Sample:
    """An answer.

    Attributes:
        ids: int32, shape (tokens,); the stop token, if there is one, is the last.
        log_probabilities: of ``ids``, float32, shape (tokens,): natural logarithms, of the logits
            divided by the temperature (by 1 where that is 0).
        is_finished: whether it ends with a stop token, and not at ``max_tokens``.
        weight_version: of the weights that all of its tokens were drawn from.
    """

    ids: np.ndarray
    log_probabilities: np.ndarray
    is_finished: bool
    weight_version: int


class Engine(Protocol):
    """Answers prompts with the policy's current weights.

    An engine knows the policy's stop tokens. Where several ranks hold the policy, all of them call
    :meth:`refresh`, and each :meth:`generate` with the prompts of its data-parallel rank.
    """

    def refresh(self, version: int) -> None:
        """Take the weights that the trainer has now, and call them ``version``.

        Raises:
            UserError: they cannot be taken, or the engine computes something else with them.
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Return the answers to each request, in their order; all are of the last refresh.

        Raises:
            UserError: a request that no engine can answer (:func:`check_requests`), or the engine
                is lost.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it answers nothing afterwards."""
        ...


def check_requests(requests: Sequence[Request], positions: int) -> None:
    """Raise UserError unless every prompt and its longest answer fit into the model's context.

    Args:
        requests: whose numbers are checked too.
        positions: tokens of a prompt and its answer.
    """
    for request in requests:
        where = f"prompt {request.prompt_id}"
        length = len(request.ids)
        if not length:
            raise UserError(f"{where}: has no tokens; remove it from the prompts")
        if length + request.max_tokens > positions:
            raise UserError(
                f"{where}: its {length:,} tokens and an answer of up to {request.max_tokens:,} are "
                f"beyond the context of {positions:,}; remove it, or allow shorter answers"
            )
        if request.samples < 1 or request.max_tokens < 1:
            raise UserError(
                f"{where}: {request.samples} answers of up to {request.max_tokens} tokens are "
                f"asked for, expected at least one of each"
            )
        # not a number is no temperature either
        if not 0 <= request.temperature < float("inf"):
            raise UserError(
                f"{where}: temperature {request.temperature} is none; expected 0 or more"
            )
