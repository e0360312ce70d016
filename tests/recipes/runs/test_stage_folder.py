"""A stage's folder: its manifest and recipe are read back, also those of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common.errors import UserError
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.stage_folder import (
    MERGED,
    check_recipe,
    final_checkpoint,
    finished_manifest,
    resolve_recorded,
    write_recipe,
)
from recipes.runs.stage_manifest import (
    InitialCheckpoint,
    ShardProgress,
    StageManifest,
    TrainingShard,
    read_manifest,
    write_manifest,
)
from recipes.spec.tree import flatten
from tests.helpers.manifests import stage_manifest, write_stage_manifest

SHARD = {"prefix": "text", "next_document": 3, "epochs": 0.5}

# as versions before the keys of today wrote it
FORMER = {
    "stage": "phase2",
    "size": "tiny",
    "status": "finished",
    "parent": "phase1",
    "start": {"checkpoint": "run/phase1/checkpoints/step=9", "optimizer_state": "carry"},
    "tokens_before": 100,
    "tokens": 200,
    "tokenizer_fingerprint": "f" * 64,
    "data": {"text": {"weight": 1.0, "component": "text", "bin_sha256": "b", "idx_sha256": "i"}},
    "ledger_before": {"b": SHARD},
    "starts": 2,
    "seconds": 1.5,
    "checkpoint": "checkpoints/step=00000019",
    "validation_loss": 5.5,
    "unigram_entropy": None,
    "ledger": {"b": SHARD | {"next_document": 7}},
    "read_again": {"text": 1.5},
}


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    manifest = stage_manifest(
        status="failed",
        data={"text": TrainingShard(0.25, "text", "b", "i")},
        data_progress_before={"b": ShardProgress("text", 3, 0.5)},
        repeated_components={"text": 2.5},
        error="out of memory",
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_the_folder_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(FORMER))
    recipe = resolve_pretraining("phase2", "tiny")
    values = {
        name: {"value": list(leaf.value) if isinstance(leaf.value, tuple) else leaf.value}
        for name, leaf in flatten(recipe).items()
    }
    content = {"stage": "phase2", "size": "tiny", "code": None, "values": values}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))

    assert read_manifest(tmp_path) == StageManifest(
        stage="phase2",
        size="tiny",
        status="finished",
        parent="phase1",
        tokens=200,
        tokens_before=100,
        tokenizer_fingerprint="f" * 64,
        initial_state=InitialCheckpoint("run/phase1/checkpoints/step=9", "carry"),
        data={"text": TrainingShard(1.0, "text", "b", "i")},
        data_progress_before={"b": ShardProgress("text", 3, 0.5)},
        data_progress={"b": ShardProgress("text", 7, 0.5)},
        repeated_components={"text": 1.5},
        num_starts=2,
        seconds=1.5,
        checkpoint="checkpoints/step=00000019",
        validation_loss=5.5,
    )
    check_recipe(tmp_path, recipe)
    assert final_checkpoint(tmp_path) == tmp_path / "checkpoints/step=00000019"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "key 'status' holds 'done' (str)"),
        ({"tokens": "many"}, "key 'tokens' holds 'many' (str)"),
        ({"tokens": None}, "key 'tokens' holds None (NoneType)"),
        ({"data": {"text": {"weight": 1.0}}}, "has no key 'data"),
        ({"start": {"checkpoint": 5}}, "key 'initial_state.checkpoint' holds 5 (int)"),
        ({"ledger": {"b": {"prefix": "text"}}}, "has no key 'data_progress"),
        ({"checkpoint": None}, "the stage is finished but names no checkpoint"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(FORMER | changes))
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/manifest.json: {message}")
    assert str(caught.value).endswith(
        "; remove it to run the stage again, or name another --run-dir"
    )


@pytest.mark.parametrize("key", ["stage", "status", "tokens", "tokenizer_fingerprint", "data"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    left = {name: value for name, value in FORMER.items() if name != key}
    (tmp_path / "manifest.json").write_text(json.dumps(left))
    with pytest.raises(UserError, match=f"manifest.json: has no key '{key}'; remove it"):
        read_manifest(tmp_path)


def test_a_stage_ends_with_its_merge_or_its_last_checkpoint(tmp_path: Path) -> None:
    assert final_checkpoint(tmp_path) is None
    write_stage_manifest(tmp_path, checkpoint="checkpoints/last")
    assert final_checkpoint(tmp_path) == tmp_path / "checkpoints/last"
    (tmp_path / MERGED).mkdir()
    assert final_checkpoint(tmp_path) == tmp_path / MERGED


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_stage_that_has_not_finished_is_refused(tmp_path: Path, status: str) -> None:
    write_stage_manifest(tmp_path, status=status, checkpoint=None)
    message = f"{tmp_path}: the stage is {status}, not finished; `granite41 run` continues it"
    with pytest.raises(UserError, match=message):
        finished_manifest(tmp_path)


def test_a_recipe_may_change_its_parallelism_and_nothing_else(tmp_path: Path) -> None:
    write_recipe(tmp_path, resolve_pretraining("phase1", "8b"))
    other_split = ["parallelism.tensor_model_parallel_size=8"]
    write_recipe(tmp_path, resolve_pretraining("phase1", "8b", other_split))
    message = "recipe.yaml: seed was 1234 when this run began and is 1 now; run with the former"
    with pytest.raises(UserError, match=message):
        write_recipe(tmp_path, resolve_pretraining("phase1", "8b", ["seed=1"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"values: {", "is not valid YAML (while parsing"),
        (b"\xff\xfe\xfd", "is not UTF-8 text (byte 0)"),
        (b"", "has no mapping 'values'"),
        (b"stage: phase1", "has no mapping 'values'"),
        (b"values: 3", "has no mapping 'values'"),
        (b"- values", "has no mapping 'values'"),
        (b"values: {seed: 1234}", "key 'values.seed' has no 'value'"),
        (b"values: {seed: {origin: assumed}}", "key 'values.seed' has no 'value'"),
    ],
)
def test_a_damaged_recipe_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        check_recipe(tmp_path, resolve_pretraining("phase1", "tiny"))
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_value_and_a_missing_recipe(tmp_path: Path) -> None:
    recipe = resolve_pretraining("phase1", "tiny")
    with pytest.raises(UserError, match=r"recipe\.yaml: cannot be read \(No such file"):
        check_recipe(tmp_path, recipe)
    (tmp_path / "recipe.yaml").write_text("values: {}")
    with pytest.raises(UserError, match=r"recipe\.yaml: .* was absent when this run began"):
        check_recipe(tmp_path, recipe)


def test_a_recorded_recipe_has_the_values_of_its_run(tmp_path: Path) -> None:
    overrides = ["schedule.a=2.0", "mixture.code=10", "mixture.math=17"]
    recipe = resolve_pretraining("phase1", "tiny", overrides)
    write_recipe(tmp_path / "phase1", recipe)
    recorded = resolve_recorded(tmp_path / "phase1")
    assert recorded.schedule.lr(10**6) == recipe.schedule.lr(10**6)
    assert recorded.mixture["code"].value == 10

    path = tmp_path / "phase1/recipe.yaml"
    path.write_text(path.read_text().replace("schedule.a:", "schedule.A:"))
    with pytest.raises(UserError, match=r"recipe.yaml: is damaged \(KeyError: 'schedule.a'\)"):
        resolve_recorded(tmp_path / "phase1")
