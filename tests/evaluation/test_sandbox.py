"""Programs in the sandbox: what judges and callers see of them, and what they cannot reach."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from evaluation.sandbox import Outcome, Output, Run, Trial, collect, judge
from evaluation.sandbox_judge import Opaque
from evaluation.sandbox_launcher import is_machine_root

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("namespaces")]

ENDED = Output("ended", "", [])
LIMITS = {"seconds": 60.0, "memory_bytes": 2**30}


def run(program: str, given: str = "", calls: Sequence[tuple[str, tuple[Any, ...]]] = ()) -> Output:
    [output] = collect([Run(program, given, calls)], 1, seconds=60.0, memory_bytes=2**30)
    return output


def problems() -> Iterator[Any]:
    """Yield program, tests and reason of every row of sandbox_problems.txt."""
    text = Path(__file__).with_name("sandbox_problems.txt").read_text()
    _, *rows = re.split("^=== (.*)\n", text, flags=re.MULTILINE)
    for head, row in zip(rows[::2], rows[1::2], strict=True):
        name, reason = head.split(" => ")
        yield pytest.param(*row.split("....\n"), reason, id=name)


@pytest.mark.parametrize(("program", "tests", "reason"), list(problems()))
def test_judged(program: str, tests: str, reason: str) -> None:
    outcomes = judge([Trial(program, tests, ["f", "g"])], 1, **LIMITS)
    assert outcomes == [Outcome(reason == "passed", reason)]


def test_setup_is_replaced_by_the_functions() -> None:
    setup = "def f(): return 1\ndef helper(): return f()"
    trial = Trial("def f(): return 2\ndef helper(): return 9", "assert helper() == 2", ["f"], setup)
    assert judge([trial], 1, **LIMITS) == [Outcome(True, "passed")]


def test_what_a_program_gives() -> None:
    program = """
import atexit, sys, threading
def double(x): return 2 * x
print(input().upper())
atexit.register(print, "bye")
threading.Timer(0.1, print, ["thread"]).start()
print("error", file=sys.stderr)
"""
    output = run(program, "hi\n", [("double", (4,)), ("double", ("é",))])
    assert output == Output("ended", "HI\nthread\nbye\n", [8, "éé"])


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("print(1)\nimport sys\nsys.exit()", Output("ended", "1\n", [])),
        (
            "print(1)\nimport sys\nsys.exit(3)",
            Output("failed: RuntimeError: SystemExit: 3", "1\n", []),
        ),
        ("print(1)\n1 / 0", Output("failed: ZeroDivisionError: division by zero", "1\n", [])),
        ("input()", Output("failed: EOFError: EOF when reading a line", "", [])),
        (
            "import os\nprint(1, flush=True)\nos._exit(0)",
            Output("failed: left with exit status 0 before its end", "1\n", []),
        ),
        ("print('x' * 2**21, end='')", Output("ended", "x" * 2**20, [])),
        (
            "import os\nif os.fork():\n    os.wait()\n    raise ValueError",
            Output("failed: ValueError", "", []),
        ),
    ],
)
def test_end_of_a_program(program: str, output: Output) -> None:
    assert run(program) == output


def test_calls_end_with_the_first_that_fails() -> None:
    output = run("f = int", calls=[("f", ("1",)), ("f", ("x",)), ("f", ("2",))])
    assert output.reason == "failed: ValueError: invalid literal for int() with base 10: 'x'"
    assert output.returned == [1]


def test_objects_are_opaque_to_the_caller() -> None:
    [[value]] = run("def f(): return [open]", calls=[("f", ())]).returned
    assert isinstance(value, Opaque)
    assert value.kind == "builtin_function_or_method"


def test_more_than_the_memory_of_a_caller_is_refused() -> None:
    output = run("def f(): return 'x' * 2**23", calls=[("f", ())] * 3)
    assert output == Output("failed: returned more than 16 MiB")


def test_a_killed_sandbox_does_not_end_the_others() -> None:
    outcomes = []
    right = Trial("f = int", "assert f(1) == 1", ["f"])
    trials = [Trial("import time; time.sleep(60)", "", []), right, right]
    thread = threading.Thread(target=lambda: outcomes.extend(judge(trials, 1, **LIMITS)))
    thread.start()
    launcher = child_of(os.getpid(), "sandbox_launcher")
    os.kill(child_of(launcher, "sandbox_launcher"), signal.SIGKILL)
    thread.join()
    reasons = [outcome.reason for outcome in outcomes]
    assert reasons == ["killed: with its sandbox", "passed", "passed"]


def child_of(parent: int, name: str) -> int:
    """Wait for a child whose command line has ``name``; return its process id."""
    command = ["pgrep", "--parent", str(parent), "--full", name]
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout:
            return int(done.stdout.split()[0])
        time.sleep(0.05)


@pytest.mark.skipif(
    os.geteuid() == 0 and not is_machine_root(), reason="root in a container has no limit"
)
def test_processes_are_limited() -> None:
    # children that stay, so that the parent itself comes to the limit
    output = run("import os, time\nfor _ in range(99): os.fork() or time.sleep(99)")
    assert output.reason.startswith("failed: BlockingIOError: [Errno 11]")


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address).close()
        output = run(f"import socket\nsocket.create_connection({address})")
    assert output.reason == "failed: OSError: [Errno 101] Network is unreachable"


def test_nothing_of_the_user_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    unseen = [
        str(secret),
        str(ROOT / "pyproject.toml"),
        str(Path.home() / ".cache"),
        "/etc/passwd",
        "/proc/1/environ",
    ]
    # a library that a program may read may lie beneath /tmp itself
    library = Path(numpy.__file__).resolve()
    own = [library.parts[2]] if library.is_relative_to("/tmp") else []
    program = f"""
import os
assert "secret" not in repr(os.environ)
for path in {unseen}:
    assert not os.path.exists(path), path
assert os.getcwd() == "/tmp" and os.listdir() == {own}
"""
    assert run(program) == ENDED


def test_only_its_own_folder_is_writable(tmp_path: Path) -> None:
    program = f"""
import os, sys
open("here", "w").write("x")
libraries = os.path.dirname(os.__file__)
for folder in ("/", "/usr", "/dev", sys.base_prefix, libraries, {str(tmp_path)!r}):
    try:
        open(os.path.join(folder, "there"), "w")
    except OSError:
        continue
    raise ValueError(folder)
"""
    assert run(program) == ENDED
    assert not Path("/tmp/here").exists()


def test_library_in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    library.mkdir()
    library.chmod(0o777)
    (library / "shelf.py").write_text("BOOKS = 3")
    libraries = [sys.base_prefix, str(library)], [str(library)]
    monkeypatch.setattr("evaluation.sandbox._libraries", lambda: libraries)
    program = f"import shelf\nassert shelf.BOOKS == 3\nopen({str(library / 'there')!r}, 'w')"
    assert run(program).reason.startswith("failed: OSError: [Errno 30] Read-only file system")


def test_no_privilege_is_left() -> None:
    program = """
import ctypes, os
assert os.getuid() != 0
libc = ctypes.CDLL(None)
MS_REMOUNT, MS_BIND = 32, 4096
assert libc.mount(None, b"/usr", None, MS_REMOUNT | MS_BIND, None) == -1
libc.unshare(0x10020000)  # new users and mounts, if it may
assert libc.mount(None, b"/usr", None, MS_REMOUNT | MS_BIND, None) == -1
"""
    assert run(program) == ENDED


def test_what_a_program_has_started_ends_with_it() -> None:
    mark = f"sleeper-{os.getpid()}"
    program = f"""
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    os.execv("/usr/bin/sleep", [{mark!r}, "60"])
time.sleep(0.2)
assert os.waitpid(child, os.WNOHANG) == (0, 0)
"""
    assert run(program) == ENDED
    command = ["ps", "-eo", "args"]
    processes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert mark not in processes


def in_user_namespace(setup: str, program: str) -> str:
    """Run ``program`` through the sandbox as root of a user namespace, as in a rootless container.

    Args:
        setup: a shell command before it.
    """
    call = f"collect([Run({program!r})], 1, seconds=60, memory_bytes=2**30)"
    code = f"from evaluation.sandbox import Run, collect; print({call})"
    command = f"{setup} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    unshare = ["unshare", "--user", "--map-root-user", "sh", "-c", command]
    done = subprocess.run(unshare, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout + done.stderr


def test_within_a_user_namespace() -> None:
    output = in_user_namespace("true", "import os; assert os.getuid() == 1000")
    assert "Output(reason='ended'" in output


@pytest.mark.parametrize(
    ("limit", "number"),
    [
        ("max_net_namespaces", 0),
        ("max_pid_namespaces", 0),
        ("max_pid_namespaces", 1),
        ("max_mnt_namespaces", 1),
    ],
)
def test_without_namespaces_nothing_runs(limit: str, number: int) -> None:
    output = in_user_namespace(f"echo {number} > /proc/sys/user/{limit}", "pass")
    assert "UserError: generated code was not run" in output
    assert "Output" not in output
