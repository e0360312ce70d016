"""NeMo 2 checkpoints as parents of a merge, and as its result, without NeMo."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from recipes.common.errors import UserError
from recipes.merging.weighted_sum import Merge, chunk_rows
from recipes.model.bridge.mapping import Weight, weights
from recipes.model.bridge.tensor_bytes import read_into, sha256
from recipes.model.bridge.to_hf import read_context
from recipes.model.bridge.torch_dist import TorchDistCheckpoint

# a tensor is written in pieces of so many chunks of rows, as parallel ranks would write it
PIECE_CHUNKS = 32


class NemoParent(TorchDistCheckpoint):
    """A NeMo 2 checkpoint of a Granite model, saved with any parallel sizes.

    Attributes:
        location: folder with ``weights/`` and ``context/``.
        config: its config under config.json's names.
        weights: one for each Megatron tensor, each layer's by itself.

    Raises:
        UserError: not such a checkpoint, or damaged.
    """

    kind = "NeMo checkpoint"
    lost: ClassVar[dict[str, str]] = {
        "optimizer_state": "dropped: the moments belong to the parents' weights, not to their merge"
    }
    prefix = "module."

    def __init__(self, checkpoint: Path) -> None:
        self.location = checkpoint
        self.config, _ = read_context(checkpoint / "context")
        super().__init__(checkpoint / "weights")
        self.weights = weights(self.config)
        for weight in self.weights:
            if not weight.layer:
                self.check(weight, self.config["num_hidden_layers"])
        self._starts: dict[tuple[str, torch.Size], tuple[Path, int]] = {}

    def read_rows(self, weight: Weight, start: int, target: Tensor) -> None:
        """Read the rows of ``weight`` from ``start`` into ``target``, from the chunks of all ranks."""
        for chunk in self._tensors[self.prefix + weight.key].chunks:
            offsets, sizes, before = tuple(chunk.offsets), tuple(chunk.sizes), 0
            if weight.layer is not None:
                if not 0 <= weight.layer - offsets[0] < sizes[0]:
                    continue
                before = (weight.layer - offsets[0]) * prod(sizes[1:])
                offsets, sizes = offsets[1:], sizes[1:]
            (row, column), (rows, columns) = (*offsets, 0)[:2], (*sizes, 1)[:2]
            first, last = max(start, row), min(start + len(target), row + rows)
            if first >= last:
                continue
            path, place = self._start(weight, chunk)
            part = target[first - start : last - start, column : column + columns]
            numbers = (
                part
                if part.is_contiguous()
                else torch.empty_like(part, memory_format=torch.contiguous_format)
            )
            with path.open("rb", buffering=0) as file:
                read_into(
                    file, place + (before + (first - row) * columns) * target.itemsize, numbers
                )
            if numbers is not part:
                part.copy_(numbers)

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of what the model keeps beside its tensors: the ``_extra_state`` of
        its layers.
        """
        for index, place in self._places.items():
            if index.fqn.startswith(self.prefix) and index.fqn not in self._tensors:
                with (self.folder / Path(place.relative_path).name).open("rb") as file:
                    file.seek(place.offset)
                    yield index.fqn, file.read(place.length)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the files that describe the model and list its tensors."""
        return {
            name: sha256((self.location / name).read_bytes())
            for name in ("context/model.yaml", "weights/.metadata")
        }

    def write(self, merged: Merge, folder: Path, say: Callable[[str], object]) -> None:
        """Write the NeMo 2 checkpoint ``folder``: this one's context, and the weights as a single
        rank saves them.
        """
        shutil.copytree(self.location / "context", folder / "context")
        target = folder / "weights"
        target.mkdir()
        name = "__0_0.distcp"
        tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        with (target / name).open("wb") as file:
            for key, content in self.objects():
                places[MetadataIndex(key)] = _StorageInfo(name, file.tell(), len(content))
                tensors[key] = BytesStorageMetadata()
                file.write(content)
            layers = self.config["num_hidden_layers"]
            for weight in self.weights:
                key = self.prefix + weight.key
                size = weight.shape if weight.layer is None else (layers, *weight.shape)
                described = tensors.setdefault(
                    key,
                    TensorStorageMetadata(
                        TensorProperties(self.dtype(weight)), torch.Size(size), []
                    ),
                )
                for chunk, numbers in _pieces(merged, weight, self.dtype(weight)):
                    start = file.tell()
                    _save(numbers, file)
                    described.chunks.append(chunk)
                    places[MetadataIndex(key, chunk.offsets, len(described.chunks) - 1)] = (
                        _StorageInfo(name, start, file.tell() - start)
                    )
        say(f"weights: {len(self.weights)} tensors")
        # what is not a tensor is the parents' progress, which a merge does not continue
        torch.save({"state_dict": {}}, target / "common.pt")
        listing = Metadata(tensors, storage_data=places)
        listing.mcore_data = {}  # Megatron's loader looks for it
        with (target / ".metadata").open("wb") as file:
            pickle.dump(listing, file)
        shutil.copyfile(self.folder / "metadata.json", target / "metadata.json")

    def _start(self, weight: Weight, chunk: ChunkStorageMetadata) -> tuple[Path, int]:
        """Return the file and the place in it where the numbers of ``chunk`` begin."""
        key = weight.key, chunk.offsets
        if key not in self._starts:
            path, start, described = self.located(weight, chunk)
            if not described.is_contiguous():
                raise UserError(
                    f"{path}: {weight.key} has strides {described.stride()}, but rows must follow "
                    "each other; save the checkpoint again"
                )
            self._starts[key] = path, start + described.storage_offset() * described.itemsize
        return self._starts[key]


def _pieces(
    merged: Merge, weight: Weight, dtype: torch.dtype
) -> Iterator[tuple[ChunkStorageMetadata, Tensor]]:
    """Yield the merged tensor in pieces of rows, each with its place in the checkpoint's tensor."""
    step = PIECE_CHUNKS * chunk_rows(weight)
    chunks = merged.rows(weight)
    layer = () if weight.layer is None else (weight.layer,)
    for first in range(0, weight.shape[0], step):
        sizes = (min(step, weight.shape[0] - first), *weight.shape[1:])
        offsets = (first, *[0] * (len(sizes) - 1))
        numbers = torch.empty(sizes, dtype=dtype)
        filled = numbers.view(sizes[0], -1)
        while len(filled):
            rows = next(chunks)
            filled[: len(rows)] = rows
            filled = filled[len(rows) :]
        yield (
            ChunkStorageMetadata(
                torch.Size((*layer, *offsets)), torch.Size((*[1] * len(layer), *sizes))
            ),
            numbers.view(*[1] * len(layer), *sizes),
        )


def _save(numbers: Tensor, file: BinaryIO) -> None:
    try:
        torch.save(numbers, file)
    except RuntimeError as error:
        # torch's writer reports that its file is incomplete on top of the file's own error
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None
