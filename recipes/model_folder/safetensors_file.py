"""The header of a safetensors file: which tensors it holds and where. Reads no tensor.

The format (https://github.com/huggingface/safetensors#format): the header's length in 8 bytes,
little-endian; the header in JSON; the tensors' bytes, without gaps.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError

# the library's own limit
_LARGEST_HEADER = 100_000_000
_LENGTH_BYTES = 8
_BYTES_PER_NUMBER = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
_READ_BYTES = 1 << 23


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        name: in the file.
        path: the file.
        dtype: safetensors' name of the type, as ``BF16``.
        shape: of the tensor.
        offset: of its first byte in the file.
        num_bytes: of its numbers.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    def read(self) -> Iterator[bytes]:
        """Yield the tensor's bytes, some megabytes at a time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.num_bytes, _READ_BYTES):
                yield file.read(min(_READ_BYTES, self.num_bytes - start))


@dataclass(frozen=True)
class SafetensorsFile:
    """A safetensors file.

    Attributes:
        path: the file.
        header: its bytes before the tensors' own.
        tensors: in the order of their bytes.
    """

    path: Path
    header: bytes
    tensors: tuple[StoredTensor, ...]


def read_header(path: Path) -> SafetensorsFile:
    """Read the header of ``path`` and check it against the size of the file.

    Raises:
        UserError: no such file, or it is damaged or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = file.read(_LENGTH_BYTES)
            header_bytes = int.from_bytes(length, "little")
            if header_bytes > min(size, _LARGEST_HEADER):
                raise ValueError(f"a header of {header_bytes:,} bytes")
            header = file.read(header_bytes)
        tensors = _parse(path, header, size)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); download the folder again"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: damaged or cut short ({reason:.100}); download it again"
        ) from error
    return SafetensorsFile(path, length + header, tensors)


def _parse(path: Path, header: bytes, size: int) -> tuple[StoredTensor, ...]:
    """Return the tensors of a header; raise ValueError or the like where it is damaged."""
    entries = json.loads(header.decode("utf-8"))
    entries.pop("__metadata__", None)
    data_start = _LENGTH_BYTES + len(header)
    tensors = [_tensor(path, name, entry, data_start) for name, entry in entries.items()]
    # an empty tensor begins where the next one does
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))

    # the library refuses gaps, in which other content could hide
    end = data_start
    for tensor in tensors:
        if tensor.offset != end:
            raise ValueError(f"{tensor.name!r:.60} does not begin where the one before it ends")
        end += tensor.num_bytes
    if end != size:
        raise ValueError(f"{size:,} bytes, and its header tells of {end:,}")
    return tuple(tensors)


def _tensor(path: Path, name: str, entry: dict[str, Any], data_start: int) -> StoredTensor:
    # a lone surrogate is no text
    name.encode()
    dtype = entry["dtype"]
    shape = tuple(entry["shape"])
    start, end = entry["data_offsets"]
    for number in (*shape, start, end):
        if type(number) is not int or number < 0:
            raise ValueError(f"{name!r:.60} has the number {number!r:.20}")
    if dtype not in _BYTES_PER_NUMBER:
        raise ValueError(f"{name!r:.60} has the type {dtype!r:.20}")
    num_bytes = prod(shape) * _BYTES_PER_NUMBER[dtype]
    if end - start != num_bytes:
        raise ValueError(f"{name!r:.60} has {end - start:,} bytes, expected {num_bytes:,}")
    return StoredTensor(name, path, dtype, shape, data_start + start, num_bytes)
