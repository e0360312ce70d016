"""NeMo 2 checkpoint -> Hugging Face folder, one tensor in memory at a time, without NeMo."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml
from transformers import GenerationConfig, GraniteConfig

from recipes.common.errors import UserError
from recipes.common.files import atomic_directory, check_space
from recipes.common.json_files import write_json
from recipes.model.bridge import hf_folder
from recipes.model.bridge.mapping import CONFIG_FIELDS, FIXED_FIELDS, Weight, weights
from recipes.model.bridge.tensor_bytes import tensor_bytes_view
from recipes.model.bridge.torch_dist import TorchDistCheckpoint

log = logging.getLogger(__name__)

# as save_pretrained of transformers
MAX_SHARD_BYTES = 5 * 10**9
# one write of a whole tensor took several times as long as writes of this size (Linux 6.18, ext4)
_WRITE_BYTES = 2**20
_SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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
    tokenizer = hf_folder.read_tokenizer(tokenizer_folder, config["vocab_size"])
    source = TorchDistCheckpoint(checkpoint / "weights")
    megatron_weights = weights(config)
    source.check_all(megatron_weights, config["num_hidden_layers"])
    shards = plan_shards(megatron_weights, source, max_shard_bytes)
    check_space(output, sum(shard.tensor_bytes for shard in shards))

    with atomic_directory(output) as temporary:
        _write_configs(config, source.dtype(megatron_weights[0]), tokenizer, temporary)
        hf_folder.copy_tokenizer(tokenizer_folder, temporary)
        _write_shards(shards, source, temporary)


def _write_configs(
    config: dict[str, Any], dtype: torch.dtype, tokenizer: Any, folder: Path
) -> None:
    """Write config.json and generation_config.json."""
    hf_config = GraniteConfig(
        **FIXED_FIELDS,
        **config,
        architectures=["GraniteForCausalLM"],
        torch_dtype=dtype,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers' default, which Granite's published configs leave out
    if hf_config.head_dim == hf_config.hidden_size // hf_config.num_attention_heads:
        del hf_config.head_dim
    hf_config.save_pretrained(folder)
    GenerationConfig.from_model_config(hf_config).save_pretrained(folder)


def _write_shards(shards: list["Shard"], source: TorchDistCheckpoint, folder: Path) -> None:
    """Write the safetensors files, and their index where there are several."""
    file_of_tensor: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = hf_folder.WEIGHTS
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as file:
            shard.write(file, source)
        file_of_tensor |= dict.fromkeys(shard.header, name)
        log.info("%s: %d tensors, %.2f GB", name, len(shard.header), shard.tensor_bytes / 1e9)
    if len(shards) > 1:
        total_size = sum(shard.tensor_bytes for shard in shards)
        index = {"metadata": {"total_size": total_size}, "weight_map": file_of_tensor}
        write_json(folder / hf_folder.INDEX, index)


def read_context(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the config under config.json's names, and the tokenizer's folder.

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
        config = {name: model["config"].get(field) for name, field in CONFIG_FIELDS.items()}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; the checkpoint needs the context that NeMo saves with it"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged or without tokenizer ({error!r}); use another checkpoint"
        ) from error
    if config["head_dim"] is None and config["hidden_size"]:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    missing = [
        field for name, field in CONFIG_FIELDS.items() if not isinstance(config[name], int | float)
    ]
    if missing:
        raise UserError(
            f"{path}: config has no number for {', '.join(missing)}; only Granite models can be "
            "exported"
        )
    return config, tokenizer


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

    def write(self, file: BinaryIO, source: TorchDistCheckpoint) -> None:
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
    megatron_weights: list[Weight], source: TorchDistCheckpoint, max_shard_bytes: int
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
                f"{source.folder}: {weight.key} is {dtype}, but only bf16, fp16 and fp32 can be "
                f"exported"
            )
        bytes_with_weight = shards[-1].tensor_bytes + weight.elements * dtype.itemsize
        if shards[-1].weights and bytes_with_weight > max_shard_bytes:
            shards.append(Shard())
        shards[-1].add(weight, dtype)
    return shards
