"""Granite's names in both worlds: config fields, tensors and the order of their rows. Pure
functions, no NeMo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from recipes.model_folder.config import ModelConfig
from recipes.model_folder.weights import EMBEDDING, FINAL_NORM, granite_shapes

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

_QKV = "self_attention.linear_qkv.weight"
# Megatron's key after decoder.layers. -> transformers' names after model.layers.N. and without
# .weight, in Megatron's order
_IN_LAYER = {
    "self_attention.linear_qkv.layer_norm_weight": ("input_layernorm",),
    _QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.linear_proj.weight": ("self_attn.o_proj",),
    "mlp.linear_fc1.layer_norm_weight": ("post_attention_layernorm",),
    "mlp.linear_fc1.weight": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.linear_fc2.weight": ("mlp.down_proj",),
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


def weights(config: ModelConfig) -> list[Weight]:
    """Return the tensors of the model of ``config``, in its order."""
    shapes = granite_shapes(config)

    in_layers = []
    for layer in range(config.num_hidden_layers):
        for key, names in _IN_LAYER.items():
            full_names = [f"model.layers.{layer}.{name}.weight" for name in names]
            parts = {name: shapes[name] for name in full_names}
            groups = config.num_key_value_heads if key == _QKV else 1
            in_layers.append(Weight(f"decoder.layers.{key}", layer, parts, groups))

    embedding = {EMBEDDING: shapes[EMBEDDING]}
    final_norm = {FINAL_NORM: shapes[FINAL_NORM]}
    return [
        Weight("embedding.word_embeddings.weight", None, embedding),
        *in_layers,
        Weight("decoder.final_layernorm.weight", None, final_norm),
    ]
