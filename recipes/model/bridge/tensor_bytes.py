"""The bytes of a tensor, in memory and in files, and their digest."""

import hashlib
import os
from io import FileIO

import torch
from torch import Tensor

from recipes.common.errors import UserError


def tensor_bytes_view(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, to read into or to write."""
    return tensor.flatten().view(torch.uint8).numpy().data


def read_into(file: FileIO, offset: int, target: Tensor) -> None:
    """Fill a contiguous tensor with the bytes of ``file`` from ``offset``; several threads may read
    one file.

    Raises:
        UserError: the file ends before.
    """
    unread = tensor_bytes_view(target)
    while unread:
        # a single call reads at most 2 GB
        count = os.preadv(file.fileno(), [unread], offset)
        if not count:
            raise UserError(f"{file.name}: cut short while it was read; copy it again")
        unread = unread[count:]
        offset += count


def sha256(content: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
