"""Supervised fine-tuning as a command: its checkpoints, its records, what it refuses, resuming."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from recipes.common.tokenizer_files import TokenizerFolder
from recipes.model.bridge.to_hf import export_hf, read_context
from recipes.runs.packed_folder import PackedFolder
from recipes.runs.stage_folder import latest_checkpoint
from recipes.runs.stage_manifest import read_manifest
from tests.helpers.nemo_checkpoints import logits_of_checkpoint
from tests.helpers.resuming import fill, in_write, run
from tests.helpers.sft_runs import SEQUENCES, STEPS, command, write_packed

pytestmark = pytest.mark.slow


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        status = path.stat()
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def files_before(nemo_base) -> dict[str, tuple[int, int]]:
    """The files of the base checkpoint before anything started from it."""
    return _files(nemo_base)


@pytest.fixture(scope="module")
def whole(files_before, nemo_base, packed, tmp_path_factory) -> Path:
    """The stage, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = run(command(folder, packed, nemo_base))
    assert ended.codes == [0], ended.errors
    return folder


def _lines(run_folder: Path) -> list[dict]:
    path = run_folder / "sft/metrics/steps.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_second", None)
    return lines


def test_a_stage_and_its_records(whole, packed) -> None:
    manifest = read_manifest(whole / "sft")
    assert manifest is not None and manifest.is_finished
    folder = PackedFolder(packed)
    assert manifest.packed is not None
    assert manifest.packed.fingerprint == folder.fingerprint
    trained = manifest.packed.sequences - manifest.packed.held_out
    assert manifest.packed.epochs == STEPS * SEQUENCES / trained
    lines = _lines(whole)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert manifest.validation_loss == lines[-1]["val_loss"]
    names = sorted(path.name for path in (whole / "sft/checkpoints").iterdir())
    assert names == ["step=00000004", "step=00000006", "step=00000008"]


def _state(run_folder: Path) -> dict:
    """Every tensor of the last checkpoint: weights and Adam's moments."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader, load

    checkpoint = latest_checkpoint(run_folder / "sft")
    assert checkpoint is not None
    reader = FileSystemReader(checkpoint / "weights")
    found = reader.read_metadata().state_dict_metadata
    tensors = {}
    for key, entry in found.items():
        if getattr(entry, "size", ()):
            tensors[key] = torch.empty(tuple(entry.size))
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _assert_same(run_folder: Path, whole: Path) -> None:
    import torch

    assert _lines(run_folder) == _lines(whole)
    found = _state(run_folder)
    expected = _state(whole)
    assert found.keys() == expected.keys()
    assert any(key.startswith("optimizer.") for key in expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def _in_step(step: int, signum: int) -> None:
    """Send a signal to this process at the start of a step."""
    from recipes.alignment.sft_trainer import StageTrainer

    train = StageTrainer.train_single_step

    def training(self: StageTrainer, batch: Any) -> Any:
        if self.step + 1 == step:
            os.kill(os.getpid(), signum)
        return train(self, batch)

    mock.patch.object(StageTrainer, "train_single_step", training).start()


def test_a_signal_stops_after_the_step_and_the_same_command_continues(
    whole, packed, nemo_base, tmp_path
) -> None:
    words = command(tmp_path / "run", packed, nemo_base)
    ended = run(words, partial(_in_step, 3, signal.SIGTERM))
    assert ended.codes == [128 + signal.SIGTERM], ended.errors
    assert "stopped after step 3 by SIGTERM, checkpoint saved" in ended.errors
    manifest = read_manifest(tmp_path / "run/sft")
    assert manifest is not None and manifest.status == "stopped"
    ended = run(words)
    assert ended.codes == [0], ended.errors
    assert "sft: continues after step 3" in ended.errors
    _assert_same(tmp_path / "run", whole)

    # the checkpoint that it has continued from is removed, and its tokenizer with it
    checkpoint = latest_checkpoint(tmp_path / "run/sft")
    assert checkpoint is not None
    assert not (checkpoint.parent / "step=00000003").exists()
    _, tokenizer = read_context(checkpoint / "context")
    assert (
        TokenizerFolder(tokenizer).fingerprint
        == PackedFolder(packed).manifest.tokenizer.fingerprint
    )


def test_a_full_disk_and_a_kill_leave_no_trace(whole, packed, nemo_base, tmp_path) -> None:
    words = command(tmp_path / "run", packed, nemo_base)
    # that of resuming is one step behind
    ended = run(words, partial(in_write, STEPS + 1, fill))
    assert ended.codes == [2], ended.errors
    assert "no space left on the device, the last whole checkpoint is step=00000006" in ended.errors
    names = sorted(path.name for path in (tmp_path / "run/sft/checkpoints").iterdir())
    assert names[-1] == "step=00000006"
    ended = run(words, partial(_in_step, 7, signal.SIGKILL))
    assert ended.codes == [-signal.SIGKILL]
    # as a kill within the write of a checkpoint leaves it
    torn = tmp_path / "run/sft/checkpoints/step=00000008"
    torn.mkdir()
    torn.with_name(f"{torn.name}-unfinished").touch()
    ended = run(words)
    assert ended.codes == [0], ended.errors
    assert "sft: continues after step 6" in ended.errors
    _assert_same(tmp_path / "run", whole)


def test_a_kill_after_the_last_checkpoint(whole, packed, nemo_base, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    _go_back(folder / "sft", STEPS)
    ended = run(command(folder, packed, nemo_base))
    assert ended.codes == [0], ended.errors
    _assert_same(folder, whole)
    manifest = read_manifest(folder / "sft")
    assert manifest is not None and manifest.validation_loss == _lines(whole)[-1]["val_loss"]


SPLITS = {
    "data": [],
    "tensor": ["parallelism.tensor_model_parallel_size=2"],
    "pipeline": ["parallelism.pipeline_model_parallel_size=2"],
}


@pytest.mark.parametrize("split", SPLITS)
def test_two_ranks_continue_what_one_has_begun(split, whole, packed, nemo_base, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    _go_back(folder / "sft", 4)
    ended = run(command(folder, packed, nemo_base, *SPLITS[split]), world_size=2)
    assert ended.codes == [0, 0], ended.errors
    for line, expected in zip(_lines(folder), _lines(whole), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


def _go_back(stage: Path, step: int) -> None:
    """Leave a stage as a kill after a checkpoint does."""
    for checkpoint in (stage / "checkpoints").iterdir():
        if checkpoint.name > f"step={step:08d}":
            shutil.rmtree(checkpoint)
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest |= {"status": "running", "checkpoint": None, "validation_loss": None}
    (stage / "manifest.json").write_text(json.dumps(manifest))


def test_the_base_checkpoint_is_not_written_to(whole, files_before, nemo_base) -> None:
    assert _files(nemo_base) == files_before


def test_the_export_has_the_logits_of_the_checkpoint(whole, tmp_path, forked) -> None:
    import torch
    from transformers import AutoTokenizer, GraniteForCausalLM

    checkpoint = latest_checkpoint(whole / "sft")
    assert checkpoint is not None
    export_hf(checkpoint, tmp_path / "hf")
    model = GraniteForCausalLM.from_pretrained(tmp_path / "hf")
    # shorter sequences do not make the model's own length shorter
    assert model.config.max_position_embeddings == 512
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template

    ids = np.random.default_rng(0).integers(0, 260, (2, 40))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    found = forked(logits_of_checkpoint, checkpoint, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def _other_tokenizer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "1" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _other_template(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["template_sha256"] = "1" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _cut_short(folder: Path) -> None:
    np.save(folder / "ids.npy", np.load(folder / "ids.npy")[:-1])


REFUSED = {
    "another tokenizer": (_other_tokenizer, [], "packed with tokenizer 111111111111 but"),
    "another template": (_other_template, [], "packed with another chat template than"),
    "damaged": (_cut_short, [], "ids.npy: holds int32 of shape"),
    "too long": (None, ["sequence_length=64"], "sequences of 128 tokens, but sft reads 64"),
    "too few": (None, ["global_batch_size=64"], "are fewer than a batch of 64"),
    "another size": (None, ["model.num_layers=3"], "expected (3, 64, 192) for tiny"),
    "another model": (
        None,
        ["model.logits_scaling=0.5"],
        "has logits_scaling 0.25, expected 0.5 for tiny; name a checkpoint of that size, or set",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, packed, nemo_base, tmp_path) -> None:
    change, overrides, sentence = REFUSED[case]
    folder = tmp_path / "packed"
    shutil.copytree(packed, folder)
    if change:
        change(folder)
    ended = run(command(tmp_path / "run", folder, nemo_base, *overrides))
    assert ended.codes == [2]
    assert sentence in ended.errors and ended.errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_other_conversations_than_a_stage_began_on(
    whole, hf_base, nemo_base, packed, tmp_path
) -> None:
    other = write_packed(tmp_path / "packed", hf_base, seed=2)
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    ended = run(command(folder, other, nemo_base))
    assert ended.codes == [2]
    assert "sft: began on other conversations than" in ended.errors
