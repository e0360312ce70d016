"""Supervised fine-tuning as a command: its checkpoints, its records, what it refuses, resuming."""

import json
from pathlib import Path

import pytest

from recipes.runs.packed_folder import PackedFolder
from recipes.runs.stage_manifest import read_manifest
from tests.helpers.resuming import run
from tests.helpers.sft_runs import SEQUENCES, STEPS, command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(nemo_base, packed, tmp_path_factory) -> Path:
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
    assert names == ["step=00000004", "step=00000008"]
