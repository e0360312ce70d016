"""A trainer whose policy lives in a folder, with the servers of its rollouts as processes."""

import multiprocessing
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.alignment.rollout.engine import Request, Sample
from recipes.alignment.rollout.folder import RolloutFolder
from recipes.alignment.rollout.on_servers import Policy, ServersEngine, ServersSettings
from recipes.alignment.rollout.supervisor import Supervisor, Watch, server_environment
from tests.helpers.rollout_server import STOP_IDS, score, set_faults, write_policy

ROOT = Path(__file__).parents[2]
PROMPTS = [np.arange(5 + number, 10 + 2 * number, dtype=np.int32) for number in range(10)]
# nothing here waits for its end but what cannot come
PATIENCE = 60.0


@dataclass
class Trainer:
    """A policy whose weights a test changes, and the servers' folder."""

    path: Path
    rollout: RolloutFolder
    seed: int = 0

    @property
    def source(self) -> Path:
        """The folder that training starts from."""
        return self.path / "source"

    @property
    def weights(self) -> Path:
        """The folder with the weights that the trainer has now."""
        folder = self.path / f"trainer-{self.seed}"
        if not folder.exists():
            write_policy(folder, self.seed)
        return folder

    def export(self, folder: Path) -> None:
        """Write the weights that the trainer has now."""
        shutil.copytree(self.weights, folder)

    def score(self, pairs: Sequence[tuple[Request, Sample]]) -> list[np.ndarray]:
        """Return log-probabilities under them."""
        return score(self.weights, pairs)

    @property
    def policy(self) -> Policy:
        """As an engine knows the trainer."""
        return Policy(self.source, self.export, self.score, STOP_IDS)

    def engine(
        self,
        servers: int = 1,
        timeout: float = 30,
        patience: float = PATIENCE,
        policy: Policy | None = None,
    ) -> ServersEngine:
        """Return an engine on the servers."""
        settings = ServersSettings(
            servers, in_flight=2, timeout=timeout, patience=patience, interval=0.05
        )
        return ServersEngine(self.rollout, policy or self.policy, PROMPTS, settings)

    def faults(self, number: int = 0, **faults: Any) -> None:
        """Change what a server does wrong; nothing without arguments."""
        set_faults(self.path / f"faults-{number}.json", **faults)

    def start_of(self, number: int = 0) -> str:
        """Return the present start of a server."""
        record = self.rollout.record(number)
        assert record
        return record.start


def _supervise(trainer: Trainer, number: int, health: float) -> None:
    def command(host: str, port: int) -> list[str]:
        words = [sys.executable, "-m", "tests.helpers.rollout_server", str(trainer.source)]
        words += [str(trainer.path / f"faults-{number}.json"), "--host", host]
        return [*words, "--port", str(port)]

    environment = server_environment(trainer.rollout.key()) | {"PYTHONPATH": str(ROOT)}
    watch = Watch(health=health, interval=0.05)
    Supervisor(trainer.rollout, number, command, "127.0.0.1", watch=watch).run(environment)


@contextmanager
def running(trainer: Trainer, servers: int = 1, health: float = PATIENCE) -> Iterator[None]:
    """Have servers, each with its supervisor, without faults.

    Args:
        trainer: whose servers they are.
        servers: their number.
        health: seconds in which one answers that it is well.
    """
    fork = multiprocessing.get_context("fork")
    processes = []
    for number in range(servers):
        trainer.faults(number)
        processes.append(fork.Process(target=_supervise, args=(trainer, number, health)))
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def asked(samples: int = 4, count: int = 10) -> list[Request]:
    """Return requests for answers to the first prompts."""
    return [
        Request(f"prompt-{number}", ids, samples, 5, 20, 0.8)
        for number, ids in enumerate(PROMPTS[:count])
    ]


def ids_of(answers: list[list[Sample]]) -> list[list[list[int]]]:
    """Return the ids of answers."""
    return [[sample.ids.tolist() for sample in samples] for samples in answers]


def check(
    trainer: Trainer, requests: list[Request], answers: list[list[Sample]], version: int
) -> None:
    """Check that answers are drawn from the trainer's weights."""
    for request, samples in zip(requests, answers, strict=True):
        assert len(samples) == request.samples
        pairs = [(request, sample) for sample in samples]
        for sample, expected in zip(samples, trainer.score(pairs), strict=True):
            assert np.abs(sample.log_probabilities - expected).max() <= 1e-5
            assert sample.weight_version == version
            assert sample.is_finished == (sample.ids[-1] in STOP_IDS)
