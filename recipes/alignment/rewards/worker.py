"""The processes of :mod:`recipes.alignment.rewards.workers`: a nursery, and the workers it forks.

``python -m recipes.alignment.rewards.worker SOCKET MEMORY FOLDER MODULE...`` imports the modules
once, then forks a worker for each socket that it receives, and answers with its process id. A
worker gets a prompt and an answer at a time, and answers with a reward. All end when the process
that started the nursery does.
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path

from recipes.alignment.rewards import functions
from recipes.alignment.rewards.reward import (
    RIGHT,
    BadGold,
    Reward,
    infrastructure,
    timed_out,
    unreadable,
)
from recipes.runs.prompts import Prompt

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: list[str]) -> None:
    """Run the nursery until its socket is closed."""
    socket, memory_bytes, folder, *modules = arguments
    for module in modules:
        importlib.import_module(module)
    # where reward functions put their files; whoever started this removes it
    tempfile.tempdir = folder
    # the keyboard and Slurm signal all processes, and the one that has started this one decides
    for number in _RELAYED:
        signal.signal(number, signal.SIG_IGN)
    # no worker becomes a zombie
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    control = Connection(int(socket))
    while True:
        try:
            handle = recv_handle(control)
        except (EOFError, OSError):
            return
        process = os.fork()
        if process == 0:
            control.close()
            _serve(Connection(handle), int(memory_bytes))
            os._exit(0)
        os.close(handle)
        control.send(process)


def _serve(connection: Connection, memory_bytes: int) -> None:
    """Answer tasks until the connection is closed."""
    # a task may hang when the nursery ends
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    limit = _address_space() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # a task that does not even fit in is given to a new worker
    with suppress(EOFError, ConnectionError, MemoryError):
        while True:
            prompt, answer = connection.recv()
            connection.send(_reward(prompt, answer))


def _reward(prompt: Prompt, answer: str | None) -> Reward:
    """Return the reward of an answer, or without one whether the gold answer can be used."""
    try:
        if answer is not None:
            return functions.score(prompt, answer)
        functions.check(prompt)
    except BadGold as error:
        return unreadable(str(error))
    except MemoryError:
        return timed_out("it takes too much memory")
    # a library that is not here, a disk that is full
    except (ImportError, OSError) as error:
        return infrastructure(f"{prompt.reward} fails ({type(error).__name__}: {error!s:.200})")
    return RIGHT


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    sizes = Path("/proc/self/statm").read_text(encoding="ascii")
    pages = int(sizes.split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])
