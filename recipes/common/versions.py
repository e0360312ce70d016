"""What ran: the commit of this code and the versions of libraries."""

import importlib.metadata
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from recipes.common.environment import COMMIT


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each package; None for what is not installed."""
    return {name: _version(name) for name in packages}


def commit() -> str | None:
    """Return the commit of this code, ``-dirty`` with changes; None outside of a git checkout.

    A job on a cluster runs a copy without git, and has its commit in the environment.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    command = [
        "git",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
