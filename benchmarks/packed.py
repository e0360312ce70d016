"""Packed conversations against padded ones, through the model of size tiny on the CPU.

    python benchmarks/packed.py [--rounds 20]

Method: lengths of conversations are drawn as in ``benchmarks/conversations.py`` and divided by 16,
as tiny's sequences are. The same conversations go forward and backward through the model that
``granite41 run`` trains, in micro-batches of 8 rows: packed by best fit into sequences of 1,024
tokens; one a row, padded to the longest of the micro-batch; and one a row, padded to the sequence.
Half of the tokens are trained. The three take turns, a micro-batch each, ``--rounds`` times after
one that warms up; a rate is all trained tokens over all seconds, the ratio is packed over that
form's.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from cli import report
from conversations import draw_lengths

from data_prep.conversations.best_fit import best_fit
from recipes.registry.resolve import resolve
from recipes.runs.packed_folder import PackedSequence
from recipes.spec import tiny

ROWS = 8
PACKED = "packed"
LONGEST = "padded to the longest of the rows"
WHOLE = "padded to the sequence"


def conversation(length: int, vocab_size: int, draw: np.random.Generator) -> PackedSequence:
    """Return a conversation of random tokens as a sequence of its own, half of it trained."""
    ids = draw.integers(0, vocab_size, length, dtype=np.int32)
    return PackedSequence(ids, np.arange(length) >= length / 2, np.array([0, length]))


def join(conversations: Sequence[PackedSequence]) -> PackedSequence:
    """Return conversations as one sequence."""
    lengths = [len(one.ids) for one in conversations]
    return PackedSequence(
        ids=np.concatenate([one.ids for one in conversations]),
        loss_mask=np.concatenate([one.loss_mask for one in conversations]),
        cumulative_lengths=np.cumsum([0, *lengths]),
    )


def micro_batches(
    sequences: Sequence[PackedSequence], length: int | None, is_packed: bool
) -> Iterator[dict[str, Any]]:
    """Yield the model's arguments and the mask of each micro-batch, again and again.

    Args:
        sequences: in their order.
        length: of a row; that of the longest in it if None.
        is_packed: whether the model is told of the conversations of a row.
    """
    from recipes.alignment.packed_batch import collate

    while True:
        for first in range(0, len(sequences) - ROWS + 1, ROWS):
            rows = sequences[first : first + ROWS]
            row_length = length or max(len(row.ids) for row in rows)
            batch = collate(rows, row_length)
            tensors = {
                "input_ids": batch.tokens,
                "position_ids": batch.position_ids,
                "labels": batch.labels,
                "loss_mask": batch.loss_mask,
            }
            if is_packed:
                packed = {"packed_seq_params": batch.packed_seq_params}
            else:
                # a conversation with its pads is a row, for which the model is causal
                packed = {}
                tensors = {name: value.view(ROWS, -1) for name, value in tensors.items()}
            yield {"attention_mask": None, **tensors, **packed}


def build_model() -> Any:
    """Return the model of size tiny, in one process."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    from recipes.model.nemo import GraniteConfig

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    recipe = resolve("sft", "tiny")
    return GraniteConfig(
        **GraniteConfig.transformer_settings(recipe.model),
        seq_length=recipe.sequence_length.value,
        rotary_base=recipe.rope_theta.value,
    ).configure_model()


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()

    recipe = resolve("sft", "tiny")
    length = recipe.sequence_length.value
    draw = np.random.default_rng(7)
    lengths = np.maximum(draw_lengths(4000) // tiny.SEQUENCE_FACTOR.value, 4)
    conversations = [
        conversation(tokens, recipe.model.vocab_size.value, draw) for tokens in lengths.tolist()
    ]
    sequences = []
    for numbers in best_fit(lengths, length):
        sequences.append(join([conversations[number] for number in numbers]))
    # best fit sorts by length, training does not
    draw.shuffle(sequences)

    import torch

    model = build_model()
    # processor time of several counts their waiting
    torch.set_num_threads(1)
    forms = {
        PACKED: micro_batches(sequences, length, is_packed=True),
        LONGEST: micro_batches(conversations, None, is_packed=False),
        WHOLE: micro_batches(conversations, length, is_packed=False),
    }
    seconds = Counter[str]()
    trained = Counter[str]()
    for round_number in range(1 + options.rounds):
        for name, batches in forms.items():
            start = time.process_time()
            arguments = next(batches)
            loss_mask = arguments.pop("loss_mask")
            (model(**arguments) * loss_mask).sum().backward()
            if round_number:
                seconds[name] += time.process_time() - start
                trained[name] += int(loss_mask.sum())
            model.zero_grad()

    rows = []
    rates = {name: trained[name] / seconds[name] for name in forms}
    for name, rate in rates.items():
        per_batch = 1000 * seconds[name] / options.rounds
        ratio = f"{rates[PACKED] / rate:.2f}"
        rows.append([name, f"{rate:,.0f}", f"{per_batch:,.1f}", ratio])
    columns = ["8 rows", "trained tokens a second", "ms a micro-batch", "packed is faster by"]
    report(columns, rows, "one torch thread", f"{options.rounds} rounds")


if __name__ == "__main__":
    main()
