"""Core attention on torch's ``scaled_dot_product_attention``, for machines without
TransformerEngine.

Megatron-Core's own local attention builds the whole score matrix and refuses context parallelism.
This one is causal, knows grouped queries and document masks, gathers keys and values over the
context-parallel group, and never holds more than one block of a mask.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Rows of one block of queries times keys: 2^24 booleans are 16 MiB, 64 MiB once a kernel turns them
# into fp32.
MASK_BLOCK_ELEMENTS = 2**24


class SdpaCoreAttention(MegatronModule):
    """Replaces Megatron's ``DotProductAttention``, with the same constructor and call.

    The mask is one of three: none (causal), document ids (integers of shape [batch, 1, sequence],
    not falling along the sequence; a token attends to earlier tokens of its own document only), or
    Megatron's own boolean mask [batch or 1, 1, queries, keys] in which True hides a key.

    Or there is no mask but packed sequences, in Megatron's ``thd`` format as TransformerEngine
    takes them: each is attended to by itself.

    With context parallelism each rank holds two of ``2 * cp`` equal chunks of the sequence,
    ``rank`` and ``2 * cp - 1 - rank``, as Megatron's ``get_batch_on_this_cp_rank`` cuts them;
    document ids are cut the same way. Of packed sequences it holds two chunks of each.

    Raises:
        ValueError: attention dropout, an attention bias, or a boolean mask under context
            parallelism.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        model_comm_pgs: Any = None,
    ) -> None:
        super().__init__(config=config)
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        if dropout:
            raise ValueError(
                f"attention dropout is {dropout}, but Granite trains without: set "
                "attention_dropout=0"
            )
        self.attn_mask_type = attn_mask_type
        self.softmax_scale = (
            1 / math.sqrt(config.kv_channels) if softmax_scale is None else softmax_scale
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [sequence, batch, heads, head_dim] of this tensor-parallel rank, without the
                batch if sequences are packed.
            key: [sequence, batch, groups, head_dim]; ``heads`` is a multiple of ``groups``.
            value: as ``key``.
            attention_mask: None, document ids or a boolean mask (see the class).
            attn_mask_type: ``no_mask`` when one token is decoded against a cache, else causal.
            packed_seq_params: where packed sequences begin, which are causal.

        Returns:
            [sequence, batch, heads * head_dim], without the batch if sequences are packed.
        """
        if attention_bias is not None:
            raise ValueError("an attention bias needs TransformerEngine")
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params)
        has_boolean_mask = attention_mask is not None and attention_mask.dtype == torch.bool
        documents = None
        if attention_mask is not None and not has_boolean_mask:
            documents = attention_mask[:, 0]

        if self.config.context_parallel_size > 1:
            if has_boolean_mask:
                raise ValueError(
                    "a boolean attention mask cannot be cut over context-parallel ranks: pass "
                    "document ids"
                )
            starts = self._context_parallel_starts(query.shape[0])
            key, value, documents = _gather_context(key, value, documents)
        else:
            # with a cache of keys the queries are the end of the sequence
            starts = [key.shape[0] - query.shape[0]]

        # [sequence, batch, heads, head_dim] -> [batch, heads, sequence, head_dim]
        query = query.permute(1, 2, 0, 3)
        key = key.permute(1, 2, 0, 3)
        value = value.permute(1, 2, 0, 3)

        is_decoding = (attn_mask_type or self.attn_mask_type) == AttnMaskType.no_mask
        if has_boolean_mask and attention_mask is not None:
            # Megatron's True hides a key, torch's shows it
            attended = self._attend(query, key, value, ~attention_mask)
        elif is_decoding:
            attended = self._attend(query, key, value, None)
        else:
            attended = self._causal_chunks(query, key, value, starts, documents)
        # back to [sequence, batch, heads * head_dim]
        return attended.permute(2, 0, 1, 3).flatten(2)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        """Attend within each of packed sequences: [tokens, heads, head_dim] to [tokens, heads *
        head_dim].
        """
        bounds = packed.cu_seqlens_q
        if packed.cu_seqlens_q_padded is not None:
            bounds = packed.cu_seqlens_q_padded
        cp = self.config.context_parallel_size
        if cp > 1:
            group = parallel_state.get_context_parallel_group()
            key_value = torch.cat([key, value], dim=-1)
            gathered = _gather_sequence(key_value, group, bounds)
            key, value = gathered.split(key.shape[-1], dim=-1)

        lengths = bounds.diff()
        own_lengths = (lengths // cp).tolist()
        # [tokens, heads, head_dim] -> [1, heads, tokens, head_dim], one of each sequence
        parts = zip(
            query.transpose(0, 1)[None].split(own_lengths, dim=2),
            key.transpose(0, 1)[None].split(lengths.tolist(), dim=2),
            value.transpose(0, 1)[None].split(lengths.tolist(), dim=2),
            strict=True,
        )
        attended = []
        for part_query, part_key, part_value in parts:
            starts = [0]
            if cp > 1:
                starts = self._context_parallel_starts(part_query.shape[2])
            attended.append(self._causal_chunks(part_query, part_key, part_value, starts, None))
        return torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1)

    def _causal_chunks(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: list[int],
        documents: Tensor | None,
    ) -> Tensor:
        """Attend with equal chunks of queries, each at its start in the sequence of the keys."""
        chunk = query.shape[2] // len(starts)
        blocks = []
        for part, start in zip(query.split(chunk, dim=2), starts, strict=True):
            # causal: no chunk of queries needs the keys after its end
            end = start + chunk
            blocks += self._causal(
                part,
                key[:, :, :end],
                value[:, :, :end],
                start,
                documents,
            )
        return torch.cat(blocks, dim=2)

    @staticmethod
    def _context_parallel_starts(queries: int) -> list[int]:
        """Return the positions of this rank's two chunks of queries."""
        group = parallel_state.get_context_parallel_group()
        chunk = queries // 2
        # rank r has chunk r from the start and chunk r from the end, so that work is even
        first = group.rank()
        second = 2 * group.size() - 1 - first
        return [first * chunk, second * chunk]

    def _causal(
        self, query: Tensor, key: Tensor, value: Tensor, start: int, documents: Tensor | None
    ) -> list[Tensor]:
        """Attend with queries at the positions from ``start`` on in the sequence of the keys."""
        if start == 0 and documents is None:
            return [self._attend(query, key, value, None, is_causal=True)]
        rows = max(1, MASK_BLOCK_ELEMENTS // key.shape[2])
        blocks = []
        for offset in range(0, query.shape[2], rows):
            part = query[:, :, offset : offset + rows]
            # recomputed in the backward pass: the masks of all blocks together are the whole score
            # matrix
            blocks.append(
                checkpoint(
                    self._masked_block,
                    part,
                    key,
                    value,
                    start + offset,
                    documents,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            )
        return blocks

    def _masked_block(
        self, query: Tensor, key: Tensor, value: Tensor, start: int, documents: Tensor | None
    ) -> Tensor:
        end = start + query.shape[2]
        first = 0
        if documents is not None:
            # keys before the first document that a query of this block belongs to are out of sight
            is_earlier = documents < documents[:, start : start + 1]
            first = int(is_earlier.sum(dim=1).min())

        # [queries, keys]: a query sees the keys up to its own position
        positions = torch.arange(end, device=query.device)
        mask = positions[start:, None] >= positions[None, first:]
        if documents is not None:
            # [batch, 1, queries, keys]: and of those only its own document's
            is_same = documents[:, start:end, None] == documents[:, None, first:end]
            mask = (mask & is_same)[:, None]
        return self._attend(
            query,
            key[:, :, first:end],
            value[:, :, first:end],
            mask,
        )

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool = False,
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=is_causal,
            scale=self.softmax_scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def context_parallel_order(bounds: Tensor, size: int) -> Tensor:
    """Return the order of tokens on context-parallel ranks: the first one's, the second's ...

    Of each sequence rank ``r`` holds chunks ``r`` and ``2 * size - 1 - r`` of ``2 * size`` equal
    ones, so that the work is even: as Megatron's ``get_batch_on_this_cp_rank`` cuts one sequence,
    and its rotary embedding and TransformerEngine expect packed ones to be cut.

    Args:
        bounds: [sequences + 1], where each sequence begins, and the end.
        size: ranks.

    Returns:
        [tokens], positions in the sequences.
    """
    lengths = bounds.diff()
    starts = bounds[:-1].repeat_interleave(lengths)
    positions = torch.arange(len(starts), device=bounds.device) - starts
    chunks = positions * 2 * size // lengths.repeat_interleave(lengths)
    ranks = torch.minimum(chunks, 2 * size - 1 - chunks)
    return ranks.argsort(stable=True)


def _gather_context(
    key: Tensor, value: Tensor, documents: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gather keys, values and document ids of the whole sequence from all ranks."""
    group = parallel_state.get_context_parallel_group()
    bounds = torch.tensor([0, key.shape[0] * group.size()], device=key.device)
    # one message for both
    key_value = torch.cat([key, value], dim=-1)
    gathered = _gather_sequence(key_value, group, bounds)
    keys, values = gathered.split(key.shape[-1], dim=-1)
    if documents is not None:
        # [batch, sequence]: the sequence comes first on the way
        local = documents.t().contiguous()
        documents = _gather_sequence(local, group, bounds).t()
    return keys, values, documents


def _gather_sequence(
    local: Tensor, group: torch.distributed.ProcessGroup, bounds: Tensor
) -> Tensor:
    """Gather [local tokens, ...] over the context-parallel group, in the natural order of the
    sequences that ``bounds`` separate.
    """
    if local.is_floating_point():
        gathered = gather_from_sequence_parallel_region(local, group=group)
    else:
        length = group.size() * local.shape[0]
        gathered = local.new_empty((length, *local.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, local, group=group)
    return gathered[context_parallel_order(bounds, group.size()).argsort()]
