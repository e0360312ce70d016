"""Small Granite models as Hugging Face folders, for the tests of the bridge."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 320
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 1e7,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 1 / 8,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.25,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


def write_granite(
    folder: Path, dtype: torch.dtype = torch.float32, **fields: Any
) -> GraniteForCausalLM:
    """Write a Granite model with random weights and its tokenizer; return the model."""
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(**{**SMALL, **fields})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.1)
        else:
            parameter.data.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path, tokens: int = VOCAB_SIZE) -> None:
    """Write a tokenizer of ``tokens`` words."""
    words = {"<unk>": 0, "<pad>": 1, "<end>": 2} | {
        f"w{number}": number for number in range(3, tokens)
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<end>",
        eos_token="<end>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a Hugging Face folder."""
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def assert_same_tensors(found: Path, expected: Path) -> None:
    """Assert that two folders hold the same tensors, bit for bit."""
    left, right = load_tensors(found), load_tensors(expected)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name
