"""The policy's Megatron model, one token at a time, with a cache of keys and values.

Megatron-Core's own cache has one position for all rows of a batch, or needs CUDA kernels for more.
Here each row has its own, so that rows of different lengths are decoded together, and a row can be
given to another answer. The modules are the model's own: what is computed between them is rotary
embedding, attention and the sums, as in ``TransformerLayer`` and ``SelfAttention`` of Megatron-Core
0.13.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from recipes.common.errors import UserError

# hidden states' queries, keys and values -> what the queries attend to
_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prefilled:
    """A prompt that the model has read, for any number of answers.

    Attributes:
        cache: [layers, 2 (key, value), groups, tokens, head_dim] of this tensor-parallel rank.
        logits: of the next token, [vocabulary].
    """

    cache: Tensor
    logits: Tensor


class Decoder:
    """A model, and a cache for ``rows`` sequences of up to ``length`` tokens.

    The model may be split over tensor-parallel ranks, which all make the same calls.
    """

    def __init__(self, model: GPTModel, rows: int, length: int) -> None:
        """Allocate the cache.

        Raises:
            UserError: the model is split in a way that is not decoded.
        """
        require_whole_layers(model)
        self._model = model
        attention = model.decoder.layers[0].self_attention
        # of this tensor-parallel rank
        self._groups = attention.num_query_groups_per_partition
        self._head_dim = attention.hidden_size_per_attention_head
        self._scale = model.config.softmax_scale

        embedding = model.embedding.word_embeddings.weight
        shape = (len(model.decoder.layers), 2, rows, self._groups, length, self._head_dim)
        # not empty: what is out of sight has weight 0, and 0 times not a number is none
        self._cache = embedding.new_zeros(shape)
        self._lengths = torch.zeros(rows, dtype=torch.long, device=embedding.device)

        # [positions, 1, 1, head_dim]; Megatron's rotation is x * cos + (-x2, x1) * sin
        angles = model.rotary_pos_emb(length)[:, 0]
        sine = angles.sin()
        sine[..., : self._head_dim // 2] *= -1
        self._cosine = angles.cos().to(embedding.dtype)
        self._signed_sine = sine.to(embedding.dtype)

    def prefill(self, ids: Tensor) -> Prefilled:
        """Read a prompt of [tokens]; the rows' caches are left as they are."""
        length = len(ids)
        shape = (*self._cache.shape[:2], self._groups, length, self._head_dim)
        cache = self._cache.new_empty(shape)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            # [tokens, 1, groups, ...] -> [groups, tokens, head_dim]
            cache[layer, 0] = key[:, 0].transpose(0, 1)
            cache[layer, 1] = value[:, 0].transpose(0, 1)
            # [1, heads, tokens, head_dim]
            heads = query.flatten(2, 3).permute(1, 2, 0, 3)
            keys, values = cache[layer].unsqueeze(1)
            attended = F.scaled_dot_product_attention(
                heads,
                keys,
                values,
                is_causal=True,
                scale=self._scale,
                enable_gqa=True,
            )
            return attended.permute(2, 0, 1, 3)

        positions = torch.arange(length, device=ids.device)
        # [tokens, batch of 1]
        hidden = self._forward(ids[None], positions[:, None], attend)
        return Prefilled(cache, self._logits(hidden[-1:])[0, 0])

    def admit(self, row: int, prompt: Prefilled) -> None:
        """Give a row to a new answer to a prompt."""
        length = prompt.cache.shape[3]
        self._cache[:, :, row, :, :length] = prompt.cache
        self._lengths[row] = length

    def keep(self, rows: Tensor) -> None:
        """Give up all but ``rows``, which are numbered anew in their order."""
        self._cache = self._cache[:, :, rows]
        self._lengths = self._lengths[rows]

    def step(self, ids: Tensor, longest: int) -> Tensor:
        """Append a token to each row.

        Args:
            ids: [rows].
            longest: at least the tokens of the longest row, with the new one; a row that has been
                given up counts as no longer than that.

        Returns:
            The logits of the next token, [rows, vocabulary].
        """
        rows = torch.arange(len(ids), device=ids.device)
        places = self._lengths.clamp(max=longest - 1)
        # [rows, 1, 1, keys]: a row sees its own tokens
        is_seen = torch.arange(longest, device=ids.device) <= places[:, None]
        mask = is_seen[:, None, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._cache[layer]
            keys[rows, :, places] = key[0]
            values[rows, :, places] = value[0]
            # queries that share a key are a sequence to torch: [rows, groups, queries, head_dim]
            attended = F.scaled_dot_product_attention(
                query[0],
                keys[:, :, :longest],
                values[:, :, :longest],
                attn_mask=mask,
                scale=self._scale,
            )
            return attended[None]

        # [1 token, batch of rows]
        hidden = self._forward(ids[:, None], places[None], attend)
        self._lengths += 1
        return self._logits(hidden)[0]

    def _forward(self, ids: Tensor, positions: Tensor, attend: _Attend) -> Tensor:
        """Return the last layer's states, [tokens, batch, hidden].

        Args:
            ids: [batch, tokens].
            positions: [tokens, batch].
            attend: gets the layer, the queries [tokens, batch, groups, queries, head_dim], the keys
                and the values [tokens, batch, groups, head_dim]; returns as the queries.
        """
        # [tokens, batch, 1, 1, head_dim]
        cosine = self._cosine[positions].unsqueeze(2)
        sine = self._signed_sine[positions].unsqueeze(2)
        half = self._head_dim // 2

        hidden = self._model.embedding(ids, None)
        for number, layer in enumerate(self._model.decoder.layers):
            mixed, _ = layer.self_attention.linear_qkv(layer.input_layernorm(hidden))
            # [tokens, batch, groups, queries of the group + key + value, head_dim]
            mixed = mixed.unflatten(-1, (self._groups, -1, self._head_dim))
            turned = mixed[..., :-1, :]
            turned = turned * cosine + turned.roll(half, dims=-1) * sine
            attended = attend(
                number,
                turned[..., :-1, :],
                turned[..., -1, :],
                mixed[..., -1, :],
            )
            branch = layer.self_attention.linear_proj(attended.flatten(2))
            hidden = _add(layer.self_attn_bda, branch, hidden)
            branch = layer.mlp(layer.pre_mlp_layernorm(hidden))
            hidden = _add(layer.mlp_bda, branch, hidden)
        return self._model.decoder.final_layernorm(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits, _ = self._model.output_layer(
            hidden,
            weight=self._model.shared_embedding_or_output_weight(),
            runtime_gather_output=True,
        )
        return logits


def _add(get_add: Callable, branch: tuple[Tensor, Tensor | None], hidden: Tensor) -> Tensor:
    """Add a branch to the residual stream, as Granite's layers do."""
    return get_add(False, False)(branch, hidden, 0.0)


def require_whole_layers(model: GPTModel) -> None:
    """Raise UserError unless this rank has a part of every layer, and whole sequences."""
    config = model.config
    for name, is_split in (
        ("pipeline_model_parallel_size", config.pipeline_model_parallel_size > 1),
        ("context_parallel_size", config.context_parallel_size > 1),
        ("sequence_parallel", config.sequence_parallel),
    ):
        if is_split:
            raise UserError(
                f"parallelism.{name} is {getattr(config, name)}: the trainer's own process does "
                f"not generate with it; set it to {1 if is_split is not True else 'its default'}, "
                f"or generate on servers (docs/rollouts.md)"
            )
