"""Hugging Face folders as parents of a merge, and as its result."""

import logging
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from recipes.merging.weighted_sum import Merge
from recipes.model.bridge.mapping import Weight
from recipes.model.bridge.tensor_bytes import TORCH_TYPES, read_into, sha256, tensor_bytes_view
from recipes.model_folder.config import CONFIG
from recipes.model_folder.files import copy_files, settings_files
from recipes.model_folder.weights import (
    EMBEDDING,
    INDEX,
    TIED_EMBEDDING,
    granite_shapes,
    open_granite,
)

log = logging.getLogger(__name__)


class HFParent:
    """A Hugging Face folder of a Granite model.

    Attributes:
        location: the folder.
        tokenizer_folder: the same.
        config: its config.
        weights: one for each transformers tensor.

    Raises:
        UserError: not such a folder, or damaged.
    """

    kind = "Hugging Face folder"
    # a folder never has one
    optimizer_state = None

    def __init__(self, folder: Path) -> None:
        self.location = folder
        self.tokenizer_folder = folder
        opened = open_granite(folder)
        self.config = opened.config
        self._files = opened.files
        self._tensors = opened.tensors
        self.weights = [
            Weight(name, None, {name: shape})
            for name, shape in granite_shapes(opened.config).items()
        ]

        self._open_files = {}
        for file in opened.files:
            # stays open, as the kernel reads ahead in a file that it knows; the advice is for
            # threads that take turns
            stream = file.path.open("rb", buffering=0)
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._open_files[file.path] = stream

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type that ``weight`` is stored in."""
        return TORCH_TYPES[self._tensors[weight.key].dtype]

    def read_rows(self, weight: Weight, start: int, target: Tensor) -> None:
        """Read the rows of ``weight`` from ``start`` into ``target``."""
        tensor = self._tensors[weight.key]
        bytes_per_row = target[0].nbytes
        offset = tensor.offset + start * bytes_per_row
        read_into(self._open_files[tensor.path], offset, target)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of config.json and of what lists the tensors: index or header."""
        config = self.location / CONFIG
        digests = {config.name: sha256(config.read_bytes())}
        index = self.location / INDEX
        if index.is_file():
            digests[index.name] = sha256(index.read_bytes())
            return digests

        for file in self._files:
            digests[f"{file.path.name}, header"] = sha256(file.header)
        return digests

    def write(self, merged: Merge, folder: Path) -> None:
        """Write ``folder``: this one's files, with the merged numbers in them."""
        copy_files(self.location, settings_files(self.location), folder)
        index = self.location / INDEX
        if index.is_file():
            shutil.copyfile(index, folder / INDEX)

        by_name = {weight.key: weight for weight in self.weights}
        # the parents' heads are their embeddings
        by_name[TIED_EMBEDDING] = by_name[EMBEDDING]

        # types and shapes are the parents', so the header holds for the merge
        for file in self._files:
            with (folder / file.path.name).open("wb") as target:
                target.write(file.header)
                for tensor in file.tensors:
                    for rows in merged.rows(by_name[tensor.name]):
                        target.write(tensor_bytes_view(rows))
            log.info("%s: %d tensors", file.path.name, len(file.tensors))
