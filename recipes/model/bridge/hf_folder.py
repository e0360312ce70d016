"""A Hugging Face folder with a Granite model: its config, tensors and tokenizer, checked before
anything is written.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from transformers import GraniteConfig

from recipes.common.errors import UserError
from recipes.model.bridge.mapping import CONFIG_FIELDS, FIXED_FIELDS, Weight

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)


def local_folder(source: str) -> Path:
    """Return ``source`` if it is a folder, else download the model that the Hub has under this
    name.

    Raises:
        UserError: neither a folder nor a model that can be reached.
    """
    if Path(source).exists() or source.startswith(("/", ".")):
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"]
            )
        )
    except Exception as error:  # the library lets its transports' own exceptions through
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: neither a folder here nor a model that the Hub gives "
            f"({type(error).__name__}: {reason}); check the name and the network"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json with transformers' defaults and ``head_dim`` filled in.

    Raises:
        UserError: not a Granite model, a field is missing, or a field has a value that Granite 4.1
            does not have.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{path}: not found; name a Hugging Face folder with a Granite model")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model_type = values["model_type"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not the config of a model ({error!r}); download the folder again"
        ) from error
    if model_type != "granite":
        raise UserError(f"{path}: model_type is {model_type!r}, but only 'granite' can be imported")
    # transformers fills in defaults for what is missing, which would be another model's
    for name in CONFIG_FIELDS:
        if name != "head_dim" and not isinstance(values.get(name), int | float):
            raise UserError(
                f"{path}: {name} is {values.get(name)!r}, but a Granite model needs a number "
                f"there; add it"
            )
    config = GraniteConfig.from_dict(values).to_dict()
    for name, expected in FIXED_FIELDS.items():
        if config[name] != expected:
            raise UserError(
                f"{path}: {name} is {config[name]!r}, but Granite 4.1 has {expected!r}, so it "
                "cannot be imported"
            )
    # released configs leave it out where it follows
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config


def open_tensors(folder: Path, weights: Iterable[Weight]) -> dict[str, safe_open]:
    """Open the safetensors files of a folder.

    Returns:
        Each tensor of ``weights`` -> the file to call ``get_tensor`` on.

    Raises:
        UserError: no safetensors, a file is missing or cut short, a tensor is missing, unknown or
            of another shape.
    """
    files: dict[str, safe_open] = {}
    # which file holds which tensor, from the files themselves and not from their index
    for path in safetensors_files(folder):
        file = _open(path)
        files.update(dict.fromkeys(file.keys(), file))

    shapes: dict[str, tuple[int, ...]] = {}
    for weight in weights:
        shapes |= weight.parts
    # a folder may repeat the tied embedding under its second name
    unknown = files.keys() - shapes.keys() - {"lm_head.weight"}
    missing = shapes.keys() - files.keys()
    if missing or unknown:
        problem = f"lacks the tensor {min(missing)}" if missing else ""
        problem = problem or f"has the tensor {min(unknown)}, not Granite's"
        raise UserError(
            f"{folder}: {problem} ({len(missing)} missing, {len(unknown)} unknown); download it "
            f"again"
        )
    # reads the headers only
    for name, expected in shapes.items():
        shape = tuple(files[name].get_slice(name).get_shape())
        if shape != expected:
            raise UserError(
                f"{folder}: {name} has shape {shape}, but {CONFIG} asks for {expected}; download "
                f"it again"
            )
    return files


def safetensors_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a folder's index names, or the only one.

    Raises:
        UserError: the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return [folder / WEIGHTS]
    try:
        file_of_tensor = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # the name alone: an index may not lead out of its folder
        names = {Path(name).name for name in file_of_tensor.values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{index}: damaged ({error!r}); download the folder again") from error
    return [folder / name for name in sorted(names)]


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; only safetensors are read (a .bin file can run code when it is "
            f"loaded)"
        ) from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from error


def read_tokenizer(folder: Path, vocab_size: int) -> "PreTrainedTokenizerBase":
    """Load the tokenizer, to see that it is one and that the model has a row for each of its
    tokens.

    Raises:
        UserError: there is none, or it has tokens from ``vocab_size`` up.
    """
    # takes three seconds to import
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokens = max(tokenizer.get_vocab().values()) + 1
    except Exception as error:  # transformers and tokenizers raise anything for broken files
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder}: no tokenizer that transformers can load ({reason}); put its files there"
        ) from error
    if tokens > vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens but the model {vocab_size}; use its own "
            "tokenizer"
        )
    return tokenizer


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files as they are; saving a loaded tokenizer would rewrite them."""
    target.mkdir(exist_ok=True)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copy(file, target)
