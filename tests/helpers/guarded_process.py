"""A daemon whose processes end with it, however it ends: by itself, a signal, or its parent."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def start(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start ``command``, which must stay in the foreground, with its output appended to ``log``.

    The process returned is a guard around it: it ends when the command ends, and :func:`stop` (or
    the end of the calling process) makes it kill the command and every process that descends from
    it, daemons included.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # an interrupt from the keyboard is for the tests, which then stop the guard
            start_new_session=True,
        )


def stop(*guards: subprocess.Popen) -> None:
    """Kill what the guards guard, and wait until nothing of it is left."""
    for guard in guards:
        guard.terminate()
    for guard in guards:
        guard.wait()


def _guard(parent: int, command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # a descendant that loses its parent becomes the guard's child
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return 1
    try:
        daemon = subprocess.Popen(command)
        while True:
            process, status = os.wait()
            if process == daemon.pid:
                return os.waitstatus_to_exitcode(status)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_children()


def _kill_children() -> None:
    with suppress(ChildProcessError):
        while True:
            for child in _children():
                os.kill(child, signal.SIGKILL)
            # the children of a killed child are the guard's own now
            os.wait()


def _children() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # it may have ended meanwhile
        with suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                yield int(stat.parent.name)


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
