"""Hugging Face folders as parents of a merge, and as its result."""

import json
import logging
import os
import shutil
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from recipes.merging.weighted_sum import Merge
from recipes.model.bridge import hf_folder
from recipes.model.bridge.mapping import Weight, weights
from recipes.model.bridge.tensor_bytes import read_into, sha256, tensor_bytes_view

log = logging.getLogger(__name__)

_EMBEDDING = "model.embed_tokens.weight"
# transformers' second name of the tied embedding, which a folder may hold a second time
_TIED_EMBEDDING = "lm_head.weight"


class HFParent:
    """A Hugging Face folder of a Granite model.

    Attributes:
        location: the folder.
        config: its config under config.json's names.
        weights: one for each transformers tensor.
        files: name of each safetensors file -> its bytes before the tensors, and the tensors in the
            order of the file.

    Raises:
        UserError: not such a folder, or damaged.
    """

    kind = "Hugging Face folder"
    # a folder never has one
    optimizer_state = None

    def __init__(self, folder: Path) -> None:
        self.location = folder
        self.config = hf_folder.read_config(folder)
        megatron_weights = weights(self.config)
        opened = hf_folder.open_tensors(folder, megatron_weights)
        self._dtypes = {}
        for name, file in opened.items():
            # one row, as a slice alone has no torch type
            first_row = file.get_slice(name)[:1]
            self._dtypes[name] = first_row.dtype

        # the parts of Megatron's tensors are those of transformers
        self.weights: list[Weight] = []
        for megatron_weight in megatron_weights:
            for name, shape in megatron_weight.parts.items():
                weight = Weight(name, None, {name: shape})
                self.weights.append(weight)
        by_name = {weight.key: weight for weight in self.weights}
        by_name[_TIED_EMBEDDING] = by_name[_EMBEDDING]

        self._locations: dict[str, tuple[FileIO, int]] = {}
        self.files: dict[str, tuple[bytes, list[Weight]]] = {}
        for path in hf_folder.safetensors_files(folder):
            self._open(path, by_name)

    def _open(self, path: Path, by_name: dict[str, Weight]) -> None:
        """Note the header, the tensors and their offsets of a safetensors file."""
        # stays open, as the kernel reads ahead in a file that it knows; the advice is for threads
        # that take turns
        file = path.open("rb", buffering=0)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

        # 8 bytes of header length, the JSON header, the tensors' bytes
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        data_start = len(length) + len(header)
        offsets = {}
        for name, entry in json.loads(header).items():
            if name in by_name:
                offsets[name] = entry["data_offsets"][0]

        # in the order of the file, so that it is read and written from start to end
        in_file = []
        for name in sorted(offsets, key=offsets.__getitem__):
            self._locations[name] = file, data_start + offsets[name]
            in_file.append(by_name[name])
        self.files[path.name] = length + header, in_file

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type that ``weight`` is stored in."""
        return self._dtypes[weight.key]

    def read_rows(self, weight: Weight, start: int, target: Tensor) -> None:
        """Read the rows of ``weight`` from ``start`` into ``target``."""
        file, offset = self._locations[weight.key]
        bytes_per_row = target[0].nbytes
        read_into(file, offset + start * bytes_per_row, target)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of config.json and of what lists the tensors: index or header."""
        config = self.location / hf_folder.CONFIG
        digests = {config.name: sha256(config.read_bytes())}
        index = self.location / hf_folder.INDEX
        if index.is_file():
            digests[index.name] = sha256(index.read_bytes())
            return digests

        for name, (header, _) in self.files.items():
            digests[f"{name}, header"] = sha256(header)
        return digests

    def write(self, merged: Merge, folder: Path) -> None:
        """Write ``folder``: this one's files, with the merged numbers in them."""
        for name in (hf_folder.CONFIG, "generation_config.json", hf_folder.INDEX):
            source = self.location / name
            if source.is_file():
                shutil.copyfile(source, folder / name)
        hf_folder.copy_tokenizer(self.location, folder)

        # types and shapes are the parents', so the header holds for the merge
        for name, (header, file_weights) in self.files.items():
            with (folder / name).open("wb") as file:
                file.write(header)
                for weight in file_weights:
                    for rows in merged.rows(weight):
                        file.write(tensor_bytes_view(rows))
            log.info("%s: %d tensors", name, len(file_weights))
