"""Runs programs that a model has written, isolated from the network, files and other processes.

Every program has its own Linux namespaces (network, mounts, processes, IPC, host name), and where
the user is not the machine's root, users as well. It sees the system's libraries (/usr, /lib),
Python's standard library and NumPy, read-only, and a /tmp of its own in memory (64 MB): no home, no
/proc, no devices but null, zero and urandom, no environment variable of the user, empty standard
input, no standard output, no capability, no network interface that is up. Bounded are wall-clock
and CPU time, address space, file size, processes (64) and open files; the processes that it has
started end with it.

Not covered: faults of the kernel, which all programs share (no system call is filtered); files
under /usr that everyone may read, such as a license key left in one; the memory of all its
processes together, which may each use the limit; the number of processes where root lacks the right
to mount (a container's root), which only the time then bounds; and load that other programs on the
machine can notice.
"""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
PASSED = "passed"
# a program that depends on the order of a set has the same outcome every time
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_numbers = itertools.count(os.getpid() % 10_000 * 10_000)


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        passed: it ran to its end without an exception.
        reason: ``passed``, ``failed: EXCEPTION: MESSAGE``, ``timed out``, ``out of memory`` or
            ``killed: SIGNAL``.
    """

    passed: bool
    reason: str


def run_python(program: str, *, seconds: float, memory_bytes: int) -> Outcome:
    """Run ``program`` as ``__main__`` in a sandbox; it passes where its last line is reached.

    Args:
        seconds: limit of wall-clock time, and nearly of CPU time.
        memory_bytes: limit of the address space of each of its processes.

    Raises:
        UserError: the machine does not allow the namespaces; the program was not run.
    """
    readable, packages = _libraries()
    request = {
        "program": program,
        "seconds": seconds,
        "memory_bytes": memory_bytes,
        "number": next(_numbers),
        "readable": readable,
        "packages": packages,
    }
    answer = _launch(request)
    if answer is None:
        return Outcome(False, "killed: with its sandbox")
    if "refused" in answer:
        raise UserError(
            "generated code was not run: its sandbox needs Linux namespaces, a kernel from 5.12 on "
            "and a Python that all may read, which this machine refuses "
            f"({answer['refused']}); allow user namespaces (sysctl "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; "
            "Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined) or "
            "leave the code tasks out"
        )
    return Outcome(answer["outcome"] == PASSED, answer["outcome"])


def require_sandbox() -> None:
    """Raise UserError unless this machine allows the sandbox."""
    run_python("", seconds=60, memory_bytes=2**30)


def run_many(
    programs: Iterable[str],
    workers: int,
    *,
    seconds: float,
    memory_bytes: int,
) -> list[Outcome]:
    """Run programs as :func:`run_python` does, ``workers`` at a time; outcomes keep their order."""
    run = partial(run_python, seconds=seconds, memory_bytes=memory_bytes)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, programs))


def _launch(request: dict[str, Any]) -> dict[str, str] | None:
    """Return the launcher's answer to a request; None where it was killed with the program.

    Raises:
        RuntimeError: the launcher failed.
    """
    # without site packages, the user's packages and the launcher's folder in the import path
    launcher = subprocess.Popen(
        [sys.executable, "-S", "-s", "-P", str(LAUNCHER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        start_new_session=True,
        cwd="/",
    )
    try:
        output, errors = launcher.communicate(json.dumps(request).encode())
    finally:
        # an interrupt must not leave the program running
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()

    if output:
        return json.loads(output)
    # the first process of the namespace died, and all others with it
    if launcher.returncode == 0:
        return None
    last_line = errors.decode(errors="replace").strip().splitlines()[-1:]
    raise RuntimeError(
        f"{LAUNCHER.name} ended with status {launcher.returncode}: {' '.join(last_line)}"
    )


def _libraries() -> tuple[list[str], list[str]]:
    """Return the folders that a program may read besides the system's, and its import path."""
    readable = [sys.base_prefix]
    # the tests of HumanEval+ and MBPP+ import NumPy
    numpy = importlib.util.find_spec("numpy")
    if numpy is None or numpy.origin is None:
        return readable, []

    folder = Path(numpy.origin).resolve().parent
    shared_libraries = folder.with_name("numpy.libs")
    readable += [str(path) for path in (folder, shared_libraries) if path.exists()]
    return readable, [str(folder.parent)]
