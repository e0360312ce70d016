"""An experiment tracker records a stage's recipe, parent and files, and never a secret."""

import hashlib
import importlib.util
import json
import os
from functools import partial
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.stage_folder import write_recipe
from recipes.runs.stage_manifest import InitialCheckpoint, read_manifest
from recipes.training import trackers
from tests.helpers.manifests import stage_manifest, write_stage_manifest
from tests.helpers.resuming import command, run

pytestmark = pytest.mark.slow

SECRET = "5ecre7" * 7


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(UserError, match=r"--log wandbs: not one of wandb, mlflow \(did you mean"):
        trackers.check_tracker("wandbs")


@pytest.mark.parametrize(("tracker", "package"), trackers.TRACKERS.items())
def test_a_tracker_that_is_not_installed_is_named(monkeypatch, tracker, package) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = f"--log {tracker}: the package is not installed; run `pip install {package}`"
    with pytest.raises(UserError, match=expected):
        trackers.check_tracker(tracker)
    # on a cluster its container counts
    trackers.check_tracker(tracker, is_used_here=False)


@pytest.mark.parametrize("place", ["merged", "checkpoints/step=00000009"])
def test_the_lineage_has_recipe_parent_and_files(tmp_path, monkeypatch, place) -> None:
    monkeypatch.setenv("GRANITE41_COMMIT", "abc123")
    parent, folder = tmp_path / "phase1", tmp_path / "phase2"
    write_recipe(parent, resolve_pretraining("phase1", "tiny"))
    write_stage_manifest(parent)
    write_recipe(folder, resolve_pretraining("phase2", "tiny"))
    initial = InitialCheckpoint(str(parent / place), "carry")
    manifest = stage_manifest(stage="phase2", initial_state=initial)

    lineage = trackers.lineage(folder, manifest)
    assert lineage["stage"] == "phase2"
    assert lineage["recipe/global_batch_size"] == 32
    assert lineage["artifacts/recipe"] == str(folder / "recipe.yaml")
    assert lineage["artifacts/manifest"] == str(folder / "manifest.json")
    content = (parent / "manifest.json").read_bytes()
    assert {key: value for key, value in lineage.items() if key.startswith("parent/")} == {
        "parent/checkpoint": str(parent / place),
        "parent/optimizer_state": "carry",
        "parent/stage": "phase1",
        "parent/manifest": str(parent / "manifest.json"),
        "parent/manifest_sha256": hashlib.sha256(content).hexdigest(),
        "parent/code": "abc123",
    }


def test_random_weights_have_no_parent(tmp_path) -> None:
    write_recipe(tmp_path, resolve_pretraining("phase1", "tiny"))
    lineage = trackers.lineage(tmp_path, stage_manifest())
    assert lineage["parent/checkpoint"] == "random weights"
    assert "parent/manifest" not in lineage


def _set(**environment: str) -> None:
    os.environ.update(environment)


def _train(run_folder: Path, data: Path, tracker: str, **environment: str) -> Path:
    """Train a stage of two steps with a tracker, and return its folder."""
    words = [*command(run_folder, data, "tokens=512"), "--log", tracker]
    ended = run(words, partial(_set, **environment))
    assert ended.codes == [0], ended.errors
    for path in run_folder.parent.rglob("*"):
        assert not (path.is_file() and SECRET.encode() in path.read_bytes()), path
    return run_folder / "phase1"


def test_wandb_offline(data, tmp_path) -> None:
    environment = {"WANDB_MODE": "offline", "WANDB_API_KEY": SECRET}
    folder = _train(tmp_path / "run", data, "wandb", **environment)
    run_id = json.loads((folder / trackers.RUN_IDS).read_text())["wandb"]
    (record,) = (folder / "metrics/wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    content = record.read_bytes()
    recorded = (
        "recipe/global_batch_size",
        "parent/checkpoint",
        "random weights",
        "artifacts/checkpoint",
        str(folder / read_manifest(folder).checkpoint),
        "reduced_train_loss",
    )
    for value in recorded:
        assert value.encode() in content, value


def test_mlflow_in_a_folder(data, tmp_path) -> None:
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: it wants an older importlib_metadata than the pins")
    store = tmp_path / "store"
    environment = {"MLFLOW_TRACKING_URI": store.as_uri(), "MLFLOW_TRACKING_PASSWORD": SECRET}
    folder = _train(tmp_path / "run", data, "mlflow", **environment)
    run_id = json.loads((folder / trackers.RUN_IDS).read_text())["mlflow"]
    (stored,) = store.glob(f"*/{run_id}")
    params = {
        str(path.relative_to(stored / "params")): path.read_text()
        for path in (stored / "params").rglob("*")
        if path.is_file()
    }
    assert params["recipe/global_batch_size"] == "4"
    assert params["parent/checkpoint"] == "random weights"
    assert params["artifacts/checkpoint"] == str(folder / read_manifest(folder).checkpoint)
    assert (stored / "metrics" / "reduced_train_loss").is_file()


def test_a_tracker_that_starts_no_run_is_one_sentence(data, tmp_path) -> None:
    words = [*command(tmp_path / "run", data), "--log", "wandb"]
    ended = run(words, partial(_set, WANDB_MODE="online", WANDB_API_KEY="short"))
    assert ended.codes == [2]
    assert "--log wandb: no run could be started" in ended.errors.splitlines()[-1]
    assert "Traceback" not in ended.errors
