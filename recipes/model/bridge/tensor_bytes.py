"""The bytes of a tensor, in memory and in files, and their digest."""

import hashlib
import os
from io import FileIO

import torch
from torch import Tensor

from recipes.common.errors import UserError
from recipes.model_folder.safetensors_file import StoredTensor

# safetensors' names of the types that a Granite model is trained in
TORCH_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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


def read_tensor(stored: StoredTensor) -> Tensor:
    """Return a tensor of a safetensors file.

    Raises:
        UserError: the file has become shorter since its header was read.
    """
    tensor = torch.empty(stored.shape, dtype=TORCH_TYPES[stored.dtype])
    with stored.path.open("rb", buffering=0) as file:
        read_into(file, stored.offset, tensor)
    return tensor


def sha256(content: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
