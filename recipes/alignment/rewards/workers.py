"""Processes that score answers and can be killed: an answer costs at most its limits."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import TracebackType

from recipes.alignment.rewards import functions, worker
from recipes.alignment.rewards.reward import Outcome, Reward, timed_out
from recipes.runs.prompts import Prompt

SECONDS = 10.0
MEMORY_BYTES = 2**30
_ROOT = Path(__file__).parents[3]

# a prompt and an answer; without an answer the gold is checked
_Task = tuple[Prompt, str | None]


class Workers:
    """Score answers in processes; a context that ends them.

    An answer that takes longer than ``seconds`` costs itself and its worker, which is replaced.
    Rewards come in the order of their answers, and do not depend on the number of workers.

    Args:
        workers: processes.
        rewards: names of reward functions whose libraries are loaded at once; those of others are
            when they are needed. Either way once for all workers.
        seconds: of wall-clock time for an answer.
        memory_bytes: of address space, that an answer may take.

    Attributes:
        restarts: workers that were replaced.
    """

    def __init__(
        self,
        workers: int,
        rewards: Iterable[str] = (),
        *,
        seconds: float = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._count = workers
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="granite41-rewards-")
        self._rewards = set(rewards)
        self._nursery = self._start_nursery()
        # forked when they are needed, as the nursery loads libraries until then
        self._idle: list[_Worker] = []
        self.restarts = 0

    def __enter__(self) -> "Workers":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self._nursery.end()
        self._folder.cleanup()

    def _start_nursery(self) -> "_Nursery":
        libraries = functions.libraries(sorted(self._rewards))
        return _Nursery(libraries, self._memory_bytes, self._folder.name)

    def _load(self, rewards: set[str]) -> None:
        """Start another nursery if these rewards need libraries that this one has not."""
        if rewards <= self._rewards:
            return
        self._nursery.end()
        self._idle.clear()
        self._rewards |= rewards
        self._nursery = self._start_nursery()

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order.

        Raises:
            RuntimeError: workers do not start.
        """
        return self._run(pairs)

    def check(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return why each prompt's gold answer cannot be used, or "".

        Raises:
            RuntimeError: workers do not start, or lack a library.
        """
        rewards = self._run([(prompt, None) for prompt in prompts])
        for reward in rewards:
            if reward.outcome == Outcome.INFRASTRUCTURE:
                raise RuntimeError(f"gold answers cannot be checked: {reward.reason}")
        return [reward.reason for reward in rewards]

    def _run(self, tasks: Sequence[_Task]) -> list[Reward]:
        """Give tasks to workers until each has a reward."""
        self._load({prompt.reward for prompt, _ in tasks})
        rewards: dict[int, Reward] = {}
        waiting = deque(range(len(tasks)))
        busy: dict[int, _Worker] = {}
        # tasks whose worker has died, perhaps for another reason: they get another one, once
        unlucky: set[int] = set()
        while waiting or busy:
            while waiting and len(busy) < self._count:
                number = waiting.popleft()
                busy[number] = self._give(tasks[number])
            for number in _wait(busy):
                reward = self._take(busy.pop(number))
                if reward is None and number not in unlucky:
                    unlucky.add(number)
                    waiting.appendleft(number)
                else:
                    rewards[number] = reward or timed_out("its worker dies of it")
        return [rewards[number] for number in range(len(tasks))]

    def _give(self, task: _Task) -> "_Worker":
        """Send a task to a worker."""
        while True:
            chosen = self._idle.pop() if self._idle else self._nursery.fork()
            chosen.deadline = time.monotonic() + self._seconds
            try:
                chosen.connection.send(task)
            # it has died while it had nothing to do
            except ConnectionError:
                self.restarts += 1
                continue
            return chosen

    def _take(self, ended: "_Worker") -> Reward | None:
        """Return the reward that a worker has sent, or that it is late; None where it has died."""
        with suppress(EOFError, ConnectionError):
            if ended.connection.poll():
                reward = ended.connection.recv()
                self._idle.append(ended)
                return reward
        self.restarts += 1
        ended.connection.close()
        if not ended.is_late:
            return None
        with suppress(ProcessLookupError):
            os.kill(ended.process, signal.SIGKILL)
        return timed_out(f"it takes more than {self._seconds:g} s")


@dataclass
class _Worker:
    """A process that scores.

    Attributes:
        process: its id.
        connection: to it.
        deadline: of its task, by ``time.monotonic()``.
    """

    process: int
    connection: Connection
    deadline: float = 0.0

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self.deadline


def _wait(busy: dict[int, _Worker]) -> list[int]:
    """Wait until a worker has answered, has died or is late; return the numbers of their tasks."""
    deadline = min(worker.deadline for worker in busy.values())
    connections = [worker.connection for worker in busy.values()]
    ready = wait(connections, max(0.0, deadline - time.monotonic()))
    return [number for number, one in busy.items() if one.connection in ready or one.is_late]


class _Nursery:
    """The process whose forks the workers are; see :mod:`recipes.alignment.rewards.worker`."""

    def __init__(self, modules: list[str], memory_bytes: int, folder: str) -> None:
        ours, theirs = socket.socketpair()
        path = [str(_ROOT)]
        if os.environ.get("PYTHONPATH"):
            path.append(os.environ["PYTHONPATH"])
        environment = {
            **os.environ,
            # a comparison that depends on the order of a set has the same outcome every time
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(path),
            # workers are the parallelism
            "OMP_NUM_THREADS": "1",
            # lm-eval's checks of instructions download nltk's data as they are imported, unless
            # another process is the first of the machine
            "LOCAL_RANK": "1",
        }
        arguments = [str(theirs.fileno()), str(memory_bytes), folder, *modules]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", worker.__name__, *arguments],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # what libraries print is no result
                stdout=2,
            )
        self._control = Connection(ours.detach())

    def fork(self) -> _Worker:
        """Return a new worker.

        Raises:
            RuntimeError: the nursery has ended.
        """
        ours, theirs = Pipe()
        try:
            with theirs:
                send_handle(self._control, theirs.fileno(), self._process.pid)
            return _Worker(self._control.recv(), ours)
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                f"the reward workers do not start: their process ended with status "
                f"{self._process.wait()}, see above"
            ) from error

    def end(self) -> None:
        """End it, and with it all workers, whatever they do."""
        self._control.close()
        self._process.kill()
        self._process.wait()
