"""Bytes of files: a few of them into a tensor, their digest."""

import hashlib
from pathlib import Path

from torch import Tensor

from recipes.model.bridge.torch_dist import bytes_of
from recipes.spec.errors import UserError


def read_at(path: Path, place: int, target: Tensor) -> None:
    """Fill a contiguous tensor with the bytes of ``path`` from ``place``.

    Raises:
        UserError: the file ends before.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(place)
        content = bytes_of(target)
        if file.readinto(content) != len(content):
            raise UserError(f"{path}: cut short while it was read; copy it again")


def sha256(content: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
