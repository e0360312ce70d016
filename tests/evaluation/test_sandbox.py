"""Programs in the sandbox: how each end is reported, and what none of them can reach."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from evaluation.sandbox import Outcome, run_many, run_python

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("namespaces")]


def run(program: str, seconds: float = 20.0, memory_bytes: int = 2**30) -> Outcome:
    return run_python(program, seconds=seconds, memory_bytes=memory_bytes)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def double(x):\n    return 2 * x\nassert double(2) == 4", "passed"),
        ("import numpy\nassert numpy.allclose([1.0], [1.0])", "passed"),
        ("import sys\nprint('x' * 10**7)\nprint('y' * 10**7, file=sys.stderr)", "passed"),
        ("assert 1 == 2", "failed: AssertionError"),
        ("assert 1 == 2, 'one is not two'", "failed: AssertionError: one is not two"),
        ("def (", "failed: SyntaxError: invalid syntax (<program>, line 1)"),
        ("import sys\nsys.exit(0)\nassert False", "failed: SystemExit: 0"),
        ("import os\nos._exit(0)\nassert False", "failed: left with exit status 0 before its end"),
        ("input()", "failed: EOFError: EOF when reading a line"),
        ("import os\nif os.fork():\n    os.wait()\n    raise ValueError", "failed: ValueError"),
        ("import ctypes\nctypes.string_at(0)", "killed: SIGSEGV"),
        ("hog = 'x' * 2**31", "out of memory"),
        (
            "flood = open('flood', 'wb')\nwhile True: flood.write(b'x' * 2**20)",
            "failed: OSError: [Errno 27] File too large",
        ),
    ],
)
def test_end_of_a_program(program: str, reason: str) -> None:
    assert run(program) == Outcome(reason == "passed", reason)


def test_endless_programs_end_at_their_time() -> None:
    programs = ["while True: pass", "import time; time.sleep(60)", "pass"]
    outcomes = run_many(programs, 3, seconds=1.0, memory_bytes=2**30)
    assert [outcome.reason for outcome in outcomes] == ["timed out", "timed out", "passed"]


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address).close()
        outcome = run(f"import socket\nsocket.create_connection({address})")
    assert outcome.reason == "failed: OSError: [Errno 101] Network is unreachable"


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
    assert run(program) == Outcome(True, "passed")


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
    assert run(program) == Outcome(True, "passed")
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
    assert run(program) == Outcome(True, "passed")


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
    assert run(program) == Outcome(True, "passed")
    command = ["ps", "-eo", "args"]
    processes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert mark not in processes


def in_user_namespace(setup: str, program: str) -> str:
    """Run ``program`` through the sandbox as root of a user namespace, as in a rootless container.

    Args:
        setup: a shell command before it.
    """
    call = f"run_python({program!r}, seconds=20, memory_bytes=2**30)"
    code = f"from evaluation.sandbox import run_python; print({call})"
    command = f"{setup} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    unshare = ["unshare", "--user", "--map-root-user", "sh", "-c", command]
    done = subprocess.run(unshare, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout + done.stderr


def test_within_a_user_namespace() -> None:
    output = in_user_namespace("true", "import os; assert os.getuid() == 1000")
    assert "Outcome(passed=True, reason='passed')" in output


def test_without_namespaces_nothing_runs() -> None:
    output = in_user_namespace("echo 0 > /proc/sys/user/max_net_namespaces", "pass")
    assert "UserError: generated code was not run" in output
    assert "Outcome" not in output
