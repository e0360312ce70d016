"""The Hugging Face folder of an evaluated model: checked before any work, with a fingerprint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.json_files import read_json

_BLOCKS = 64
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder.

    Attributes:
        folder: with config.json, tokenizer and weights.
        positions: tokens that the model can attend over.
        fingerprint: SHA-256 (hex) over config, tokenizer and samples of the weights.
    """

    folder: Path
    positions: int
    fingerprint: str


def open_model(folder: Path) -> ModelFolder:
    """Check ``folder`` and return it as a :class:`ModelFolder`.

    Raises:
        UserError: config.json, the tokenizer or the weights are missing, or the config is damaged.
    """
    config = folder / "config.json"
    positions = _read_positions(config)

    tokenizer_files = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    for file in tokenizer_files:
        if not file.is_file():
            raise UserError(
                f"{folder}: holds no {file.name}, and texts cannot be measured without a "
                f"tokenizer; copy the files of the model's tokenizer into it"
            )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: holds no *.safetensors; download the model again, or export it")

    # small files whole, weights in samples
    digest = hashlib.sha256()
    for file in (config, *tokenizer_files):
        digest.update(file.read_bytes())
    for file in weights:
        _update_from_blocks(digest, file)
    return ModelFolder(folder, positions, digest.hexdigest())


def _read_positions(config: Path) -> int:
    if not config.is_file():
        raise UserError(
            f"{config}: not found; name a Hugging Face folder of a model, a stage or a checkpoint"
        )
    positions = read_json(config, "download the folder again").get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        raise UserError(
            f"{config}: max_position_embeddings is {positions!r:.60}, expected a number of tokens; "
            f"download the folder again"
        )
    return positions


def _update_from_blocks(digest: "hashlib._Hash", file: Path) -> None:
    """Feed ``digest`` the size and evenly spaced blocks of ``file``: all of 60 GB takes minutes."""
    # the first block starts at 0, the last ends with the file
    size = file.stat().st_size
    last = max(0, size - _BLOCK_BYTES)
    digest.update(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for block in range(_BLOCKS):
            stream.seek(block * last // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
