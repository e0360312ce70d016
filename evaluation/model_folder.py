"""The model that is evaluated: a Hugging Face folder, checked before any work, and what tells it from others."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError

_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class Model:
    """A Hugging Face folder.

    Attributes:
        folder: with config.json, tokenizer and weights.
        positions: tokens that it can attend over.
        fingerprint: SHA-256 (hex) over config, tokenizer and samples of the weights.
    """

    folder: Path
    positions: int
    fingerprint: str


def open_model(folder: Path) -> Model:
    """Check ``folder`` and return it as a :class:`Model`.

    Raises:
        UserError: config.json, the tokenizer or the weights are missing, or the config is damaged.
    """
    path = folder / "config.json"
    try:
        positions = int(json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"])
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; name a Hugging Face folder of a model, a stage or a checkpoint"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: has no max_position_embeddings ({error!r}); download the folder again"
        ) from error
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: holds no {name}, and texts cannot be measured without a tokenizer; copy the files of the "
                f"model's tokenizer into it"
            )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: holds no *.safetensors; download the model again, or export it")
    digest = hashlib.sha256()
    for file in (path, folder / "tokenizer.json", folder / "tokenizer_config.json"):
        digest.update(file.read_bytes())
    for file in weights:
        _sample(file, digest)
    return Model(folder, positions, digest.hexdigest())


def _sample(file: Path, digest: "hashlib._Hash") -> None:
    """Feed the size and evenly spaced blocks of ``file``: reading all of 60 GB would take minutes."""
    size = file.stat().st_size
    digest.update(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for number in range(_BLOCKS):
            stream.seek(number * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
