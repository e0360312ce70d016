"""Conversations packed into a row have the logits that each has by itself, however the model is
split.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.runs.packed_folder import PackedSequence
from tests.helpers.bridge_folders import VOCAB_SIZE, write_granite
from tests.helpers.nemo_checkpoints import import_in_fork
from tests.helpers.parallel_models import Layout, load_split

pytestmark = pytest.mark.slow

# tokens of the conversations of two sequences
LENGTHS = ((7, 12, 1, 9), (20, 5))


def sequences(lengths: Sequence[Sequence[int]] = LENGTHS) -> list[PackedSequence]:
    """Return sequences of random tokens, half of which are trained."""
    draw = np.random.default_rng(3)
    made = []
    for of_one in lengths:
        ids = draw.integers(3, VOCAB_SIZE, sum(of_one), dtype=np.int32)
        trained = draw.random(len(ids)) < 0.5
        made.append(PackedSequence(ids, trained, np.cumsum([0, *of_one])))
    return made


def conversations(packed: Sequence[PackedSequence]) -> list[np.ndarray]:
    """Return the ids of every conversation."""
    found = []
    for sequence in packed:
        found += np.split(sequence.ids, sequence.cumulative_lengths[1:-1])
    return found


def _packed_logits(
    checkpoint: Path, packed: Sequence[PackedSequence], length: int, layout: Layout
) -> np.ndarray:
    """Return the logits of all tokens, [tokens, vocabulary], from two micro-batches of the packed
    sequences.
    """
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from recipes.alignment.packed_batch import PackedRow, collate
    from recipes.model.attention import context_parallel_order

    model = load_split(checkpoint, layout).eval()
    # the second one is the first in another order
    orders = [list(packed), list(packed)[::-1]]
    batches = [collate(order, length, layout.cp) for order in orders]

    def forward_step(batches, model):
        batch = next(batches).on_this_context_parallel_rank()
        logits = model(
            # as NeMo 1 does, a stage gets what it reads
            batch.tokens if parallel_state.is_pipeline_first_stage() else None,
            batch.position_ids if parallel_state.is_pipeline_first_stage() else None,
            None,
            packed_seq_params=batch.packed_seq_params,
            runtime_gather_output=True,
        )
        return logits, lambda logits, non_loss_data: logits

    with torch.no_grad():
        logits = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(batches),
            model=model,
            num_microbatches=len(batches),
            seq_length=len(packed) * length,
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )

    of_ranks: list = [None] * layout.world_size
    dist.all_gather_object(of_ranks, logits)
    # the context-parallel ranks of the last stage, in the order of the conversations
    of_ranks = [of_rank for of_rank in of_ranks if of_rank][:: layout.tp]
    found = []
    for number, batch in enumerate(batches):
        row = torch.cat([of_rank[number] for of_rank in of_ranks], dim=1)
        if layout.cp > 1:
            order = context_parallel_order(batch.packed_seq_params.cu_seqlens_q_padded, layout.cp)
            row = row[:, order.argsort()]
        found.append(PackedRow(orders[number], length, layout.cp).take(row).numpy())
    first, second = found
    lengths = [len(sequence.ids) for sequence in orders[1]]
    turned = np.concatenate(np.split(second, np.cumsum(lengths)[:-1])[::-1])
    np.testing.assert_allclose(turned, first, rtol=1e-5, atol=1e-5 * np.abs(first).max())
    return first


@pytest.fixture(scope="module")
def checkpoint(forked: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    write_granite(folder / "hf", num_hidden_layers=3)
    forked(import_in_fork, folder / "hf", folder / "nemo")
    return folder / "nemo"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The logits of each conversation by itself, by transformers: [tokens, vocabulary]."""
    model = write_granite(tmp_path_factory.mktemp("unpacked"), num_hidden_layers=3)
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(ids)[None].long()).logits[0]
            for ids in conversations(sequences())
        ]
    return torch.cat(logits).numpy()


@pytest.mark.parametrize(
    "layout",
    [Layout(), Layout(tp=2), Layout(pp=3), Layout(cp=2)],
    ids=["one process", "tensor and sequence", "pipeline with a middle stage", "context"],
)
def test_packed_conversations_have_the_logits_of_each_alone(
    layout: Layout, checkpoint: Path, unpacked: np.ndarray, forked: Callable
) -> None:
    found = forked(
        _packed_logits, checkpoint, sequences(), 48, layout, world_size=layout.world_size
    )
    assert found.shape == unpacked.shape
    assert np.abs(found - unpacked).max() <= 1e-5 * np.abs(unpacked).max()


def _with_another(checkpoint: Path) -> list[np.ndarray]:
    """Return the logits of two sequences, and those with another conversation of another length in
    the second one's place.
    """
    from recipes.alignment.packed_batch import PackedRow, collate

    model = load_split(checkpoint, Layout()).eval()
    found = []
    for second in (12, 3):
        packed = sequences([[7, second, 1, 9], [20, 5]])
        # what is around it stays as it was
        before = sequences()
        start, end = packed[0].cumulative_lengths[1:3]
        packed[0].ids[:start] = before[0].ids[:7]
        packed[0].ids[end:] = before[0].ids[19:]
        packed[0].ids[start:end] = second
        packed[1].ids[:] = before[1].ids
        batch = collate(packed, 32)
        with torch.no_grad():
            logits = model(
                batch.tokens,
                batch.position_ids,
                None,
                packed_seq_params=batch.packed_seq_params,
            )
        logits = PackedRow(packed, 32).take(logits)
        found.append(torch.cat([logits[:start], logits[end:]]).numpy())
    return found


def test_another_conversation_changes_no_bit_of_the_others(
    checkpoint: Path, forked: Callable
) -> None:
    before, after = forked(_with_another, checkpoint)
    assert before.shape == after.shape
    assert (before == after).all()
