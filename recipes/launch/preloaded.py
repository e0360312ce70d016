"""Commands as forks of a process that has NeMo loaded: the import takes 20 s, a fork none.

``granite41`` hands its command line over when the environment names a socket, so that a task of a
chain is the same command with and without it. Forks come from the standard library's fork server;
a thread of the launcher takes requests from clients over a socket that only this user can reach:

- client: JSON with arguments, working folder and environment, then its stdout and stderr, then a
  byte for every signal that it receives;
- launcher: one byte, the exit status.

When the client or the launcher is gone, the command ends too.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

from recipes.common.environment import PRELOADED

_RELAYED = (signal.SIGTERM, signal.SIGINT)
_CONTEXT = multiprocessing.get_context("forkserver")


@contextmanager
def server(modules: Sequence[str], log: Path) -> Iterator[dict[str, str]]:
    """Start a fork server that imports ``modules``; yield the variable that leads commands to it.

    Args:
        log: receives what the modules print when they are imported.

    Raises:
        ValueError: outside of the main thread, as signals belong to it.
    """
    _CONTEXT.set_forkserver_preload(list(modules))
    # a signal to the process group must not end the server: the commands decide when they end
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with _stderr_to(log):
        forkserver.ensure_running()
    signal.signal(signal.SIGTERM, handler)

    with tempfile.TemporaryDirectory(prefix="granite41-") as folder:
        address = str(Path(folder) / "socket")
        with Listener(address, family="AF_UNIX", backlog=16) as listener:
            commands = _Commands()
            _start_thread(commands.accept, listener)
            try:
                yield {PRELOADED: address}
            finally:
                commands.end()


def run_in_fork(address: str, arguments: Sequence[str]) -> int:
    """Run ``granite41 ARGUMENTS`` in a fork in this process's place; return its exit status."""
    # without the variable, as the fork runs the command itself
    environment = dict(os.environ)
    environment.pop(PRELOADED, None)
    request = {
        "arguments": list(arguments),
        "folder": str(Path.cwd()),
        "environment": environment,
    }
    # a signal waits until the launcher has the request and can pass it on
    signal.pthread_sigmask(signal.SIG_BLOCK, _RELAYED)
    with Client(address, family="AF_UNIX") as connection, suppress(EOFError, ConnectionError):
        connection.send_bytes(json.dumps(request).encode())
        for stream in (1, 2):
            send_handle(connection, stream, None)
        for signum in _RELAYED:
            signal.signal(
                signum,
                lambda signum, frame: connection.send_bytes(bytes([signum])),
            )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _RELAYED)
        return connection.recv_bytes()[0]
    # without an answer the launcher itself was killed
    return 128 + signal.SIGKILL


def _start_thread(target: Callable[..., None], *arguments: object) -> None:
    """Run ``target`` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Have processes that are started meanwhile write their standard error to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Commands:
    """The commands that run in forks, each for its client."""

    def __init__(self) -> None:
        # held while a process is started or reaped: the library looks at all of them in either
        self._lock = threading.Lock()
        self._running: set[BaseProcess] = set()

    def accept(self, listener: Listener) -> None:
        """Serve every client in a thread of its own, until the listener is closed."""
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            _start_thread(self._serve, connection)

    def end(self) -> None:
        """Kill the commands that still run."""
        with self._lock:
            for process in self._running:
                process.kill()

    def _serve(self, connection: Connection) -> None:
        """Run a client's command, pass its signals on, and answer with the exit status."""
        # a client may be killed at any moment, also before it has handed everything over
        with connection, suppress(EOFError, OSError, RuntimeError):
            process = self._start(connection)
            try:
                while process.sentinel not in wait([connection, process.sentinel]):
                    signum = connection.recv_bytes()[0]
                    if process.pid:
                        os.kill(process.pid, signum)
            except (EOFError, OSError):
                process.kill()
            status = self._reap(process)
            # a process that a signal ended has the negative number of the signal
            if status < 0:
                status = 128 - status
            connection.send_bytes(bytes([status]))

    def _start(self, connection: Connection) -> BaseProcess:
        request = json.loads(connection.recv_bytes())
        # as connections, which can be handed to another process
        streams = [Connection(recv_handle(connection)) for _ in range(2)]
        process = _CONTEXT.Process(
            target=_become_command,
            args=(request, streams),
        )
        with self._lock:
            process.start()
            self._running.add(process)
        for stream in streams:
            stream.close()
        return process

    def _reap(self, process: BaseProcess) -> int:
        wait([process.sentinel])
        with self._lock:
            process.join()
            self._running.remove(process)
        return process.exitcode or 0


def _become_command(request: dict[str, Any], streams: list[Connection]) -> None:
    """Become the process that the client would have been, and run its command."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # a Ctrl-C in the terminal reaches the client alone, which passes it on
    os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
        stream.close()
    # the folder and the variables are the client's, not the launcher's
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["granite41", *request["arguments"]]
    _start_thread(_end_with_launcher)
    _run_command()


def _end_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    if launcher:
        wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _run_command() -> None:
    if "OMP_NUM_THREADS" in os.environ and "torch" in sys.modules:
        # torch reads the variable when it is imported, and torchrun sets it for each rank
        threads = int(os.environ["OMP_NUM_THREADS"])
        sys.modules["torch"].set_num_threads(threads)
    runpy.run_module("recipes.cli", run_name="__main__", alter_sys=True)
