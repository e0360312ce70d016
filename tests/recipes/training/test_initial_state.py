"""From stage to stage: weights, moments, learning rate, data and token counts, and what is refused
on the way.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TokenizerFolder, fingerprint_ids
from recipes.model.bridge.mapping import weights
from recipes.model.bridge.to_hf import read_context
from recipes.model.bridge.torch_dist import TorchDistCheckpoint
from recipes.registry.resolve import resolve_pretraining
from recipes.training.initial_state import initial_state
from recipes.training.run import prepare
from tests.helpers.tokenizer_folders import change
from tests.helpers.training import train

pytestmark = pytest.mark.slow

SMALL = ["split=900,100,0", "tokens_per_batch=4096", "validation_batches=1"]
STEPS = 3
TOKENS = f"tokens={STEPS * 4096}"
UNUSED = {"prefix": "books", "next_document": 3, "epochs": 1.5}
STILL = "schedule.lr_max=1e-40"  # so small that no weight moves


def _moments(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Adam's second moments, by parameter."""
    from torch.distributed.checkpoint import FileSystemReader, load

    reader = FileSystemReader(checkpoint / "weights")
    found = reader.read_metadata().state_dict_metadata
    state = {
        key: torch.empty(tuple(tensor.size))
        for key, tensor in found.items()
        if "exp_avg_sq" in key and tensor.size
    }
    load(state, storage_reader=reader, no_dist=True)
    return state


def _final(run_folder: Path, stage: str) -> Path:
    manifest = json.loads((run_folder / stage / "manifest.json").read_text())
    return run_folder / stage / manifest["checkpoint"]


def _weights(checkpoint: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    config, _ = read_context(checkpoint / "context")
    opened = TorchDistCheckpoint(checkpoint / "weights")
    return {(weight.key, weight.layer): opened.read(weight).clone() for weight in weights(config)}


@pytest.fixture(scope="module")
def chain(forked, data, tmp_path_factory) -> Path:
    """Phase 1, phase 2, and the first long-context stage from there: three steps each."""
    folder = tmp_path_factory.mktemp("chain")
    forked(train, "phase1", "tiny", folder, data, [*SMALL, TOKENS, "schedule.warmup_tokens=4096"])
    manifest = folder / "phase1/manifest.json"
    began = json.loads(manifest.read_text())
    progress = began["data_progress"] | {"another": UNUSED}
    manifest.write_text(json.dumps(began | {"data_progress": progress}))
    forked(train, "phase2", "tiny", folder, data, [*SMALL, TOKENS])
    forked(train, "lce_32k", "tiny", folder, data, [*SMALL, TOKENS], folder / "phase2")
    return folder


def _steps(folder: Path, stage: str) -> list[dict]:
    lines = [
        json.loads(line)
        for line in (folder / stage / "metrics/steps.jsonl").read_text().splitlines()
    ]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("stage", ["phase2", "lce_32k"])
def test_every_step_of_a_stage_has_its_own_rate(chain, stage) -> None:
    recipe = resolve_pretraining(stage, "tiny", [*SMALL, TOKENS])
    applied = [step["lr"] for step in _steps(chain, stage)]
    assert applied == pytest.approx(
        [recipe.schedule.lr(step * 4096) for step in range(STEPS)], rel=1e-12
    )
    parent = "phase1" if stage == "phase2" else "phase2"
    assert applied[0] != pytest.approx(_steps(chain, parent)[-1]["lr"], rel=1e-2)
    if stage == "lce_32k":
        assert applied[0] == 1e-4


def test_tokens_are_counted_over_the_run_and_steps_from_the_stages_own_zero(chain) -> None:
    manifests = {
        stage: json.loads((chain / stage / "manifest.json").read_text())
        for stage in ("phase1", "phase2", "lce_32k")
    }
    assert [manifest["tokens_before"] for manifest in manifests.values()] == [0, 12288, 24576]
    assert [step["tokens"] for step in _steps(chain, "phase2")] == [4096, 8192, 12288]
    assert manifests["phase1"]["initial_state"] == {
        "checkpoint": "random weights",
        "optimizer_state": "fresh",
    }
    assert manifests["phase2"]["initial_state"] == {
        "checkpoint": str(_final(chain, "phase1")),
        "optimizer_state": "carry",
    }
    assert manifests["lce_32k"]["initial_state"] == {
        "checkpoint": str(_final(chain, "phase2")),
        "optimizer_state": "fresh",
    }


def test_the_next_stage_reads_on(chain) -> None:
    entries = [
        json.loads((chain / stage / "manifest.json").read_text())
        for stage in ("phase1", "phase2", "lce_32k")
    ]
    sha256 = entries[0]["data"]["text"]["bin_sha256"]
    documents = [entry["data_progress"][sha256]["next_document"] for entry in entries]
    epochs = [entry["data_progress"][sha256]["epochs"] for entry in entries]
    assert 0 < epochs[0] < epochs[1] < epochs[2]
    assert entries[1]["data_progress_before"] == entries[0]["data_progress"]
    assert len(set(documents)) == 3
    # what a stage does not read stays where it was
    assert entries[2]["data_progress"]["another"] == UNUSED


@pytest.fixture(scope="module")
def still(forked, data, chain) -> dict[str, Path]:
    """One step from the end of phase 1 at a rate of nothing, with its moments and without."""
    found = {}
    for choice in ("carry", "fresh"):
        folder = chain.parent / f"still_{choice}"
        overrides = [*SMALL, "tokens=4096", STILL, f"optimizer_state={choice}"]
        forked(train, "phase2", "tiny", folder, data, overrides, chain / "phase1")
        found[choice] = _final(folder, "phase2")
    return found


@pytest.mark.parametrize("choice", ["carry", "fresh"])
def test_weights_always_carry_over(chain, still, choice) -> None:
    before, after = _weights(_final(chain, "phase1")), _weights(still[choice])
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key


def test_moments_carry_over_by_choice(chain, still) -> None:
    before, carried, fresh = map(
        _moments, (_final(chain, "phase1"), still["carry"], still["fresh"])
    )
    assert before
    for key, old in before.items():
        # Adam with beta2 0.95 keeps 0.95 of the old moment and adds 0.05 of the squared gradient to
        # it
        kept = 0.95 * old
        assert torch.all(carried[key] >= kept * (1 - 1e-5)), key
        assert torch.allclose(carried[key] - kept, fresh[key], rtol=1e-2, atol=1e-9), key
        assert not torch.allclose(carried[key], fresh[key], rtol=1e-2), key


def test_a_stage_without_its_predecessor_is_refused(tmp_path) -> None:
    recipe = resolve_pretraining("phase3", "tiny")
    with pytest.raises(
        UserError,
        match="phase3 starts from phase2, which this run has not trained; run it first, or",
    ):
        initial_state(recipe, tmp_path, None)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_size_is_refused(chain, tmp_path) -> None:
    recipe = resolve_pretraining("phase2", "tiny", ["model.num_layers=3"])
    match = (
        r"step=00000002: \(layers, hidden size, MLP width\) are \(4, 64, 192\), "
        r"expected \(3, 64, 192\) for tiny"
    )
    with pytest.raises(UserError, match=match):
        initial_state(recipe, tmp_path, _final(chain, "phase1"))


def test_a_theta_that_goes_down_is_refused(chain, tmp_path) -> None:
    recipe = resolve_pretraining("phase2", "tiny", ["rope_theta=5000"])
    for init in (None, chain / "phase1", _final(chain, "phase1")):
        with pytest.raises(
            UserError, match="has rope_theta 10000, and phase2 5000; theta must not go down"
        ):
            initial_state(recipe, chain, init)
    # an imported checkpoint has nothing beside it that tells its theta
    released = tmp_path / "released"
    shutil.copytree(_final(chain, "phase1"), released)
    model = released / "context/model.yaml"
    model.write_text(model.read_text().replace("rotary_base: 10000.0", "rotary_base: 12345678.0"))
    with pytest.raises(
        UserError, match="released: has rope_theta 12345678, and phase2 10000;"
    ) as caught:
        initial_state(resolve_pretraining("phase2", "tiny"), chain, released)
    remedy = str(caught.value).partition("(")[2].split()[0]
    assert (
        initial_state(resolve_pretraining("phase2", "tiny", [remedy]), chain, released).checkpoint
        == released
    )


def test_a_parent_of_another_tokenizer_or_that_has_not_finished_is_refused(
    chain, data, tmp_path
) -> None:
    shutil.copytree(chain / "phase1", tmp_path / "phase1")
    manifest = json.loads((tmp_path / "phase1/manifest.json").read_text())
    words = ("phase2", "tiny", tmp_path, data, [*SMALL, TOKENS])
    for values, message in (
        ({"tokenizer_fingerprint": "0123456789abcdef"}, "trained with tokenizer 0123456789ab but"),
        ({"status": "running"}, "phase1: the stage is running, not finished"),
        ({"status": "failed"}, "phase1: the stage is failed, not finished"),
    ):
        (tmp_path / "phase1/manifest.json").write_text(json.dumps(manifest | values))
        with pytest.raises(UserError, match=message):
            train(*words)
    assert not (tmp_path / "phase2").exists()


def test_a_checkpoint_whose_own_tokenizer_is_another_is_refused(chain, data, tmp_path) -> None:
    # as one that was imported, beside which no manifest says what it was trained with
    released = shutil.copytree(_final(chain, "phase1"), tmp_path / "released")
    words = ("phase2", "tiny", tmp_path / "run", data, [*SMALL, TOKENS], released)
    assert prepare(*words) is not None
    _, own = read_context(released / "context")
    change(own, "tokenizer_config.json", eos_token="<|pad|>")
    with pytest.raises(UserError) as refusal:
        prepare(*words)
    sentence = str(refusal.value)
    assert f"{data}: has another tokenizer than {released}: its eos_token is " in sentence
    assert "'<|end_of_text|>' (0) in place of '<|pad|>' (1)" in sentence
    assert not (tmp_path / "run").exists()


def test_data_and_stages_of_a_former_version_are_accepted(chain, data, tmp_path) -> None:
    copied = shutil.copytree(data, tmp_path / "data")
    shutil.copytree(chain / "phase1", tmp_path / "run/phase1")
    tokenizer = TokenizerFolder(copied / "tokenizer")
    former = fingerprint_ids(tokenizer.text_ids)
    manifest = json.loads((copied / "manifest.json").read_text())
    words = ("phase2", "tiny", tmp_path / "run", copied, [*SMALL, TOKENS])
    change(tmp_path / "run/phase1", "manifest.json", tokenizer_fingerprint=former)
    assert prepare(*words) is not None
    change(copied, "manifest.json", tokenizer=manifest["tokenizer"] | {"fingerprint": former})
    assert prepare(*words) is not None
    change(copied / "tokenizer", "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(UserError, match="put the data's own tokenizer back"):
        prepare(*words)


def test_a_checkpoint_without_an_optimizer_gives_fresh_moments(
    chain, tmp_path, monkeypatch
) -> None:
    recipe = resolve_pretraining("phase2", "tiny")
    assert initial_state(recipe, chain, None).optimizer_state == "carry"
    monkeypatch.setattr(TorchDistCheckpoint, "holds_optimizer", False)
    assert initial_state(recipe, chain, None).optimizer_state == "fresh"


def test_a_long_context_stage_without_its_merge_is_refused(chain) -> None:
    recipe = resolve_pretraining("lce_128k", "tiny")
    with pytest.raises(
        UserError,
        match="lce_32k: is trained but not merged, as a long-context stage ends; `granite41",
    ):
        initial_state(recipe, chain, None)
    assert initial_state(recipe, chain, _final(chain, "lce_32k")).checkpoint == _final(
        chain, "lce_32k"
    )
