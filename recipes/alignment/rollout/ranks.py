"""One client of the servers for all ranks of a trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from megatron.core import parallel_state

from recipes.alignment.rollout.engine import Engine, Request, Sample
from recipes.alignment.rollout.on_servers import Policy
from recipes.common.errors import UserError

# what all ranks do together, and what ends that
_EXPORT = "export"
_SCORE = "score"
_DONE = "done"


class RankedEngine:
    """An engine whose client is rank 0; the others take part in what needs the whole policy.

    All ranks call each method. An error of rank 0 is raised on all of them, so that none waits for
    the others.
    """

    def __init__(self, policy: Policy, build: Callable[[Policy], Engine]) -> None:
        """Build the engine on rank 0.

        Args:
            policy: whose ``export`` and ``score`` all ranks call together, with the same arguments.
            build: makes the engine; called on rank 0 only.

        Raises:
            UserError: as ``build``.
        """
        self._policy = policy
        self._engine: Engine | None = None

        def make() -> None:
            led = Policy(policy.source, self._lead_export, self._lead_score, policy.stop_ids)
            self._engine = build(led)

        self._together(make)

    def refresh(self, version: int) -> None:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        self._together(lambda: self._led.refresh(version))

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        gathered: list[Any] = [None] * dist.get_world_size()
        replica = parallel_state.get_data_parallel_rank()
        dist.all_gather_object(gathered, (replica, list(requests)))
        # the ranks of one replica ask for the same
        by_replica: dict[int, list[Request]] = dict(reversed(gathered))
        answers: list[list[Sample]] = []

        def ask() -> None:
            everything = [request for part in by_replica.values() for request in part]
            answers.extend(self._led.generate(everything))

        self._together(ask)
        whole: list[Any] = [None]
        if dist.get_rank() == 0:
            remaining = iter(answers)
            whole[0] = {
                number: [next(remaining) for _ in part] for number, part in by_replica.items()
            }
        dist.broadcast_object_list(whole)
        return whole[0][replica]

    def close(self) -> None:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        self._together(lambda: self._led.close())

    @property
    def _led(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("only rank 0 has the engine")
        return self._engine

    def _together(self, lead: Callable[[], None]) -> None:
        """Run ``lead`` on rank 0, while the others do their part of what it calls."""
        if dist.get_rank() == 0:
            try:
                lead()
            except UserError as error:
                _tell(_DONE, str(error))
                raise
            _tell(_DONE, None)
            return
        while True:
            action, argument = _hear()
            if action == _EXPORT:
                self._policy.export(argument)
            elif action == _SCORE:
                self._policy.score(argument)
            elif argument is not None:
                raise UserError(argument)
            else:
                return

    def _lead_export(self, folder: Path) -> None:
        _tell(_EXPORT, folder)
        self._policy.export(folder)

    def _lead_score(self, pairs: Sequence[tuple[Request, Sample]]) -> list[np.ndarray]:
        _tell(_SCORE, list(pairs))
        return self._policy.score(pairs)


def _tell(action: str, argument: Any) -> None:
    dist.broadcast_object_list([(action, argument)])


def _hear() -> tuple[str, Any]:
    message: list[Any] = [None]
    dist.broadcast_object_list(message)
    return message[0]
