"""Runs programs that a model has written, and judges them from outside of their process.

:func:`judge` runs tests that call a program's functions. The tests run in another process: nothing
that the program can reach decides. :func:`collect` returns what a program prints and what its
functions return, for rewards that compare it themselves.

Arguments and results pass as values of built-in types: None, bool, int, float, complex, str, bytes,
list, tuple, dict, set, frozenset and range. An object of a subclass arrives as what it extends (a
``Counter`` as dict), a NumPy scalar as a number, an iterator as one over its first 65,536 items, an
exception as the nearest built-in one with its message (those that would end a loop or the process,
as RuntimeError), and any other object as :class:`~evaluation.sandbox_judge.Opaque`. Tests that pass
other objects, such as functions, are ``unjudgeable``, which is not passed; so are, as failed, those
that use attributes of what is returned. Arguments are copies: a change in place is not seen.

Every program has its own Linux namespaces (mounts, processes, IPC); those of network and host name,
and where the user is not the machine's root, users, it has in common with those that run before and
after it. It sees the system's libraries (/usr, /lib), Python's standard library and NumPy,
read-only, and a /tmp of its own in memory (64 MB): no home, no /proc, no devices but null, zero and
urandom, no environment variable of the user, no tests, no file but the two through which it is
called, no capability, no network interface that is up. Bounded are wall-clock and CPU time, address
space, file size, output (64 MB), returned values (16 MiB), processes (64) and open files; the
processes that it has started end with it. Tests run under the same limits.

Not covered: a program that recognizes the arguments and knows the answers; faults of the kernel,
which all programs share (no system call is filtered); files under /usr that everyone may read, such
as a license key left in one; the memory of all its processes together and of unnamed files, each of
which may reach its limit; the number of processes where root lacks the right to mount (a
container's root), which only the time then bounds; and load that other programs on the machine can
notice.
"""

import contextlib
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, cast

from evaluation.sandbox_judge import PASSED, decode, encode, receive, send
from recipes.common.errors import UserError

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
# a program that depends on the order of a set has the same outcome every time
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(LAUNCHER.parents[1])}
_numbers = itertools.count(os.getpid() % 10_000 * 10_000)


@dataclass(frozen=True)
class Trial:
    """A program and the tests that decide about it.

    Attributes:
        program: source that a model has written, run as ``__main__``.
        tests: source that calls its functions and raises an exception unless they are right.
        functions: names in ``tests`` that are the program's functions.
        setup: source that runs before ``tests``, such as imports; what it defines under a name of
            ``functions`` is replaced.
    """

    program: str
    tests: str
    functions: Sequence[str]
    setup: str = ""


@dataclass(frozen=True)
class Outcome:
    """How tests ended.

    Attributes:
        passed: they ran to their end without an exception.
        reason: ``passed``, ``failed: EXCEPTION: MESSAGE``, ``timed out``, ``out of memory``,
            ``killed: SIGNAL`` or ``unjudgeable: WHY``.
    """

    passed: bool
    reason: str


@dataclass(frozen=True)
class Run:
    """A program without tests.

    Attributes:
        program: source that a model has written, run as ``__main__``.
        given: its standard input.
        calls: functions of the program and their arguments, called in order after its end.
    """

    program: str
    given: str = ""
    calls: Sequence[tuple[str, tuple[Any, ...]]] = ()


@dataclass(frozen=True)
class Output:
    """What a program gave.

    Attributes:
        reason: ``ended``, or as of :class:`Outcome`; a program can end well without its last line.
        printed: the first MiB of its standard output; empty where it timed out.
        returned: values of the calls, until the first that failed.
    """

    reason: str
    printed: str = ""
    returned: Sequence[Any] = ()


def judge(
    trials: Iterable[Trial],
    workers: int,
    *,
    seconds: float,
    memory_bytes: int,
) -> list[Outcome]:
    """Run the tests of every trial, ``workers`` at a time; outcomes keep the order of trials.

    Args:
        seconds: limit of wall-clock time of a trial, and nearly of CPU time.
        memory_bytes: limit of the address space of each process.

    Raises:
        UserError: the machine does not allow the namespaces; no program was run.
    """
    tasks = []
    for trial in trials:
        task = asdict(trial)
        tasks.append((task.pop("program"), "", task))
    answers = _answers(tasks, workers, seconds, memory_bytes)
    reasons = [answer["reason"] for answer in answers]
    return [Outcome(reason == PASSED, reason) for reason in reasons]


def collect(
    runs: Iterable[Run],
    workers: int,
    *,
    seconds: float,
    memory_bytes: int,
) -> list[Output]:
    """Run programs and return what they give; limits and errors are those of :func:`judge`."""
    tasks = [(run.program, run.given, {"calls": list(run.calls)}) for run in runs]
    answers = _answers(tasks, workers, seconds, memory_bytes)
    return [Output(**answer) for answer in answers]


def require_sandbox() -> None:
    """Raise UserError unless this machine allows the sandbox."""
    collect([Run("")], 1, seconds=60, memory_bytes=2**30)


def _answers(
    tasks: Sequence[tuple[str, str, dict[str, Any]]],
    workers: int,
    seconds: float,
    memory_bytes: int,
) -> list[dict[str, Any]]:
    """Return the launchers' answers to programs, their standard input and the judge's tasks."""
    idle: SimpleQueue[_Launcher] = SimpleQueue()
    workers = min(workers, len(tasks))

    def answer(task: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
        program, given, judgment = task
        request = {
            "program": program,
            "given": given,
            "seconds": seconds,
            "memory_bytes": memory_bytes,
            "number": next(_numbers),
        }
        launcher = idle.get()
        try:
            return launcher.answer(request, judgment)
        finally:
            idle.put(launcher)

    # once for all, where tests import it
    numpy = any("numpy" in str(judgment) for _, _, judgment in tasks)
    with contextlib.ExitStack() as launchers:
        for _ in range(workers):
            idle.put(launchers.enter_context(_Launcher(numpy)))
        with ThreadPoolExecutor(max(1, workers)) as pool:
            return list(pool.map(answer, tasks))


class _Launcher:
    """A process that runs programs, one at a time, with NumPy imported before if ``numpy``."""

    def __init__(self, numpy: bool) -> None:
        self.numpy = numpy

    def __enter__(self) -> "_Launcher":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._stop()

    def answer(self, request: dict[str, Any], judgment: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            UserError: the machine does not allow the namespaces; the program was not run.
            RuntimeError: the launcher failed.
        """
        try:
            os.write(self._requests, b"+")
            send(self._requests, encode(request))
            send(self._requests, encode(judgment))
            answer = decode(receive(self._reports))
        except (BrokenPipeError, EOFError) as error:
            errors = self._stop()
            if errors:
                raise RuntimeError(f"{LAUNCHER.name} failed: {errors[-1]}") from error
            # a process of the sandbox was killed from outside, and this one has left
            self._start()
            return {"reason": "killed: with its sandbox"}
        if "refused" in answer:
            raise UserError(
                "generated code was not run: its sandbox needs Linux namespaces, a kernel from "
                "5.12 on and a Python that all may read, which this machine refuses "
                f"({answer['refused']}); allow user namespaces (sysctl "
                "kernel.unprivileged_userns_clone=1, "
                "kernel.apparmor_restrict_unprivileged_userns=0; Docker: --security-opt "
                "seccomp=unconfined --security-opt apparmor=unconfined) or leave the code tasks out"
            )
        return answer

    def _start(self) -> None:
        # without site packages, the user's packages and the launcher's folder in the import path
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", str(LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
            cwd="/",
        )
        self._requests = cast(BinaryIO, self._process.stdin).fileno()
        self._reports = cast(BinaryIO, self._process.stdout).fileno()
        readable, packages = _libraries()
        settings = {"readable": readable, "packages": packages, "numpy": self.numpy}
        send(self._requests, encode(settings))

    def _stop(self) -> list[str]:
        """End the process, and with it any program, and return the lines of its errors."""
        os.killpg(self._process.pid, signal.SIGKILL)
        _, errors = self._process.communicate()
        return errors.decode(errors="replace").splitlines()


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
