"""A file's lock: alone or shared, between threads and processes, and not kept by a fork."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recipes.common import locks
from recipes.common.errors import LockedError
from recipes.common.locks import file_lock

pytestmark = pytest.mark.fast

# with "forks" a child says so, and outlives the holder
HOLDER = """
import os, sys
from pathlib import Path
from recipes.common.locks import file_lock
with file_lock(Path(sys.argv[1]), "writes here", shared=sys.argv[2] == "shared"):
    if sys.argv[2] == "forks" and os.fork():
        os.read(0, 1)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder/.lock"


def start_holder(file: Path, mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_kept_out_until_the_holder_is_killed(file: Path) -> None:
    process = start_holder(file, "alone")
    message = rf"folder: process {process.pid} on .* writes here; wait until it has ended, or stop"
    for shared in (False, True):
        with (
            pytest.raises(LockedError, match=message),
            file_lock(file, "writes here", shared=shared),
        ):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with file_lock(file, "writes here"):
        pass


def test_it_is_shared_with_those_who_share_it(file: Path) -> None:
    with file_lock(file, "writes here"):
        pass
    process = start_holder(file, "shared")
    with file_lock(file, "writes here", shared=True):
        pass
    # not the process that held it alone before
    with (
        pytest.raises(LockedError, match="folder: another process writes here"),
        file_lock(file, "writes here"),
    ):
        pass
    process.communicate()
    with file_lock(file, "writes here"):
        pass


def test_a_second_holder_in_the_same_process_is_kept_out(file: Path) -> None:
    refused = []

    def acquire() -> None:
        try:
            with file_lock(file, "writes here"):
                pass
        except LockedError as error:
            refused.append(str(error))

    with file_lock(file, "writes here"):
        acquire()
        thread = threading.Thread(target=acquire)
        thread.start()
        thread.join()
        # the failed attempts have not freed it
        acquire()
    assert len(refused) == 3
    acquire()
    assert len(refused) == 3


def test_a_fork_that_outlives_its_holder_does_not_hold_it(file: Path) -> None:
    process = start_holder(file, "forks")
    with pytest.raises(LockedError), file_lock(file, "writes here"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with file_lock(file, "writes here"):
        pass
    # the child ends with its standard input
    assert process.stdin
    process.stdin.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with (
        caplog.at_level(logging.WARNING, "recipes"),
        file_lock(file, "writes here"),
    ):
        pass
    assert f"no locks here ({os.strerror(number)}), so nothing keeps a second" in caplog.text


def test_other_errors_of_the_file_system_are_raised(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), file_lock(file, "writes here"):
        pass
