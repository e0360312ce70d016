"""A process that has NeMo loaded and forks for every task of a chain: the import takes 25 s, a fork none.

``granite41`` hands its command line over when the environment names the server's socket, so that a task of the chain is
the same command with and without one. The two talk over a Unix socket in a folder that only this user can enter:

- client: a length, then JSON with arguments, working folder and environment; its stdin, stdout and stderr go with the
  first bytes; after that one byte for every signal that it receives;
- server: one byte, the exit status.

When either end is gone, the other one's process is ended too.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "GRANITE41_WARM"
_RELAYED = (signal.SIGTERM, signal.SIGINT)
_LENGTH_BYTES = 4


@contextmanager
def server(modules: Sequence[str]) -> Iterator[dict[str, str]]:
    """Import ``modules``, fork a server, and yield the environment variable that leads commands to it.

    No thread may run in this process yet, nor CUDA be in use: a fork keeps neither.
    """
    for name in modules:
        importlib.import_module(name)
    with (
        tempfile.TemporaryDirectory(prefix="granite41-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        address = str(Path(folder) / "socket")
        listener.bind(address)
        listener.listen()
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _end(lambda: _serve(listener, theirs))
        theirs.close()
        try:
            yield {ADDRESS: address}
        finally:
            ours.close()
            os.waitpid(pid, 0)


def ask(address: str, arguments: Sequence[str]) -> int:
    """Have the server at ``address`` run ``granite41 ARGUMENTS`` in this process's place; return the exit status."""
    environment = {name: value for name, value in os.environ.items() if name != ADDRESS}
    request = {"arguments": list(arguments), "folder": str(Path.cwd()), "environment": environment}
    content = json.dumps(request).encode()
    status = b""
    # a signal waits until the server has the request and can have it
    signal.pthread_sigmask(signal.SIG_BLOCK, _RELAYED)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(content).to_bytes(_LENGTH_BYTES, "big")], [0, 1, 2])
        connection.sendall(content)
        for signum in _RELAYED:
            signal.signal(signum, lambda signum, frame: connection.send(bytes([signum])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _RELAYED)
        with suppress(ConnectionError):
            status = connection.recv(1)
    # without an answer the server itself was killed
    return status[0] if status else 128 + signal.SIGKILL


def _serve(listener: socket.socket, owner: socket.socket) -> None:
    """Fork for every connection, until ``owner`` is closed at its other end."""
    # signals may go to the whole process group; what they end is the owner's choice
    for signum in _RELAYED:
        signal.signal(signum, signal.SIG_IGN)
    # the collector writes into every object that it looks at, which would copy the shared pages in each fork
    gc.collect()
    gc.freeze()
    clients: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(owner, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is owner:
                    for pid in clients:
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj is listener:
                    connection = listener.accept()[0]
                    request, streams = _receive(connection)
                    pid = os.fork()
                    if pid == 0:
                        for other in (listener, owner, connection, *clients.values()):
                            other.close()
                        _run(request, streams)
                    for stream in streams:
                        os.close(stream)
                    clients[pid] = connection
                    selector.register(connection, selectors.EVENT_READ, pid)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                elif isinstance(key.fileobj, int):
                    # the process has ended
                    connection = clients.pop(key.data)
                    selector.unregister(key.fileobj)
                    os.close(key.fileobj)
                    selector.unregister(connection)
                    _answer(connection, os.waitpid(key.data, 0)[1])
                elif key.data in clients:
                    _relay(clients[key.data], key.data)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a client's request and its stdin, stdout and stderr."""
    length, streams, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
    content = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    return json.loads(content), streams


def _relay(connection: socket.socket, pid: int) -> None:
    """Send a process the signals that its client has received; a client that was killed takes it along."""
    try:
        signals = connection.recv(16)
    except ConnectionError:
        signals = b""
    for signum in signals or [signal.SIGKILL]:
        os.kill(pid, signum)


def _answer(connection: socket.socket, status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    with connection, suppress(OSError):
        connection.send(bytes([code if code >= 0 else 128 - code]))


def _run(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Become the process that the client would have been, and run its command."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["granite41", *request["arguments"]]
    _end(_command)


def _command() -> None:
    import multiprocessing

    from recipes.cli.main import main

    if "OMP_NUM_THREADS" in os.environ and "torch" in sys.modules:
        # torch reads the variable when it is imported, and torchrun sets it for each rank
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    inherited = multiprocessing.active_children()
    try:
        main()
    finally:
        # Python would end them where it ends: a manager's process holds on to the command's output
        for child in multiprocessing.active_children():
            if child not in inherited:
                child.terminate()


def _end(function: Callable[[], object]) -> NoReturn:
    """Call ``function`` and end this process as Python ends one, but for the handlers that its parent has set."""
    status = 1
    try:
        function()
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
