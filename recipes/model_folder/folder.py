"""A model's Hugging Face folder as it is evaluated: checked before any work, with a fingerprint."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import CONFIG as TOKENIZER_CONFIG
from recipes.common.tokenizer_files import TOKENIZER, TokenizerFolder
from recipes.model_folder.config import CONFIG, positions_of
from recipes.model_folder.files import settings_files
from recipes.model_folder.safetensors_file import StoredTensor
from recipes.model_folder.weights import open_folder

# of each tensor: 362 tensors of an 8B model make 24 MB
_BLOCKS = 16
_BLOCK_BYTES = 1 << 12


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder.

    Attributes:
        folder: with config.json, tokenizer and weights.
        positions: tokens that the model can attend over.
        fingerprint: SHA-256 (hex) over everything that changes what the model answers.
    """

    folder: Path
    positions: int
    fingerprint: str


def open_model(folder: Path) -> ModelFolder:
    """Check ``folder`` and return it as a :class:`ModelFolder`.

    Raises:
        UserError: config.json, the tokenizer or the weights are missing or damaged, or do not
            belong together.
    """
    opened = open_folder(folder)
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: holds no {name}, and texts cannot be measured without a tokenizer; "
                f"copy the files of the model's tokenizer into it"
            )
    # lm-eval's transformers must encode as the counts of tokens do
    TokenizerFolder(folder).check_library_ids()
    positions = positions_of(opened.values, folder / CONFIG)
    return ModelFolder(folder, positions, _digest(folder, opened.tensors.values()))


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 (hex) of a model's folder.

    It covers config.json, generation_config.json, tokenizer and chat templates whole, and of each
    tensor its name, type, shape and evenly spaced blocks: all of 60 GB takes minutes. How the
    tensors are spread over files changes nothing.

    Raises:
        UserError: as :func:`recipes.model_folder.weights.open_folder`.
    """
    opened = open_folder(folder)
    return _digest(folder, opened.tensors.values())


def _digest(folder: Path, tensors: Iterable[StoredTensor]) -> str:
    digest = hashlib.sha256()
    # with lengths, so that no content can move from one file to the next
    for name in settings_files(folder):
        content = (folder / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        _update_from_blocks(digest, tensor)
    return digest.hexdigest()


def _update_from_blocks(digest: "hashlib._Hash", tensor: StoredTensor) -> None:
    """Feed ``digest`` a small tensor, or evenly spaced blocks of a large one."""
    # the first block starts with the tensor, the last ends with it
    last = tensor.num_bytes - _BLOCK_BYTES
    with tensor.path.open("rb") as file:
        if tensor.num_bytes <= _BLOCKS * _BLOCK_BYTES:
            file.seek(tensor.offset)
            digest.update(file.read(tensor.num_bytes))
            return
        for block in range(_BLOCKS):
            file.seek(tensor.offset + block * last // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
