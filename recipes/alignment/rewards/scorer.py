"""Rewards of all kinds behind one call: by workers, and by a reward model."""

from collections.abc import Iterable, Sequence
from types import TracebackType

from recipes.alignment.rewards.functions import REWARD_MODEL, require_known
from recipes.alignment.rewards.reward import Reward
from recipes.alignment.rewards.reward_model import RewardModel
from recipes.alignment.rewards.workers import SECONDS, Workers
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt


class Scorer:
    """Scores answers to prompts; a context that ends its processes.

    Args:
        rewards: names that the prompts have, as ``PromptManifest.rewards``.
        workers: processes, see :class:`Workers`.
        reward_model: scores the prompts of ``reward_model``.
        seconds: of wall-clock time for an answer.

    Raises:
        UserError: a reward is unknown, or there is no reward model and one is needed.
    """

    def __init__(
        self,
        rewards: Iterable[str],
        workers: int,
        reward_model: RewardModel | None = None,
        *,
        seconds: float = SECONDS,
    ) -> None:
        names = list(rewards)
        require_known(names, "the prompts")
        if REWARD_MODEL in names and reward_model is None:
            raise UserError(
                f"the prompts: ask for the reward {REWARD_MODEL}, and none is given; "
                f"name it by --reward-model"
            )
        self._reward_model = reward_model
        self._workers = Workers(workers, names, seconds=seconds)

    def __enter__(self) -> "Scorer":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers."""
        self._workers.__exit__(kind, error, trace)

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order.

        Args:
            pairs: prompts and answers; an answer is the policy's text without the token that ends
                it, and with other special tokens spelled out.
        """
        by_model = []
        by_workers = []
        for number, (prompt, _) in enumerate(pairs):
            if prompt.reward == REWARD_MODEL:
                by_model.append(number)
            else:
                by_workers.append(number)
        rewards = dict(
            zip(by_workers, self._workers.score([pairs[i] for i in by_workers]), strict=True)
        )
        if by_model and self._reward_model:
            scored = self._reward_model.score([pairs[number] for number in by_model])
            rewards.update(zip(by_model, scored, strict=True))
        return [rewards[number] for number in range(len(pairs))]
