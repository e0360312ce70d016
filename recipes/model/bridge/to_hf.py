"""NeMo 2 checkpoint -> Hugging Face folder, one tensor in memory at a time, without NeMo."""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
import yaml
from torch import Tensor
from transformers import GenerationConfig, GraniteConfig

from recipes.common.errors import UserError
from recipes.common.files import atomic_directory, check_space
from recipes.common.json_files import write_json
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.model.bridge.mapping import CONFIG_FIELDS, Weight, weights
from recipes.model.bridge.source_files import copy_kept_files, source_values
from recipes.model.bridge.tensor_bytes import TORCH_TYPES, tensor_bytes_view
from recipes.model.bridge.torch_dist import TorchDistCheckpoint
from recipes.model.transformers_model import load_tokenizer
from recipes.model_folder.config import CONFIG, ModelConfig, model_config
from recipes.model_folder.files import GENERATION_CONFIG, copy_files, tokenizer_files
from recipes.model_folder.weights import INDEX, WEIGHTS

log = logging.getLogger(__name__)

# as save_pretrained of transformers
MAX_SHARD_BYTES = 5 * 10**9
# one write of a whole tensor took several times as long as writes of this size (Linux 6.18, ext4)
_WRITE_BYTES = 2**20
_SAFETENSORS_TYPES = {dtype: name for name, dtype in TORCH_TYPES.items()}


class WeightSource(Protocol):
    """What holds a model's weights: a checkpoint's folder, or a model in memory."""

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type in which a tensor is stored."""
        ...

    def read(self, weight: Weight) -> Tensor:
        """Return a tensor, of Megatron's shape."""
        ...


def export_hf(
    checkpoint: Path,
    output: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the Hugging Face folder ``output`` from the NeMo 2 checkpoint folder ``checkpoint``.

    Args:
        checkpoint: folder with ``weights/`` (torch_dist, saved with any parallel sizes) and
            ``context/``.
        output: new folder, complete or absent.
        max_shard_bytes: a safetensors file holds at most this many bytes of tensors, or one tensor.

    Raises:
        UserError: ``checkpoint`` is not such a folder or damaged, ``output`` exists, or there is
            not enough space.
    """
    for folder in (checkpoint, checkpoint / "weights", checkpoint / "context"):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: not found; name a NeMo 2 checkpoint, a folder with weights/ and "
                f"context/"
            )
    config, tokenizer_folder = read_context(checkpoint / "context")
    tokenizer = load_tokenizer(TokenizerFolder(tokenizer_folder), config.vocab_size)
    source = TorchDistCheckpoint(checkpoint / "weights")
    megatron_weights = weights(config)
    source.check_all(megatron_weights, config.num_hidden_layers)
    shards = plan_shards(megatron_weights, source, max_shard_bytes)
    check_space(output, sum(shard.tensor_bytes for shard in shards))

    with atomic_directory(output) as temporary:
        dtype = source.dtype(megatron_weights[0])
        _write_configs(checkpoint / "context", config, dtype, tokenizer, temporary)
        copy_files(tokenizer_folder, tokenizer_files(tokenizer_folder), temporary)
        write_shards(shards, source, temporary)


def _write_configs(
    context: Path, config: ModelConfig, dtype: torch.dtype, tokenizer: Any, folder: Path
) -> None:
    """Write config.json and generation_config.json: those that were imported, if any were."""
    values = source_values(context)
    if values is None:
        values = _new_values(tokenizer)
    numbers = asdict(config)
    # transformers' default, which Granite's published configs leave out
    if config.head_dim == config.hidden_size // config.num_attention_heads:
        numbers["head_dim"] = values.get("head_dim")
    values |= {name: number for name, number in numbers.items() if number is not None}
    values.setdefault("torch_dtype", str(dtype).removeprefix("torch."))
    write_json(folder / CONFIG, values)

    copy_kept_files(context, folder)
    if not (folder / GENERATION_CONFIG).is_file():
        hf_config = GraniteConfig.from_dict(values)
        GenerationConfig.from_model_config(hf_config).save_pretrained(folder)


def _new_values(tokenizer: Any) -> dict[str, Any]:
    """Return the config of a model that was trained here, with the tokenizer's special tokens."""
    hf_config = GraniteConfig(
        architectures=["GraniteForCausalLM"],
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return hf_config.to_diff_dict()


def write_shards(shards: list["Shard"], source: WeightSource, folder: Path) -> None:
    """Write the safetensors files, and their index where there are several."""
    file_of_tensor: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WEIGHTS
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as file:
            shard.write(file, source)
        file_of_tensor |= dict.fromkeys(shard.header, name)
        log.info("%s: %d tensors, %.2f GB", name, len(shard.header), shard.tensor_bytes / 1e9)
    if len(shards) > 1:
        total_size = sum(shard.tensor_bytes for shard in shards)
        index = {"metadata": {"total_size": total_size}, "weight_map": file_of_tensor}
        write_json(folder / INDEX, index)


def read_context(folder: Path) -> tuple[ModelConfig, Path]:
    """Return the model's config, and the tokenizer's folder.

    Args:
        folder: ``context/`` of a NeMo 2 checkpoint; its ``model.yaml`` is read.

    Raises:
        UserError: there is no such file, it is damaged, or of another model.
    """
    path = folder / "model.yaml"
    try:
        model = yaml.safe_load(path.read_text(encoding="utf-8"))
        # NeMo keeps the tokenizer's folder directly in the context; a path that leads elsewhere is
        # not followed
        tokenizer = folder / Path(str(model["tokenizer"]["pretrained_model_name"])).name
        numbers = {name: model["config"].get(field) for name, field in CONFIG_FIELDS.items()}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; the checkpoint needs the context that NeMo saves with it"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged or without tokenizer ({error!r}); use another checkpoint"
        ) from error
    if numbers["head_dim"] is None:
        del numbers["head_dim"]
    missing = [CONFIG_FIELDS[name] for name, number in numbers.items() if number is None]
    if missing:
        raise UserError(
            f"{path}: config has no number for {', '.join(missing)}; only Granite models can be "
            "exported"
        )
    return model_config(numbers, path), tokenizer


@dataclass
class Shard:
    """A safetensors file to be written.

    Attributes:
        header: transformers' name of each tensor -> type, shape and place in the file.
        weights: the Megatron tensors that fill it, in order.
        tensor_bytes: of all tensors.
    """

    header: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    tensor_bytes: int = 0

    def add(self, weight: Weight, dtype: torch.dtype) -> None:
        """Give the transformers tensors of ``weight`` the next bytes of the file."""
        self.weights.append(weight)
        for name, shape in weight.parts.items():
            end = self.tensor_bytes + torch.Size(shape).numel() * dtype.itemsize
            self.header[name] = {
                "dtype": _SAFETENSORS_TYPES[dtype],
                "shape": shape,
                "data_offsets": (self.tensor_bytes, end),
            }
            self.tensor_bytes = end

    def write(self, file: BinaryIO, source: WeightSource) -> None:
        """Write the file: 8 bytes of header length, the JSON header, the tensors' bytes."""
        header = json.dumps({"__metadata__": {"format": "pt"}, **self.header}).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        for weight in self.weights:
            for tensor in weight.split(source.read(weight)):
                content = tensor_bytes_view(tensor.contiguous())
                for start in range(0, len(content), _WRITE_BYTES):
                    file.write(content[start : start + _WRITE_BYTES])


def plan_shards(
    megatron_weights: list[Weight], source: WeightSource, max_shard_bytes: int
) -> list[Shard]:
    """Put the tensors into as few files as the limit and their order allow.

    The parts of one Megatron tensor stay together.

    Raises:
        UserError: a tensor has a type that the model was not trained in.
    """
    shards = [Shard()]
    for weight in megatron_weights:
        dtype = source.dtype(weight)
        if dtype not in _SAFETENSORS_TYPES:
            raise UserError(
                f"{source}: {weight.key} is {dtype}, but only bf16, fp16 and fp32 can be exported"
            )
        bytes_with_weight = shards[-1].tensor_bytes + weight.elements * dtype.itemsize
        if shards[-1].weights and bytes_with_weight > max_shard_bytes:
            shards.append(Shard())
        shards[-1].add(weight, dtype)
    return shards
