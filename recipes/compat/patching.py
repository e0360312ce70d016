"""Patches to libraries: each names the version it was written for and refuses another."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any


def require_versions(written_for: Mapping[str, str], patched_by: str) -> None:
    """Raise RuntimeError unless each package has the version that a patch was written for.

    Args:
        written_for: package -> version, without a local part such as ``+cu128``.
        patched_by: the file of the patch.
    """
    for package, expected in written_for.items():
        installed = importlib.metadata.version(package).split("+")[0]
        if installed != expected:
            raise RuntimeError(
                f"{patched_by} patches {package} {expected} but {installed} is installed: "
                f"install the pinned version, or review the patches and update WRITTEN_FOR"
            )


def replace(owner: Any, name: str, new: Any, patched_by: str) -> None:
    """Set ``owner.name``; raise RuntimeError where the library has no such name any more."""
    if not hasattr(owner, name):
        raise RuntimeError(
            f"{patched_by} patches {owner.__name__}.{name}, which is not there any more"
        )
    setattr(owner, name, new)
