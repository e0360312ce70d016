"""Rewards of functions and of a reward model together."""

from collections.abc import Sequence

from recipes.alignment.rewards.functions import REWARD_MODEL
from recipes.alignment.rewards.reward import Reward
from recipes.alignment.rewards.reward_model import RewardModel
from recipes.alignment.rewards.workers import Workers
from recipes.runs.prompts import Prompt


class RewardsOfAllKinds:
    """Scores each answer by what its prompt names.

    Args:
        workers: of reward functions.
        model: of the prompts that ask for a reward model; None where none does.
    """

    def __init__(self, workers: Workers, model: RewardModel | None) -> None:
        self._workers = workers
        self._model = model

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order."""
        if self._model is None:
            return self._workers.score(pairs)
        is_models = [prompt.reward == REWARD_MODEL for prompt, _ in pairs]
        of_model = [pair for pair, own in zip(pairs, is_models, strict=True) if own]
        of_functions = [pair for pair, own in zip(pairs, is_models, strict=True) if not own]
        by_model = iter(self._model.score(of_model))
        by_functions = iter(self._workers.score(of_functions))
        return [next(by_model if own else by_functions) for own in is_models]
