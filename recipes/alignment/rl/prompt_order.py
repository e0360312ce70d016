"""The order of a stage's prompts: each exactly once a pass, by seed and pass alone."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class PromptOrder:
    """An endless order of ``prompts`` prompts; a draw is a place in it, from 0.

    What a run draws next is one integer, so a resumed run needs nothing else to go on.

    Attributes:
        prompts: how many there are.
        seed: of the run.
    """

    prompts: int
    seed: int

    def draw(self, first: int, count: int) -> list[int]:
        """Return the prompts, by number from 0, at ``count`` draws from ``first`` on.

        They may reach into the next pass, and then hold a prompt twice.
        """
        return [self._prompt(number) for number in range(first, first + count)]

    def _prompt(self, draw: int) -> int:
        passes, place = divmod(draw, self.prompts)
        return int(_permutation(self.prompts, self.seed, passes)[place])


@lru_cache(maxsize=2)
def _permutation(prompts: int, seed: int, passes: int) -> np.ndarray:
    return np.random.default_rng((seed, passes)).permutation(prompts)
