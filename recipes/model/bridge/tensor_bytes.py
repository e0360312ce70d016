"""Bytes: a tensor's, as they are in memory and in files, and their digest."""

import hashlib
import os
from io import FileIO

import torch
from torch import Tensor

from recipes.common.errors import UserError


def tensor_bytes_view(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, to read into or to write."""
    return tensor.flatten().view(torch.uint8).numpy().data


def read_into(file: FileIO, place: int, target: Tensor) -> None:
    """Fill a contiguous tensor with the bytes of ``file`` from ``place``; several threads may read
    one file.

    Raises:
        UserError: the file ends before.
    """
    content = tensor_bytes_view(target)
    while content:
        # a single call gives at most 2 GB
        read = os.preadv(file.fileno(), [content], place)
        if not read:
            raise UserError(f"{file.name}: cut short while it was read; copy it again")
        content, place = content[read:], place + read


def sha256(content: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
