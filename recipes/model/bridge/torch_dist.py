"""Tensors out of a Megatron checkpoint in the ``torch_dist`` format, one at a time, without
Megatron.
"""

import json
import pickle
from collections.abc import Iterable
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
    """Replaces a class of :data:`_IGNORED_MODULES`."""

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
    """The ``weights`` folder of a checkpoint. Everything in it that is not used, as the
    optimizer, stays unread.

    Raises:
        UserError: not such a folder, its metadata is damaged or asks for other code than it should.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole = _Scratch()
        self._chunk = _Scratch()
        _check_format(folder)
        path = folder / ".metadata"
        try:
            with path.open("rb") as file:
                listing = _MetadataUnpickler(file).load()
            self._tensors = {
                key: tensor
                for key, tensor in listing.state_dict_metadata.items()
                if isinstance(tensor, metadata.TensorStorageMetadata)
            }
            self._locations: dict[metadata.MetadataIndex, filesystem._StorageInfo] = dict(
                listing.storage_data
            )
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: not found, so the save was not finished; use another checkpoint"
            ) from error
        except Exception as error:  # a damaged pickle raises nearly anything
            raise UserError(
                f"{path}: damaged or not a checkpoint's metadata ({error}); use another checkpoint"
            ) from error

    def __str__(self) -> str:
        return str(self.folder)

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

    def check_all(self, weights: Iterable[Weight], layers: int) -> None:
        """Check ``weights``, as :meth:`check`; the layers of one kind are one tensor."""
        for weight in weights:
            if not weight.layer:
                self.check(weight, layers)

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
        # a tensor in a layer has the layers as its first axis; another may be a padded vocabulary
        shape = tuple(tensor.size)
        expected = (layers, *weight.shape)
        is_padded = False
        if weight.layer is None:
            expected = weight.shape
            is_padded = shape[1:] == expected[1:] and shape > expected
        if shape != expected and not is_padded:
            raise UserError(
                f"{self.folder}: {weight.key} has shape {shape}, but the context's model.yaml asks "
                f"for {expected}; the two folders are of different models"
            )
        saved = sum(prod(chunk.sizes) for chunk in tensor.chunks)
        if saved != prod(shape):
            raise UserError(
                f"{self.folder}: parts of {weight.key} were not saved; use another checkpoint"
            )
        for chunk in tensor.chunks:
            path, location = self._location(weight.key, chunk)
            if not path.is_file():
                raise UserError(
                    f"{path}: not found, though .metadata names it; copy the checkpoint again"
                )
            size = path.stat().st_size
            if size < location.offset + location.length:
                raise UserError(f"{path}: cut short at {size} bytes; copy the checkpoint again")

    def read(self, weight: Weight) -> Tensor:
        """Read one tensor of ``weight.shape``, put together from the chunks of all ranks; valid
        until the next read.
        """
        memory = self._whole.take(weight.elements, self.dtype(weight))
        whole = memory.view(weight.shape)
        for chunk in self._tensors[_PREFIX + weight.key].chunks:
            starts = tuple(chunk.offsets)
            sizes = tuple(chunk.sizes)
            if weight.layer is not None:
                # the first axis is that of the layers; the chunk may hold others
                if not 0 <= weight.layer - starts[0] < sizes[0]:
                    continue
                starts = starts[1:]
                sizes = sizes[1:]
            part = []
            for start, size in zip(starts, sizes, strict=True):
                part.append(slice(start, start + size))
            self._read_chunk(weight, chunk, whole[tuple(part)])
        return whole

    def _location(
        self, key: str, chunk: metadata.ChunkStorageMetadata
    ) -> tuple[Path, filesystem._StorageInfo]:
        index = metadata.MetadataIndex(_PREFIX + key, chunk.offsets)
        location = self._locations.get(index)
        if location is None:
            raise UserError(
                f"{self.folder / '.metadata'}: does not say where {key} is; use another checkpoint"
            )
        return self.folder / Path(location.relative_path).name, location

    def chunk_location(
        self, weight: Weight, chunk: metadata.ChunkStorageMetadata
    ) -> tuple[Path, int, Tensor]:
        """Return the file of one rank's part, the offset of its storage, and its layout.

        Returns:
            The layout is a tensor on the meta device: shape, strides and type without numbers.

        Raises:
            UserError: the part is damaged, or not what the metadata says.
        """
        path, location = self._location(weight.key, chunk)
        try:
            with path.open("rb") as file:
                view: Any = _create_file_view(file, location.offset, location.length)
                # says where the numbers are and reads none
                layout = torch.load(view, map_location="meta", weights_only=True)
            if layout.shape != chunk.sizes or layout.dtype != self.dtype(weight):
                raise ValueError(
                    f"{tuple(layout.shape)}, {layout.dtype} in place of {tuple(chunk.sizes)}"
                )
            storage = layout.untyped_storage()
            if storage._checkpoint_offset + storage.nbytes() > location.length:
                raise EOFError(f"{storage.nbytes()} bytes in a place of {location.length}")
        except OSError:
            raise
        except Exception as error:  # torch.load raises anything for broken bytes
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path}: damaged at {weight.key} ({reason}); copy the checkpoint again"
            ) from error
        return path, location.offset + storage._checkpoint_offset, layout

    def _read_chunk(
        self, weight: Weight, chunk: metadata.ChunkStorageMetadata, target: Tensor
    ) -> None:
        """Read one rank's part into ``target``; of a chunk of layers, the layer of ``weight``."""
        path, offset, layout = self.chunk_location(weight, chunk)
        # without a copy where the file has just these numbers in just this order
        stored_bytes = layout.untyped_storage().nbytes()
        is_in_order = target.is_contiguous() and layout.is_contiguous()
        is_direct = is_in_order and stored_bytes == target.nbytes
        numbers = target
        if not is_direct:
            numbers = self._chunk.take(stored_bytes // layout.itemsize, layout.dtype)
        with path.open("rb", buffering=0) as file:
            read_into(file, offset, numbers)
        if is_direct:
            return

        tensor = numbers.as_strided(
            layout.size(),
            layout.stride(),
            layout.storage_offset(),
        )
        if weight.layer is not None:
            tensor = tensor[weight.layer - chunk.offsets[0]]
        # a padded vocabulary has more rows than the model
        target.copy_(tensor[: len(target)])


class _Scratch:
    """Memory for one tensor, used again for the next: fresh pages from the kernel take longer than
    to fill them.
    """

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, elements: int, dtype: torch.dtype) -> Tensor:
        size = elements * dtype.itemsize
        if self._bytes.nbytes < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        return self._bytes[:size].view(dtype)


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
