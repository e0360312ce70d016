"""NeMo 2 checkpoints as parents of a merge, and as its result, without NeMo."""

import logging
import pickle
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

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
from recipes.merging.weighted_sum import Merge, rows_per_chunk
from recipes.model.bridge.mapping import Weight, weights
from recipes.model.bridge.tensor_bytes import read_into, sha256
from recipes.model.bridge.to_hf import read_context
from recipes.model.bridge.torch_dist import TorchDistCheckpoint

log = logging.getLogger(__name__)

# a tensor is written in pieces of so many chunks of rows, as parallel ranks would write it
PIECE_CHUNKS = 32


class NemoParent(TorchDistCheckpoint):
    """A NeMo 2 checkpoint of a Granite model, saved with any parallel sizes.

    Attributes:
        location: folder with ``weights/`` and ``context/``.
        tokenizer_folder: of its tokenizer, in ``context/``.
        config: its config.
        weights: one for each Megatron tensor, each layer's by itself.

    Raises:
        UserError: not such a checkpoint, or damaged.
    """

    kind = "NeMo checkpoint"
    optimizer_state = "dropped: the moments belong to the parents' weights, not to their merge"
    prefix = "module."

    def __init__(self, checkpoint: Path) -> None:
        self.location = checkpoint
        self.config, self.tokenizer_folder = read_context(checkpoint / "context")
        super().__init__(checkpoint / "weights")
        self.weights = weights(self.config)
        self.check_all(self.weights, self.config.num_hidden_layers)
        self._first_numbers: dict[tuple[str, torch.Size], tuple[Path, int]] = {}

    def read_rows(
        self,
        weight: Weight,
        start: int,
        target: Tensor,
    ) -> None:
        """Read the rows of ``weight`` from ``start`` into ``target``, from all ranks' chunks."""
        tensor = self._tensors[self.prefix + weight.key]
        for chunk in tensor.chunks:
            self._read_from_chunk(chunk, weight, start, target)

    def _read_from_chunk(
        self,
        chunk: ChunkStorageMetadata,
        weight: Weight,
        start: int,
        target: Tensor,
    ) -> None:
        """Read what ``chunk`` holds of the rows from ``start`` into ``target``."""
        offsets = tuple(chunk.offsets)
        sizes = tuple(chunk.sizes)
        elements_before = 0
        if weight.layer is not None:
            # the first axis of the chunk is that of the layers, one layer after the other
            layer = weight.layer - offsets[0]
            if not 0 <= layer < sizes[0]:
                return
            elements_before = layer * prod(sizes[1:])
            offsets = offsets[1:]
            sizes = sizes[1:]

        # a vector is a matrix of one column
        if len(sizes) == 1:
            offsets = (*offsets, 0)
            sizes = (*sizes, 1)
        row, column = offsets
        rows, columns = sizes

        # the rows that both the target and the chunk have
        first = max(start, row)
        last = min(start + len(target), row + rows)
        if first >= last:
            return
        part = target[
            first - start : last - start,
            column : column + columns,
        ]

        # a chunk's rows follow each other in the file, in the target its columns may not
        numbers = part
        if not part.is_contiguous():
            numbers = torch.empty_like(part, memory_format=torch.contiguous_format)

        path, chunk_offset = self._first_number(weight, chunk)
        elements_before += (first - row) * columns
        offset = chunk_offset + elements_before * target.itemsize
        with path.open("rb", buffering=0) as file:
            read_into(file, offset, numbers)
        if numbers is not part:
            part.copy_(numbers)

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of the model's objects: the ``_extra_state`` of its layers."""
        for index, location in self._locations.items():
            name = index.fqn
            if not name.startswith(self.prefix) or name in self._tensors:
                continue
            path = self.folder / Path(location.relative_path).name
            with path.open("rb") as file:
                file.seek(location.offset)
                yield name, file.read(location.length)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the files that describe the model and list its tensors."""
        digests = {}
        for name in ("context/model.yaml", "weights/.metadata"):
            content = (self.location / name).read_bytes()
            digests[name] = sha256(content)
        return digests

    def write(self, merged: Merge, folder: Path) -> None:
        """Write the checkpoint ``folder``: this one's context, the weights as of a single rank."""
        shutil.copytree(self.location / "context", folder / "context")
        target = folder / "weights"
        target.mkdir()
        listing = self._write_data(merged, target / "__0_0.distcp")
        log.info("weights: %d tensors", len(self.weights))

        # what is not a tensor is the parents' progress, which a merge does not continue
        torch.save({"state_dict": {}}, target / "common.pt")
        # Megatron's loader looks for it
        listing.mcore_data = {}
        with (target / ".metadata").open("wb") as file:
            pickle.dump(listing, file)
        shutil.copyfile(self.folder / "metadata.json", target / "metadata.json")

    def _write_data(self, merged: Merge, path: Path) -> Metadata:
        """Write the objects and the merged tensors one after the other; return where they are."""
        layers = self.config.num_hidden_layers
        tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        locations: dict[MetadataIndex, _StorageInfo] = {}
        with path.open("wb") as file:
            for key, content in self.objects():
                start = file.tell()
                file.write(content)
                index = MetadataIndex(key)
                locations[index] = _StorageInfo(path.name, start, len(content))
                tensors[key] = BytesStorageMetadata()

            for weight in self.weights:
                key = self.prefix + weight.key
                dtype = self.dtype(weight)
                shape = weight.shape
                if weight.layer is not None:
                    shape = (layers, *shape)

                # the layers of one kind are chunks of one tensor
                description = TensorStorageMetadata(
                    TensorProperties(dtype),
                    torch.Size(shape),
                    chunks=[],
                )
                description = tensors.setdefault(key, description)
                for chunk, numbers in _pieces(merged, weight, dtype):
                    start = file.tell()
                    _save(numbers, file)
                    length = file.tell() - start
                    number = len(description.chunks)
                    index = MetadataIndex(key, chunk.offsets, number)
                    locations[index] = _StorageInfo(path.name, start, length)
                    description.chunks.append(chunk)
        return Metadata(tensors, storage_data=locations)

    def _first_number(self, weight: Weight, chunk: ChunkStorageMetadata) -> tuple[Path, int]:
        """Return the file of ``chunk``, and the offset of its first number in the file."""
        key = weight.key, chunk.offsets
        if key not in self._first_numbers:
            # a chunk is a saved tensor, whose storage may have other numbers around it
            path, storage_offset, layout = self.chunk_location(weight, chunk)
            if not layout.is_contiguous():
                raise UserError(
                    f"{path}: {weight.key} has strides {layout.stride()}, but rows must follow "
                    f"each other; save the checkpoint again"
                )
            bytes_before = layout.storage_offset() * layout.itemsize
            offset = storage_offset + bytes_before
            self._first_numbers[key] = path, offset
        return self._first_numbers[key]


def _pieces(
    merged: Merge,
    weight: Weight,
    dtype: torch.dtype,
) -> Iterator[tuple[ChunkStorageMetadata, Tensor]]:
    """Yield the merged tensor in pieces of rows, each with its place in the checkpoint's tensor."""
    num_rows, *columns = weight.shape
    rows_per_piece = PIECE_CHUNKS * rows_per_chunk(weight)
    chunks = merged.rows(weight)

    # a layer's tensor is one of the first axis of the checkpoint's
    layer_offset: tuple[int, ...] = ()
    layer_size: tuple[int, ...] = ()
    if weight.layer is not None:
        layer_offset = (weight.layer,)
        layer_size = (1,)

    for first in range(0, num_rows, rows_per_piece):
        size = (min(rows_per_piece, num_rows - first), *columns)
        offset = (first, *[0] * len(columns))

        # merged rows come in smaller chunks than a piece has
        numbers = torch.empty(size, dtype=dtype)
        unfilled = numbers.view(size[0], -1)
        while len(unfilled):
            rows = next(chunks)
            unfilled[: len(rows)] = rows
            unfilled = unfilled[len(rows) :]

        place = ChunkStorageMetadata(
            torch.Size((*layer_offset, *offset)),
            torch.Size((*layer_size, *size)),
        )
        yield place, numbers.view(*layer_size, *size)


def _save(numbers: Tensor, file: BinaryIO) -> None:
    try:
        torch.save(numbers, file)
    except RuntimeError as error:
        # torch's writer reports that its file is incomplete on top of the file's own error
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
