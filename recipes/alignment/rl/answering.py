"""Have prompts answered by an engine, and the answers scored."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recipes.alignment.rewards.reward import Outcome, Reward
from recipes.alignment.rl.experience import Answer
from recipes.alignment.rl.prompt_order import PromptOrder
from recipes.alignment.rl.replica import from_first_rank
from recipes.alignment.rollout.engine import Engine, Request, Sample
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt, PromptFolder
from recipes.spec.rl import RlRecipe

log = logging.getLogger(__name__)

# an answer that no worker could score is scored again
SCORING_ATTEMPTS = 3


class Scorer(Protocol):
    """Scores answers."""

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards, in the order of the pairs."""
        ...


class Seconds(defaultdict[str, float]):
    """Seconds by part of a step."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add the time within to a part."""
        started = time.monotonic()
        yield
        self[part] += time.monotonic() - started


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a stage, and how they and their answers are text and tokens.

    Attributes:
        folder: of the prompts.
        encode: a prompt to the ids that ask for an answer, int32, shape (tokens,).
        decode: ids of an answer to its text, without the stop token.
    """

    folder: PromptFolder
    encode: Callable[[Prompt], np.ndarray]
    decode: Callable[[Sequence[int]], str]


class Answering:
    """Answers draws of the stage's prompts, with rewards.

    Args:
        recipe: of the stage.
        prompts: of the stage.
        engine: whose weights are the policy's.
        scorer: of answers; asked on the first rank of a replica of the model only.
        seconds: the parts ``generation`` and ``reward`` are added to.
    """

    def __init__(
        self, recipe: RlRecipe, prompts: Prompts, engine: Engine, scorer: Scorer, seconds: Seconds
    ) -> None:
        self._recipe = recipe
        self._prompts = prompts
        self._engine = engine
        self._scorer = scorer
        self._seconds = seconds
        self._order = PromptOrder(len(prompts.folder), recipe.seed.value)

    def answer(self, first: int, count: int) -> list[Answer]:
        """Return the answers to ``count`` draws from ``first`` on, those of a draw together.

        They depend on the policy's weights, the draw and the recipe's seed alone.

        Raises:
            UserError: a prompt leaves no room for an answer, the engine fails, or answers cannot be
                scored.
        """
        with self._seconds.of("generation"):
            prompts = [self._prompts.folder[number] for number in self._order.draw(first, count)]
            requests = [
                self._request(prompt, draw) for draw, prompt in enumerate(prompts, start=first)
            ]
            groups = self._engine.generate(requests)

        found: list[tuple[int, Prompt, Request, Sample]] = []
        for draw, (prompt, request, samples) in enumerate(
            zip(prompts, requests, groups, strict=True), start=first
        ):
            found += [(draw, prompt, request, sample) for sample in samples]
        with self._seconds.of("reward"):
            rewards = from_first_rank(
                lambda: self._rewards(
                    [(prompt, self._text(sample)) for _, prompt, _, sample in found]
                )
            )
        return [
            Answer(draw, prompt, request.ids, sample, reward)
            for (draw, prompt, request, sample), reward in zip(found, rewards, strict=True)
        ]

    def _request(self, prompt: Prompt, draw: int) -> Request:
        ids = self._prompts.encode(prompt)
        room = self._recipe.sequence_length.value - len(ids)
        if room < 1:
            raise UserError(
                f"prompt {prompt.id}: its {len(ids):,} tokens leave no room for an answer in "
                f"sequence_length {self._recipe.sequence_length.value:,}; remove it"
            )
        return Request(
            prompt_id=prompt.id,
            ids=ids,
            samples=self._recipe.samples_per_prompt.value,
            # another in each pass
            seed=self._recipe.seed.value + draw,
            max_tokens=room,
            temperature=self._recipe.temperature.value,
        )

    def _text(self, sample: Sample) -> str:
        ids = sample.ids[:-1] if sample.is_finished else sample.ids
        return self._prompts.decode(ids.tolist())

    def _rewards(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return rewards that say something of every answer."""
        rewards = self._scorer.score(pairs)
        for attempt in range(1, SCORING_ATTEMPTS + 1):
            failed = [
                number
                for number, reward in enumerate(rewards)
                if reward.outcome is Outcome.INFRASTRUCTURE
            ]
            if not failed:
                return rewards
            reason = rewards[failed[0]].reason
            if attempt == SCORING_ATTEMPTS:
                break
            log.warning("%d answers could not be scored (%s); again", len(failed), reason)
            again = self._scorer.score([pairs[number] for number in failed])
            for number, reward in zip(failed, again, strict=True):
                rewards[number] = reward
        raise UserError(
            f"{len(failed)} of {len(pairs)} answers could not be scored in {SCORING_ATTEMPTS} "
            f"attempts ({reason}); no step was made of them, the same command continues"
        )
