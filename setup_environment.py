"""Make .venv with everything pinned, or say in one sentence why not.

Needs the system's Python and nothing else.
"""

import errno
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
INPUTS = ("requirements.txt", "requirements-test.txt", "requirements.lock", "pyproject.toml")
# 3.2 GB once installed with torch's CPU build, plus what pip unpacks on the way
NEEDED_BYTES = 6 * 10**9
# the one that comes with Python 3.11 takes twice as long to find out what to install
PIP = "pip==26.3"


class SetupError(Exception):
    """Why the environment cannot be made: one sentence."""


def check_python(major, minor):
    """Raise SetupError unless the version is 3.11, the one Python that every pinned library
    supports.
    """
    if (major, minor) != (3, 11):
        raise SetupError(
            f"Python {major}.{minor} found, but the pinned libraries need 3.11: "
            f"install it and run make with PYTHON=/path/to/python3.11"
        )


def check_space(free_bytes):
    """Raise SetupError unless there is room for the environment."""
    if free_bytes < NEEDED_BYTES:
        raise SetupError(
            f"{free_bytes / 1e9:.1f} GB free where .venv goes, but it needs "
            f"{NEEDED_BYTES / 1e9:.0f} GB: "
            f"free some and run again"
        )


def fingerprint():
    """Return a hash of everything that decides what is installed, and of where."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_ready():
    """Whether .venv was completed from these very inputs."""
    ready = VENV / "ready"
    return ready.exists() and ready.read_text() == fingerprint()


def run(*command, check=True):
    """Run a command quietly; raise SetupError with its last line of error if it fails, unless it
    may.
    """
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == 0 or not check:
        return
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    lines = done.stderr.strip().splitlines() or ["no message"]
    raise SetupError(f"'{' '.join(command[1:4])} ...' failed: {lines[-1]}")


def install():
    """Make .venv, install the pinned requirements and the package itself."""
    print(
        "setup: installing the pinned requirements into .venv (about 4 minutes and 3.2 GB, once)",
        flush=True,
    )
    started = time.time()
    run(sys.executable, "-m", "venv", "--clear", str(VENV))
    python = str(VENV / "bin" / "python")
    pip = (python, "-m", "pip", "install", "-qq", "--no-compile", "--disable-pip-version-check")
    run(*pip, PIP)
    run(*pip, "-r", "requirements.txt", "-r", "requirements-test.txt", "-c", "requirements.lock")
    # pip compiles on one core, and the packages' own tests too; a file of another Python's syntax,
    # which some packages carry, is no failure
    run(
        python,
        "-m",
        "compileall",
        "-qq",
        "-j",
        "0",
        "-x",
        "/tests/",
        str(VENV / "lib"),
        check=False,
    )
    # the package itself is built with the setuptools just installed, not with one fetched for it
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    (VENV / "ready").write_text(fingerprint())
    print(f"setup: done in {time.time() - started:.0f} s", flush=True)


def main():
    """Make the environment if it is not there; exit status 2 where the machine cannot hold it."""
    try:
        check_python(*sys.version_info[:2])
        if not is_ready():
            check_space(shutil.disk_usage(ROOT).free)
            install()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            "setup: the disk that holds .venv is full: free some space and run again",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
