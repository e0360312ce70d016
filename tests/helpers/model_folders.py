"""Hugging Face folders of small Granite models, written byte by byte, without torch."""

import json
import random
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

CONFIG: dict[str, Any] = {
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "rope_theta": 1e7,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.5,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.25,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
EMBEDDING = "model.embed_tokens.weight"
_BYTES_PER_NUMBER = {"I8": 1, "BF16": 2, "F32": 4}
Tensor = tuple[str, tuple[int, ...], bytes]


def tensor(shape: tuple[int, ...], dtype: str = "BF16", seed: int = 0) -> Tensor:
    """Return type, shape and random bytes of a tensor."""
    size = prod(shape) * _BYTES_PER_NUMBER[dtype]
    return dtype, shape, random.Random(seed).randbytes(size)


def granite_tensors() -> dict[str, Tensor]:
    """Return the tensors of the model of :data:`CONFIG`."""
    shapes = {EMBEDDING: (16, 8), "model.norm.weight": (8,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (8,),
            f"{prefix}self_attn.q_proj.weight": (8, 8),
            f"{prefix}self_attn.k_proj.weight": (4, 8),
            f"{prefix}self_attn.v_proj.weight": (4, 8),
            f"{prefix}self_attn.o_proj.weight": (8, 8),
            f"{prefix}post_attention_layernorm.weight": (8,),
            f"{prefix}mlp.gate_proj.weight": (12, 8),
            f"{prefix}mlp.up_proj.weight": (12, 8),
            f"{prefix}mlp.down_proj.weight": (8, 12),
        }
    return {name: tensor(shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    header = {}
    offset = 0
    for name, (dtype, shape, content) in tensors.items():
        end = offset + len(content)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    data = b"".join(content for _, _, content in tensors.values())
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write two shards and their index."""
    file_of_tensor = {}
    names = sorted(tensors)
    half = len(names) // 2
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        write_tensors(folder / file, {name: tensors[name] for name in part})
        file_of_tensor |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": file_of_tensor}))


def write_model(folder: Path, **fields: Any) -> None:
    """Write a whole folder; ``fields`` replace those of config.json, ``...`` removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**CONFIG, **fields}
    values = {name: value for name, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2], "temperature": 0.6}')
    write_tensors(folder / "model.safetensors", granite_tensors())

    words = {"<unk>": 0, "<pad>": 1, "<end>": 2} | {f"w{number}": number for number in range(3, 16)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<end>"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
