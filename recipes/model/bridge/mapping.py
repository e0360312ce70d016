"""Granite's names in both worlds: config fields, tensors and the order of their rows. Pure
functions, no NeMo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

# config.json -> recipes.model.nemo.GraniteConfig
CONFIG_FIELDS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "head_dim": "kv_channels",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "seq_length",
    "rope_theta": "rotary_base",
    "rms_norm_eps": "layernorm_epsilon",
    "initializer_range": "initializer_std",
    "embedding_multiplier": "embedding_multiplier",
    "attention_multiplier": "attention_multiplier",
    "residual_multiplier": "residual_multiplier",
    "logits_scaling": "logits_scaling",
}

# What GraniteConfig has no field for, because every Granite 4.1 model has the same.
FIXED_FIELDS = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Weight:
    """One Megatron tensor and the transformers tensors whose rows it holds.

    Attributes:
        key: name in the checkpoint; the layers of one kind share a key.
        layer: position on the leading axis that Megatron puts before such a key, None for a tensor
            outside the layers.
        parts: transformers' name and shape of each tensor, in Megatron's order.
        groups: the rows are ``groups`` blocks, each with its share of every part: Megatron keeps
            the queries, the key and the value of a query group together, [groups, queries per group
            + 2, head_dim, hidden].
    """

    key: str
    layer: int | None
    parts: dict[str, tuple[int, ...]]
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Megatron's shape, without the leading axis of layers."""
        shapes = list(self.parts.values())
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Split Megatron's tensor of :attr:`shape` into ``parts``."""
        # [groups, rows of a group, ...], of which each part has a range of rows
        by_group = tensor.unflatten(0, (self.groups, -1))
        rows_per_group = [shape[0] // self.groups for shape in self.parts.values()]
        parts = by_group.split(rows_per_group, dim=1)
        return [part.flatten(0, 1) for part in parts]

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """Put ``parts`` together into Megatron's tensor; the inverse of :meth:`split`."""
        by_group = [part.unflatten(0, (self.groups, -1)) for part in parts]
        return torch.cat(by_group, dim=1).flatten(0, 1)


@dataclass(frozen=True)
class _LayerWeight:
    """A :class:`Weight` of every layer.

    Attributes:
        key: name in the checkpoint after ``decoder.layers.``.
        parts: transformers' name after ``model.layers.N.`` and without ``.weight`` -> shape.
        groups: as in :class:`Weight`.
    """

    key: str
    parts: dict[str, tuple[int, ...]]
    groups: int = 1

    def at(self, layer: int) -> Weight:
        """Return the weight of one layer."""
        parts = {f"model.layers.{layer}.{name}.weight": shape for name, shape in self.parts.items()}
        return Weight(f"decoder.layers.{self.key}", layer, parts, self.groups)


def weights(config: dict[str, Any]) -> list[Weight]:
    """Return the tensors of the model of ``config`` (config.json's names), in its order."""
    hidden = config["hidden_size"]
    embedding = Weight(
        "embedding.word_embeddings.weight",
        None,
        {"model.embed_tokens.weight": (config["vocab_size"], hidden)},
    )
    final_norm = Weight("decoder.final_layernorm.weight", None, {"model.norm.weight": (hidden,)})

    in_layers = []
    layer_weights = _layer_weights(config)
    for layer in range(config["num_hidden_layers"]):
        in_layers += [weight.at(layer) for weight in layer_weights]
    return [embedding, *in_layers, final_norm]


def _layer_weights(config: dict[str, Any]) -> list[_LayerWeight]:
    hidden = config["hidden_size"]
    ffn = config["intermediate_size"]
    groups = config["num_key_value_heads"]
    query = config["num_attention_heads"] * config["head_dim"]
    key_value = groups * config["head_dim"]
    return [
        _LayerWeight(
            "self_attention.linear_qkv.layer_norm_weight",
            {"input_layernorm": (hidden,)},
        ),
        _LayerWeight(
            "self_attention.linear_qkv.weight",
            {
                "self_attn.q_proj": (query, hidden),
                "self_attn.k_proj": (key_value, hidden),
                "self_attn.v_proj": (key_value, hidden),
            },
            groups,
        ),
        _LayerWeight(
            "self_attention.linear_proj.weight",
            {"self_attn.o_proj": (hidden, query)},
        ),
        _LayerWeight(
            "mlp.linear_fc1.layer_norm_weight",
            {"post_attention_layernorm": (hidden,)},
        ),
        _LayerWeight(
            "mlp.linear_fc1.weight",
            {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden)},
        ),
        _LayerWeight(
            "mlp.linear_fc2.weight",
            {"mlp.down_proj": (hidden, ffn)},
        ),
    ]
