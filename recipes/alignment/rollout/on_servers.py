"""The engine on vLLM servers: the trainer's weights go to them through a folder, step by step."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from recipes.alignment.rollout.canary import LIMITS, Gap, canary_requests, gap
from recipes.alignment.rollout.completions import (
    RolloutServer,
    ServerLost,
    ServerRefused,
    ServerState,
)
from recipes.alignment.rollout.engine import Request, Sample, check_requests
from recipes.alignment.rollout.folder import RolloutFolder, ServerRecord
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TOKENIZER
from recipes.model_folder.config import CONFIG, ModelConfig
from recipes.model_folder.weights import EMBEDDING, GraniteFolder, open_granite

log = logging.getLogger(__name__)

# losses of a server that does not get to the version, before the last
TRIES = 5


@dataclass(frozen=True)
class Policy:
    """The trainer's side.

    Attributes:
        source: Hugging Face folder of the model that training starts from; its config and tokenizer
            are those of the servers.
        export: writes the present weights to a new Hugging Face folder.
        score: log-probabilities of answers under the present weights, one array for each, as an
            engine gives them.
        stop_ids: tokens with which an answer ends.
    """

    source: Path
    export: Callable[[Path], None]
    score: Callable[[Sequence[tuple[Request, Sample]]], list[np.ndarray]]
    stop_ids: Sequence[int]


@dataclass(frozen=True)
class _Started:
    """A start of a server that is used."""

    number: int
    start: str
    client: RolloutServer
    positions: int


@dataclass(frozen=True)
class ServersSettings:
    """How servers are used.

    Attributes:
        servers: their number.
        in_flight: prompts that a server answers at a time, each with all of its answers.
        timeout: seconds that the answers to a prompt may take.
        patience: seconds in which a server that is lost is there again.
        interval: seconds between two looks for it.
    """

    servers: int
    in_flight: int = 32
    timeout: float = 3600.0
    patience: float = 3600.0
    interval: float = 2.0


class ServersEngine:
    """Generates on all servers of a folder, each with the weights of the last refresh.

    One process is its client; other ranks take part by
    :class:`recipes.alignment.rollout.ranks.RankedEngine`.
    """

    def __init__(
        self,
        folder: RolloutFolder,
        policy: Policy,
        prompts: Sequence[np.ndarray],
        settings: ServersSettings,
    ) -> None:
        """Read the policy's folder; servers are looked for at the first refresh.

        Args:
            folder: shared with the servers.
            policy: the trainer's.
            prompts: ids of each; the first ones that fit are the canary.
            settings: of the servers.

        Raises:
            UserError: the policy's folder is damaged, or none of the prompts fits.
        """
        self._folder = folder
        self._policy = policy
        self._settings = settings
        self._source = open_granite(policy.source)
        self._files = _digests(policy.source)
        self._limits = LIMITS[self._source.tensors[EMBEDDING].dtype]
        self._canary = canary_requests(prompts, self._source.config.max_position_embeddings)
        if not self._canary:
            raise UserError(
                f"{policy.source}: no prompt leaves room for an answer in its "
                f"{self._source.config.max_position_embeddings:,} positions; give shorter prompts"
            )
        self._version: int | None = None
        # number of a server -> its start that has the version and has passed the canary
        self._ready: dict[int, str] = {}

    def refresh(self, version: int) -> None:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        start = time.monotonic()
        target = self._folder.weights(version)
        # of an interrupted run or refresh, which had other weights by this name
        self._folder.remove_weights(self._version if self._version != version else None)
        self._policy.export(target)
        self._check_weights(target)
        self._version = version
        self._ready.clear()
        self._bring_up()
        self._folder.remove_weights(version)
        log.info("weights %d are on the servers after %.1f s", version, time.monotonic() - start)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """See :class:`recipes.alignment.rollout.engine.Engine`."""
        found: dict[int, list[Sample]] = {}
        deadline = time.monotonic() + self._settings.patience
        while len(found) < len(requests):
            servers = self._bring_up()
            check_requests(requests, min(server.positions for server in servers))
            waiting = [number for number in range(len(requests)) if number not in found]
            answered = self._ask_all(requests, waiting, servers)
            found |= answered
            if answered:
                deadline = time.monotonic() + self._settings.patience
            elif time.monotonic() > deadline:
                raise UserError(
                    f"{self._folder.path}: no server has answered a prompt for "
                    f"{self._settings.patience:.0f} s; look at servers/*.log there, and resume"
                )
        return [found[number] for number in range(len(requests))]

    def close(self) -> None:
        """Remove the weights; the servers go on for another trainer."""
        self._folder.remove_weights(None)

    def _ask_all(
        self, requests: Sequence[Request], waiting: Sequence[int], servers: Sequence[_Started]
    ) -> dict[int, list[Sample]]:
        """Return number of a request -> its answers, from servers that had the version all along.

        A server takes the next request as soon as it has answered one.
        """
        queue: SimpleQueue[int] = SimpleQueue()
        for number in waiting:
            queue.put(number)
        lost: set[int] = set()
        answered: dict[int, dict[int, list[Sample]]] = {server.number: {} for server in servers}

        def work(server: _Started) -> None:
            while server.number not in lost:
                try:
                    number = queue.get_nowait()
                except Empty:
                    return
                try:
                    answered[server.number][number] = self._complete(server, requests[number])
                except ServerLost as error:
                    log.warning("rollout server %d: %s", server.number, error)
                    lost.add(server.number)
                except ServerRefused:
                    # all end: the others would wait for answers that nobody uses
                    lost.update(answered)
                    raise

        workers = [server for server in servers for _ in range(self._settings.in_flight)]
        with _refusals(), ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(work, workers))

        kept: dict[int, list[Sample]] = {}
        for server in servers:
            # a server that was started again in between has answered with other weights
            if server.number in lost or not self._has_version(server):
                self._give_up(server.number, server.start)
            else:
                kept |= answered[server.number]
        return kept

    def _complete(self, server: _Started, request: Request) -> list[Sample]:
        return server.client.complete(
            request,
            self._policy.stop_ids,
            self._current,
            self._source.config.vocab_size,
        )

    def _has_version(self, server: _Started) -> bool:
        try:
            version = server.client.state().version
        except (ServerLost, ServerRefused) as error:
            log.warning("rollout server %d: %s", server.number, error)
            return False
        if version != self._version:
            log.warning(
                "rollout server %d: its weights are of version %s, not %s; its answers are not "
                "used",
                server.number,
                version,
                self._version,
            )
        return version == self._version

    def _bring_up(self) -> list[_Started]:
        """Return all servers, once each has the version and has passed the canary."""
        deadline = time.monotonic() + self._settings.patience
        while True:
            # each reads the whole model
            with _refusals(), ThreadPoolExecutor(self._settings.servers) as pool:
                numbers = range(self._settings.servers)
                servers = list(pool.map(lambda number: self._load(number, deadline), numbers))
            # one after the other: the trainer computes beside them
            with _refusals():
                checked = [self._is_checked(server) for server in servers]
            if all(checked):
                return servers

    def _load(self, number: int, deadline: float) -> _Started:
        """Wait until a server answers, and see that it has the version.

        Raises:
            UserError: it is not there in time, or serves another model.
            ServerRefused: it answers something else.
        """
        reason = "has not said where it answers"
        losses = 0
        while time.monotonic() < deadline and losses < TRIES:
            record = self._folder.record(number)
            if record and not self._folder.is_given_up(number, record.start):
                try:
                    return self._load_started(number, record)
                except ServerLost as error:
                    losses += 1
                    reason = f"was lost {losses} times: {error}"
                    log.warning("rollout server %d %s", number, reason)
                    self._give_up(number, record.start)
            time.sleep(self._settings.interval)
        raise UserError(
            f"{self._folder.path}: rollout server {number} {reason}; it was waited for up to "
            f"{self._settings.patience:.0f} s; look at {self._folder.log(number)}, start it by "
            f"`granite41 rollout-server`, and resume"
        )

    def _load_started(self, number: int, record: ServerRecord) -> _Started:
        client = RolloutServer(record.url, self._folder.key(), self._settings.timeout)
        positions = client.positions()
        state = client.state()
        self._check_served(client, state)
        if self._ready.get(number) != record.start or state.version != self._version:
            self._ready.pop(number, None)
            client.load(self._folder.weights(self._current), self._current)
        return _Started(number, record.start, client, positions)

    @property
    def _current(self) -> int:
        """The version of the last refresh."""
        if self._version is None:
            raise RuntimeError("a refresh comes first")
        return self._version

    def _give_up(self, number: int, start: str) -> None:
        """Have a server started again."""
        self._ready.pop(number, None)
        self._folder.give_up(number, start)

    def _is_checked(self, server: _Started) -> bool:
        """Whether a server has passed the canary, by now; False where it was lost.

        Raises:
            UserError: it has failed it.
        """
        if self._ready.get(server.number) == server.start:
            return True
        try:
            self._check(server)
        except ServerLost as error:
            log.warning("rollout server %d: %s", server.number, error)
            self._give_up(server.number, server.start)
            return False
        self._ready[server.number] = server.start
        return True

    def _check(self, server: _Started) -> None:
        """Compare a server's log-probabilities with the trainer's, and refresh it once more.

        Raises:
            UserError: they are too far apart even then.
        """
        found = self._measure(server)
        if found.exceeds(self._limits):
            log.warning(
                "rollout server %d: log-probabilities differ by %s from the trainer's; it gets "
                "version %d again",
                server.number,
                found,
                self._current,
            )
            server.client.load(self._folder.weights(self._current), self._current)
            found = self._measure(server)
        if found.exceeds(self._limits):
            raise UserError(
                f"rollout server {server.number} at {server.client.url}: with weights of version "
                f"{self._current}, loaded twice, its log-probabilities differ from the trainer's "
                f"by {found} (allowed: {Gap(**vars(self._limits))}), so it computes with other "
                f"weights or settings; see docs/rollouts.md, correct it, and resume"
            )

    def _measure(self, server: _Started) -> Gap:
        pairs = []
        for request in self._canary:
            (sample,) = self._complete(server, request)
            pairs.append((request, sample))
        engine = [sample.log_probabilities for _, sample in pairs]
        return gap(engine, self._policy.score(pairs))

    def _check_weights(self, folder: Path) -> None:
        """Raise UserError unless the folder holds the policy: a wrong one would end the server."""
        found: GraniteFolder = open_granite(folder)
        problem = _difference(found.config, self._source.config)
        if problem:
            raise UserError(
                f"{folder}: is of another model than {self._policy.source} ({problem}); no server "
                f"has read it; export the policy that training started from"
            )

    def _check_served(self, server: RolloutServer, state: ServerState) -> None:
        """Raise UserError unless the server has the policy's model and tokenizer."""
        for name, digest in self._files.items():
            if state.files.get(name) != digest:
                raise UserError(
                    f"{server.url}: serves another model than {self._policy.source}, its {name} is "
                    f"not the same; start it by `granite41 rollout-server --model "
                    f"{self._policy.source}`"
                )


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise UserError for what a server refuses."""
    try:
        yield
    except ServerRefused as error:
        raise UserError(str(error)) from error


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by which a server's model and tokenizer are known."""
    found = {}
    for name in (CONFIG, TOKENIZER):
        try:
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"{folder / name}: cannot be read ({error.strerror}); servers need the config and "
                f"the tokenizer of the policy"
            ) from error
    return found


def _difference(found: ModelConfig, expected: ModelConfig) -> str:
    """Return the first number in which two configs differ; "" where they do not."""
    for name, value in vars(expected).items():
        if vars(found)[name] != value:
            return f"{name} {vars(found)[name]}, expected {value}"
    return ""
