"""The loss of fine-tuning and its gradient: transformers' on each conversation by itself, however
the batch is packed and split.
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recipes.runs.packed_folder import PackedFolder, PackedSequence
from tests.helpers.sft_runs import SETTINGS

pytestmark = pytest.mark.slow

BATCH = 4
PARALLEL = "parallelism.{}_parallel_size=2"
# name -> overrides, and processes
SPLITS = {
    "micro-batch 2": (["parallelism.micro_batch_size=2"], 1),
    "micro-batch 4": (["parallelism.micro_batch_size=4"], 1),
    "data 2": ([], 2),
    "tensor 2": ([PARALLEL.format("tensor_model"), "parallelism.sequence_parallel=true"], 2),
    "pipeline 2": ([PARALLEL.format("pipeline_model")], 2),
    "context 2": ([PARALLEL.format("context")], 2),
}


def _conversations(sequence: PackedSequence) -> list[PackedSequence]:
    """Return a sequence's conversations as sequences of their own."""
    bounds = sequence.cumulative_lengths
    result = []
    for start, end in pairwise(bounds):
        result.append(
            PackedSequence(
                sequence.ids[start:end],
                sequence.loss_mask[start:end],
                np.array([0, end - start]),
            )
        )
    return result


def _sequences(packed: Path, is_unpacked: bool = False) -> list[PackedSequence]:
    """Return a global batch; if unpacked, of a conversation a sequence."""
    folder = PackedFolder(packed)
    sequences = [folder[number] for number in range(BATCH)]
    if not is_unpacked:
        return sequences
    conversations = [one for sequence in sequences for one in _conversations(sequence)]
    empty = PackedSequence(np.empty(0, np.int32), np.empty(0, bool), np.zeros(1, np.int64))
    # as many as whole micro-batches of 2 need
    return conversations + [empty] * (len(conversations) % 2)


def _gradient(
    base: Path, packed: Path, overrides: list[str], output: Path, is_unpacked: bool = False
) -> float:
    """Write the gradient of a global batch in place of the weights; return the loss."""
    from megatron.core import parallel_state
    from nemo.lightning.io.pl import MegatronCheckpointIO

    from recipes.alignment.checkpoint import load_weights
    from recipes.alignment.model import GraniteSFTModel, build_model
    from recipes.alignment.optimizer import make_trainable
    from recipes.alignment.packed_batch import padded_length
    from recipes.alignment.processes import process_groups
    from recipes.alignment.sequence_order import part
    from recipes.alignment.sft_data import micro_batches
    from recipes.registry.resolve import resolve_sft

    one = "parallelism.micro_batch_size=1"
    recipe = resolve_sft("sft", "tiny", [*SETTINGS, one, *overrides])
    sequences = _sequences(packed, is_unpacked)
    cp = recipe.parallelism.context_parallel_size.value
    with process_groups(recipe.parallelism):
        model = build_model(GraniteSFTModel, recipe, BATCH)
        load_weights(model, base)
        make_trainable(model, recipe, recipe.schedule, 1)
        rank = parallel_state.get_data_parallel_rank()
        ranks = parallel_state.get_data_parallel_world_size()
        own = part(list(range(len(sequences))), rank, ranks)
        batch = micro_batches(
            [sequences[number] for number in own],
            recipe.parallelism.micro_batch_size.value,
            padded_length(PackedFolder(packed), cp),
            cp,
        )
        model.prepare_for_training_step()
        loss, _ = model.get_loss_and_metrics(batch, forward_only=False)
        model.finish_training_step()
        for parameter in model.core.parameters():
            parameter.data.copy_(parameter.main_grad)
        state = {"sharded_state_dict": model.core.sharded_state_dict(prefix="module.")}
        MegatronCheckpointIO().save_checkpoint(state, output)
    return loss


def _read(checkpoint: Path, hf_base: Path) -> dict[str, np.ndarray]:
    """Return the gradient by transformers' names."""
    from recipes.model.bridge.mapping import weights
    from recipes.model.bridge.torch_dist import TorchDistCheckpoint
    from recipes.model_folder.weights import open_granite

    stored = TorchDistCheckpoint(checkpoint / "weights")
    found = {}
    for weight in weights(open_granite(hf_base).config):
        parts = weight.split(stored.read(weight))
        for name, tensor in zip(weight.parts, parts, strict=True):
            found[name] = tensor.clone().numpy()
    return found


def _oracle(hf_base: Path, packed: Path) -> tuple[float, dict[str, np.ndarray]]:
    """Return loss and gradient by transformers, one conversation at a time."""
    import torch
    from transformers import GraniteForCausalLM

    model = GraniteForCausalLM.from_pretrained(hf_base).float()
    total = 0.0
    trained = 0
    for sequence in _sequences(packed):
        for conversation in _conversations(sequence):
            ids = torch.from_numpy(np.array(conversation.ids)).long()
            mask = torch.from_numpy(np.array(conversation.loss_mask))[1:]
            logits = model(ids[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits[mask], ids[1:][mask], reduction="sum")
            loss.backward()
            total += loss.item()
            trained += int(mask.sum())
    gradient = {
        name: (parameter.grad / trained).numpy() for name, parameter in model.named_parameters()
    }
    return total / trained, gradient


def _difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the norm of the difference of two gradients over that of one."""
    assert found.keys() == expected.keys()
    difference = sum(float(((found[name] - expected[name]) ** 2).sum()) for name in found)
    size = sum(float((expected[name] ** 2).sum()) for name in found)
    return (difference / size) ** 0.5


@pytest.fixture(scope="module")
def gradient(nemo_base, packed, forked, tmp_path_factory) -> tuple[float, Path]:
    """Loss and gradient of a batch, one sequence at a time."""
    output = tmp_path_factory.mktemp("gradient") / "one"
    return forked(_gradient, nemo_base, packed, [], output), output


def test_transformers_has_the_same_loss_and_gradient(gradient, hf_base, packed) -> None:
    loss, folder = gradient
    expected_loss, expected = _oracle(hf_base, packed)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert _difference(_read(folder, hf_base), expected) < 1e-5


@pytest.mark.parametrize("split", SPLITS)
def test_the_split_of_a_batch_changes_nothing(
    split, gradient, nemo_base, hf_base, packed, forked, tmp_path
) -> None:
    overrides, processes = SPLITS[split]
    loss, folder = gradient
    found = forked(
        _gradient, nemo_base, packed, overrides, tmp_path / "other", world_size=processes
    )
    assert found == pytest.approx(loss, rel=1e-6)
    difference = _difference(_read(tmp_path / "other", hf_base), _read(folder, hf_base))
    assert difference < 1e-6


def test_the_packing_changes_nothing(
    gradient, nemo_base, hf_base, packed, forked, tmp_path
) -> None:
    loss, folder = gradient
    unpacked = partial(_gradient, is_unpacked=True)
    overrides = ["parallelism.micro_batch_size=2", "global_batch_size=40"]
    found = forked(unpacked, nemo_base, packed, overrides, tmp_path / "unpacked")
    assert found == pytest.approx(loss, rel=1e-6)
    difference = _difference(_read(tmp_path / "unpacked", hf_base), _read(folder, hf_base))
    assert difference < 1e-6
