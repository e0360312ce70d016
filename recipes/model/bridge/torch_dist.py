"""Tensors out of a Megatron checkpoint in the ``torch_dist`` format, one at a time, without
Megatron.
"""

import json
import pickle
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.utils import _create_file_view

from recipes.common.errors import UserError
from recipes.model.bridge.mapping import Weight
from recipes.model.bridge.tensor_bytes import read_into

# NeMo saves the Lightning module, which holds the Megatron model under this name
_PREFIX = "module."
_DESCRIPTIONS: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.TensorStorageMetadata,
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata.TensorProperties,
        metadata.StorageMeta,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.Size,
        torch.serialization._get_layout,
    )
}
# The plan of the save, kept in the same pickle: not needed here, so never imported
_IGNORED_MODULES = (
    "torch.distributed.checkpoint.planner",
    "megatron.core.dist_checkpointing.strategies.torch",
    "pathlib",
)


class _Ignored:
    def __init__(self, *args: Any) -> None: ...


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes that describe tensors and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DESCRIPTIONS:
            return _DESCRIPTIONS[module, name]
        if module in _IGNORED_MODULES:
            return _Ignored
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class TorchDistCheckpoint:
    """The ``weights`` folder of a checkpoint. Everything in it that is not asked for, as the
    optimizer, stays unread.

    Raises:
        UserError: not such a folder, its metadata is damaged or asks for other code than it should.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole, self._chunk = _Scratch(), _Scratch()
        _check_format(folder)
        path = folder / ".metadata"
        try:
            with path.open("rb") as file:
                found = _MetadataUnpickler(file).load()
            self._tensors = {
                key: tensor
                for key, tensor in found.state_dict_metadata.items()
                if isinstance(tensor, metadata.TensorStorageMetadata)
            }
            self._places: dict[metadata.MetadataIndex, filesystem._StorageInfo] = dict(
                found.storage_data
            )
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: not found, so the save was not finished; use another checkpoint"
            ) from error
        except Exception as error:  # a damaged pickle raises nearly anything
            raise UserError(
                f"{path}: damaged or not a checkpoint's metadata ({error}); use another checkpoint"
            ) from error

    @property
    def holds_optimizer(self) -> bool:
        """Whether an optimizer's state was saved with the weights."""
        return any(key.startswith("optimizer.") for key in self._tensors)

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Return the shape of the model's tensor ``key``, the layers as the first axis; None if it
        is not there.
        """
        tensor = self._tensors.get(_PREFIX + key)
        return tuple(tensor.size) if tensor else None

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type that the tensor of ``weight`` is stored in."""
        return self._tensors[_PREFIX + weight.key].properties.dtype

    def check(self, weight: Weight, layers: int) -> None:
        """Check, reading no data, that the tensor of ``weight`` is there as a whole.

        Args:
            weight: may ask for fewer rows than are stored when it is not in a layer: a vocabulary
                can be padded.
            layers: length of the leading axis of a tensor that is in a layer.

        Raises:
            UserError: it is missing, has another shape, has holes, or a file of it is missing or
                cut short.
        """
        tensor = self._tensors.get(_PREFIX + weight.key)
        if tensor is None:
            raise UserError(
                f"{self.folder}: lacks the tensor {_PREFIX}{weight.key}; name a Granite model's "
                "checkpoint"
            )
        found, expected = (
            tuple(tensor.size),
            weight.shape if weight.layer is None else (layers, *weight.shape),
        )
        padded = weight.layer is None and found[1:] == expected[1:] and found > expected
        if found != expected and not padded:
            raise UserError(
                f"{self.folder}: {weight.key} has shape {found}, but the context's model.yaml asks "
                f"for {expected}; the two folders are of different models"
            )
        if sum(prod(chunk.sizes) for chunk in tensor.chunks) != prod(found):
            raise UserError(
                f"{self.folder}: parts of {weight.key} were not saved; use another checkpoint"
            )
        for chunk in tensor.chunks:
            path, place = self._place(weight.key, chunk)
            if not path.is_file():
                raise UserError(
                    f"{path}: not found, though .metadata names it; copy the checkpoint again"
                )
            if path.stat().st_size < place.offset + place.length:
                raise UserError(
                    f"{path}: cut short at {path.stat().st_size} bytes; copy the checkpoint again"
                )

    def read(self, weight: Weight) -> Tensor:
        """Read one tensor of ``weight.shape``, put together from the chunks of all ranks; valid
        until the next read.
        """
        whole = self._whole.take(weight.elements, self.dtype(weight)).view(weight.shape)
        for chunk in self._tensors[_PREFIX + weight.key].chunks:
            starts, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            if weight.layer is not None:
                if not 0 <= weight.layer - starts[0] < sizes[0]:
                    continue
                starts, sizes = starts[1:], sizes[1:]
            target = whole[
                tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
            ]
            self._read_chunk(weight, chunk, target)
        return whole

    def _place(
        self, key: str, chunk: metadata.ChunkStorageMetadata
    ) -> tuple[Path, filesystem._StorageInfo]:
        place = self._places.get(metadata.MetadataIndex(_PREFIX + key, chunk.offsets))
        if place is None:
            raise UserError(
                f"{self.folder / '.metadata'}: does not say where {key} is; use another checkpoint"
            )
        return self.folder / Path(place.relative_path).name, place

    def located(
        self, weight: Weight, chunk: metadata.ChunkStorageMetadata
    ) -> tuple[Path, int, Tensor]:
        """Return the file of one rank's part, the place of its storage there, and its layout as a
        meta tensor.

        Raises:
            UserError: the part is damaged, or not what the metadata says.
        """
        path, place = self._place(weight.key, chunk)
        try:
            with path.open("rb") as file:
                view: Any = _create_file_view(file, place.offset, place.length)
                # says where the numbers are and reads none
                described = torch.load(view, map_location="meta", weights_only=True)
            if described.shape != chunk.sizes or described.dtype != self.dtype(weight):
                raise ValueError(
                    f"{tuple(described.shape)}, {described.dtype} in place of {tuple(chunk.sizes)}"
                )
            storage = described.untyped_storage()
            if storage._checkpoint_offset + storage.nbytes() > place.length:
                raise EOFError(f"{storage.nbytes()} bytes in a place of {place.length}")
        except OSError:
            raise
        except Exception as error:  # torch.load raises whatever the broken bytes lead to
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path}: damaged at {weight.key} ({reason}); copy the checkpoint again"
            ) from error
        return path, place.offset + storage._checkpoint_offset, described

    def _read_chunk(
        self, weight: Weight, chunk: metadata.ChunkStorageMetadata, target: Tensor
    ) -> None:
        """Read one rank's part (of a chunk of several layers, the layer of ``weight``) into
        ``target``.
        """
        path, start, described = self.located(weight, chunk)
        stored = described.untyped_storage().nbytes()
        straight = target.is_contiguous() and described.is_contiguous() and stored == target.nbytes
        numbers = (
            target if straight else self._chunk.take(stored // described.itemsize, described.dtype)
        )
        with path.open("rb", buffering=0) as file:
            read_into(file, start, numbers)
        if not straight:
            tensor = numbers.as_strided(
                described.size(), described.stride(), described.storage_offset()
            )
            if weight.layer is not None:
                tensor = tensor[weight.layer - chunk.offsets[0]]
            target.copy_(tensor[: len(target)])


class _Scratch:
    """Memory for one tensor, used again for the next: fresh pages from the kernel take longer than
    to fill them.
    """

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, elements: int, dtype: torch.dtype) -> Tensor:
        if self._bytes.nbytes < elements * dtype.itemsize:
            self._bytes = torch.empty(elements * dtype.itemsize, dtype=torch.uint8)
        return self._bytes[: elements * dtype.itemsize].view(dtype)


def _check_format(folder: Path) -> None:
    path = folder / "metadata.json"
    if not path.is_file():
        raise UserError(
            f"{path}: not found, so this is not a distributed checkpoint or its save was not "
            "finished"
        )
    try:
        backend = json.loads(path.read_text(encoding="utf-8"))["sharded_backend"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error!r}); use another checkpoint") from error
    if backend != "torch_dist":
        raise UserError(
            f"{path}: the format is {backend!r}, but only 'torch_dist' can be read; save it again "
            "as that"
        )
