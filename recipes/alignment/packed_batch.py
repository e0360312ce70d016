"""Packed sequences as the tensors of a micro-batch.

A micro-batch is one row of tokens, and Megatron's ``PackedSeqParams`` (format ``thd``) say where in
it each conversation lies. Both attentions read them, TransformerEngine's and
:class:`recipes.model.attention.SdpaCoreAttention`, and Megatron's rotary embedding begins anew at
each conversation. So a model is called as

    model(batch.tokens, batch.position_ids, None, labels=batch.labels,
          packed_seq_params=batch.packed_seq_params)

on every stage of a pipeline, a middle one too, and a pipeline's schedule is given the row:
``seq_length=len(sequences) * length``, ``micro_batch_size=1``.

Pads follow a sequence, and with context parallelism each conversation, whose tokens are cut over
the ranks. Where they are follows from the lengths alone, whatever their id. No loss counts them and
no other token attends to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from recipes.model.attention import context_parallel_order
from recipes.runs.packed_folder import PackedFolder, PackedSequence

# any id of a vocabulary: nothing reads it
_PAD = 0


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of packed sequences, of this context-parallel rank or of all.

    Attributes:
        tokens: int64, [1, tokens].
        labels: int64, [1, tokens]: of each token the next one of its conversation.
        loss_mask: bool, [1, tokens]: whether the model learns to predict the label.
        position_ids: int64, [1, tokens]: from 0 in each conversation.
        packed_seq_params: where the conversations lie in the row of all ranks.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    packed_seq_params: PackedSeqParams

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the batch on a device."""
        packed = self.packed_seq_params
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(packed).items()
            if isinstance(value, Tensor)
        }
        return PackedBatch(
            tokens=self.tokens.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            loss_mask=self.loss_mask.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            packed_seq_params=replace(packed, **moved),
        )

    def on_this_context_parallel_rank(self) -> "PackedBatch":
        """Return what this rank computes: two chunks of every conversation."""
        size = parallel_state.get_context_parallel_world_size()
        if size == 1:
            return self
        order = context_parallel_order(self.packed_seq_params.cu_seqlens_q_padded, size)
        own = order.chunk(size)[parallel_state.get_context_parallel_rank()]
        return replace(
            self,
            tokens=self.tokens[:, own],
            labels=self.labels[:, own],
            loss_mask=self.loss_mask[:, own],
            position_ids=self.position_ids[:, own],
        )


class PackedRow:
    """Where the tokens of packed sequences lie in the row of a micro-batch.

    A value of every token, such as an advantage, is brought to the row by the same means as the
    ids; values of the sequences come one after the other.
    """

    def __init__(
        self, sequences: Sequence[PackedSequence], length: int, context_parallel: int = 1
    ) -> None:
        """Lay out the sequences.

        Args:
            sequences: of the micro-batch.
            length: tokens and pads of each sequence, of :func:`padded_length`.
            context_parallel: ranks that conversations are cut over.

        Raises:
            ValueError: a sequence with its pads is longer than ``length``.
        """
        self._length = length
        self._context_parallel = context_parallel
        multiple = _conversation_multiple(context_parallel)
        lengths = []
        slots = []
        for number, sequence in enumerate(sequences):
            tokens = np.diff(sequence.cumulative_lengths)
            padded = -(-tokens // multiple) * multiple
            pads = length - int(padded.sum())
            if pads < 0:
                raise ValueError(
                    f"sequence {number} of the micro-batch has {length - pads:,} tokens with its "
                    f"pads, expected at most {length:,}"
                )
            lengths.append(tokens)
            slots.append(padded)
            if pads:
                # a conversation of their own
                slots.append(np.array([pads]))
                lengths.append(np.array([0]))
        self._lengths = np.concatenate(lengths)
        self._slots = np.concatenate(slots)
        starts = np.cumsum(self._slots) - self._slots
        firsts = np.cumsum(self._lengths) - self._lengths
        # of each token its place in the row
        shifts = np.repeat(starts - firsts, self._lengths)
        self._places = np.arange(len(shifts)) + shifts
        # of each conversation's last token, which has none after it
        self._last = (firsts + self._lengths - 1)[self._lengths > 0]

    def place(self, values: np.ndarray, pad: float | bool = 0) -> Tensor:
        """Return values of the tokens as a row: [1, tokens].

        Args:
            values: shape (tokens of all sequences,).
            pad: the pads' value.
        """
        row = np.full(self._slots.sum(), pad, dtype=values.dtype)
        row[self._places] = values
        return torch.from_numpy(row)[None]

    def place_next(self, values: np.ndarray, pad: float | bool = 0) -> Tensor:
        """Return the values of each token's next one in its conversation: [1, tokens].

        Where there is none, after a conversation's last token, it is ``pad``.
        """
        following = np.roll(values, -1)
        following[self._last] = pad
        return self.place(following, pad)

    def take(self, row: Tensor) -> Tensor:
        """Return what a row holds at the tokens: [1, tokens and pads, ...] to [tokens, ...]."""
        return row[0, torch.from_numpy(self._places)]

    def packed_seq_params(self) -> PackedSeqParams:
        """Return where the conversations lie, as TransformerEngine takes it.

        The pads at the end of a sequence are a conversation. Those after a conversation, which
        context parallelism needs, stand between its end and the next one's start.
        """
        padded = None
        bounds = _bounds(self._slots)
        if self._context_parallel > 1:
            padded = bounds
            bounds = _bounds(np.where(self._lengths > 0, self._lengths, self._slots))
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            cu_seqlens_q_padded=padded,
            cu_seqlens_kv_padded=padded,
            # the same in all batches, for which Megatron keeps the rotary embedding
            max_seqlen_q=self._length,
            max_seqlen_kv=self._length,
        )


def collate(
    sequences: Sequence[PackedSequence], length: int, context_parallel: int = 1
) -> PackedBatch:
    """Return a micro-batch of packed sequences, on the CPU and of all context-parallel ranks.

    Args:
        sequences: of the micro-batch.
        length: tokens and pads of each sequence, of :func:`padded_length`.
        context_parallel: ranks that conversations are cut over.

    Raises:
        ValueError: a sequence with its pads is longer than ``length``.
    """
    row = PackedRow(sequences, length, context_parallel)
    ids = np.concatenate([sequence.ids for sequence in sequences]).astype(np.int64)
    trained = np.concatenate([sequence.loss_mask for sequence in sequences])
    positions = np.concatenate([sequence.positions() for sequence in sequences])
    return PackedBatch(
        tokens=row.place(ids, _PAD),
        labels=row.place_next(ids, _PAD),
        loss_mask=row.place_next(trained, pad=False),
        position_ids=row.place(positions),
        packed_seq_params=row.packed_seq_params(),
    )


def padded_length(folder: PackedFolder, context_parallel: int = 1, tensor_parallel: int = 1) -> int:
    """Return the tokens and pads of a sequence that the folder's sequences all fit in.

    Args:
        context_parallel: ranks that conversations are cut over.
        tensor_parallel: ranks that the sequence is cut over: 1 without sequence parallelism.
    """
    multiple = _conversation_multiple(context_parallel)
    step = math.lcm(multiple, context_parallel * tensor_parallel)
    return math.ceil(folder.longest(multiple) / step) * step


def _conversation_multiple(context_parallel: int) -> int:
    """Return what the tokens of a conversation with its pads are a multiple of."""
    return 2 * context_parallel if context_parallel > 1 else 1


def _bounds(lengths: np.ndarray) -> Tensor:
    """Return where pieces begin, and the end, as TransformerEngine takes it."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
