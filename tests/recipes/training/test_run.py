"""What cannot be trained is refused in one sentence, with exit status 2, before anything is
written.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from data_prep import tokenizer
from recipes.cli import main as cli
from recipes.common import tokenizer_files
from recipes.common.errors import UserError
from recipes.runs.data_folder import read_data_manifest
from recipes.runs.stage_manifest import TrainingShard
from recipes.training import run
from tests.helpers.manifests import write_stage_manifest
from tests.helpers.tokenizer_folders import add_token, change
from tests.helpers.training import train

pytestmark = pytest.mark.slow

REFUSED = {
    "no data": (
        "phase1 --size tiny --data {tmp}/none",
        "none/manifest.json: no such file; prepare data with `granite41 data tiny",
    ),
    "tokenizer too large": (
        "phase1 --size tiny --data {data} model.vocab_size=384",
        "the tokenizer has ids up to 511 but the model only 384 rows",
    ),
    "no prompts": (
        "rl_math --size tiny --data {data}",
        "rl_math answers prompts: name the folder of `granite41 data prompts` with --prompts",
    ),
    "no conversations": (
        "sft --size tiny --data {data}",
        "sft trains on packed conversations: name the folder of `granite41 data pack` with",
    ),
    "misspelt stage": ("phase11 --size tiny --data {data}", "did you mean 'phase1'?"),
    "misspelt key": ("phase1 --size tiny --data {data} token=5", "did you mean 'tokens'?"),
    "wrong type": (
        "phase1 --size tiny --data {data} tokens=many",
        "tokens is 'many', expected an integer",
    ),
    "no GPU": (
        "phase1 --size 8b --data {data} split=900,100,0",
        "size 8b trains on GPUs and this machine has none",
    ),
    "too few processes": (
        "phase1 --size tiny --data {data} parallelism.tensor_model_parallel_size=2",
        "1 processes were started, but tensor x pipeline x context parallelism needs multiples of "
        "2",
    ),
    "too few documents": (
        "phase1 --size tiny --data {data} split=999,1,0",
        "documents are too few for the split 999,1,0",
    ),
}


def _granite41(monkeypatch, capsys, *words: str) -> str:
    """Run the command; return its one sentence of error."""
    monkeypatch.setattr(sys, "argv", ["granite41", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert (caught.value.code, error.count("\n"), error[:11]) == (2, 1, "granite41: ")
    return error


@pytest.mark.parametrize("case", REFUSED)
def test_train_refuses(case, data, tmp_path, monkeypatch, capsys) -> None:
    words, sentence = REFUSED[case]
    words = words.format(data=data, tmp=tmp_path).split()
    assert sentence in _granite41(
        monkeypatch, capsys, "train", *words, "--run-dir", str(tmp_path / "run")
    )
    assert not (tmp_path / "run").exists()


def test_more_processes_than_sequences(data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = [
        "train",
        "phase1",
        "--size",
        "tiny",
        "--data",
        str(data),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert "global_batch_size 32 is no multiple of the 64 sequences" in _granite41(
        monkeypatch, capsys, *words
    )


def test_a_model_that_is_neither_here_nor_on_the_hub(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = ["import", "--hf", "ibm-granite/granite-none", "--output", str(tmp_path / "nemo")]
    assert (
        "ibm-granite/granite-none: neither a folder here nor a model that the Hub gives"
        in _granite41(monkeypatch, capsys, *words)
    )
    assert not (tmp_path / "nemo").exists()


def test_a_stage_that_is_damaged_or_began_on_other_data(
    data, tmp_path, monkeypatch, capsys
) -> None:
    stage = tmp_path / "run" / "phase1"
    stage.mkdir(parents=True)
    (stage / "manifest.json").write_text('{"status": "fin')
    words = [
        "train",
        "phase1",
        "--size",
        "tiny",
        "--data",
        str(data),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert "manifest.json: is not valid JSON" in _granite41(monkeypatch, capsys, *words)
    write_stage_manifest(
        stage,
        status="running",
        data={"text": TrainingShard(1.0, "text", "0", "0")},
        tokenizer_fingerprint=read_data_manifest(data).tokenizer.fingerprint,
    )
    assert "phase1: began on other data than" in _granite41(monkeypatch, capsys, *words)


def _copied(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


def test_data_that_was_packed_for_longer_sequences(data, tmp_path, monkeypatch, capsys) -> None:
    copied = _copied(data, tmp_path)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["components"]["text"]["packed_tokens"] = 2048
    (copied / "manifest.json").write_text(json.dumps(manifest))
    words = [
        "train",
        "phase1",
        "--size",
        "tiny",
        "--data",
        str(copied),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    error = _granite41(monkeypatch, capsys, *words)
    assert "component 'text' was packed for 2,048 tokens, but phase1 reads 256 at a time" in error
    assert not (tmp_path / "run").exists()


def test_data_of_another_tokenizer_than_its_own(data, tmp_path, monkeypatch, capsys) -> None:
    copied = _copied(data, tmp_path)
    shutil.rmtree(copied / "tokenizer")
    tokenizer.train([tokenizer_files.FINGERPRINT_TEXT], 260, copied / "tokenizer")
    found, expected = (
        tokenizer_files.TokenizerFolder(folder / "tokenizer").fingerprint[:12]
        for folder in (copied, data)
    )
    words = [
        "train",
        "phase1",
        "--size",
        "tiny",
        "--data",
        str(copied),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    error = _granite41(monkeypatch, capsys, *words)
    assert (
        f"this tokenizer has fingerprint {found} but {copied}/manifest.json was written with "
        f"{expected}" in error
    )
    assert not (tmp_path / "run").exists()


def test_a_stage_or_parent_of_another_tokenizer(data, tmp_path, monkeypatch, capsys) -> None:
    stage = tmp_path / "run" / "phase1"
    stage.mkdir(parents=True)
    write_stage_manifest(stage, tokenizer_fingerprint="0123456789abcdef")
    words = ["--size", "tiny", "--data", str(data), "--run-dir", str(tmp_path / "run")]
    assert "phase1: trained with tokenizer 0123456789ab but" in _granite41(
        monkeypatch, capsys, "train", "phase1", *words
    )
    write_stage_manifest(stage, status="running")
    assert "phase1: the stage is running, not finished" in _granite41(
        monkeypatch, capsys, "train", "phase2", *words, "split=900,100,0"
    )
    assert not (tmp_path / "run" / "phase2").exists()


def test_the_models_rows_go_by_the_highest_id(data, tmp_path) -> None:
    copied = _copied(data, tmp_path)
    add_token(copied / "tokenizer", id=2100)
    files = tokenizer_files.TokenizerFolder(copied / "tokenizer")
    manifest = json.loads((copied / "manifest.json").read_text())
    change(
        copied,
        "manifest.json",
        tokenizer=manifest["tokenizer"] | {"fingerprint": files.fingerprint},
    )
    words = ("phase1", "tiny", tmp_path / "run", copied)
    with pytest.raises(UserError, match=r"has ids up to 2,100 but the model only 2,048 rows"):
        run.prepare(*words, ["split=900,100,0"])
    enough = ["split=900,100,0", "model.vocab_size=2176"]
    assert run.prepare(*words, enough) is not None


def test_a_tokenizer_that_transformers_loads_otherwise(data, tmp_path, monkeypatch, capsys) -> None:
    copied = _copied(data, tmp_path)
    path = copied / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    words = [
        "train",
        "phase1",
        "--size",
        "tiny",
        "--data",
        str(copied),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    # NeMo's loader takes tokens from here that tokenizer.json does not have
    token = {
        "content": "count",
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }
    path.write_text(
        json.dumps(config | {"added_tokens_decoder": {"512": token | {"special": True}}})
    )
    assert (
        "transformers loads this tokenizer with other ids than its tokenizer.json has"
        in _granite41(monkeypatch, capsys, *words)
    )
    path.write_text(json.dumps(config | {"tokenizer_class": "NoSuchTokenizer"}))
    assert "transformers cannot load this tokenizer" in _granite41(monkeypatch, capsys, *words)
    assert not (tmp_path / "run").exists()


def test_unfinished_checkpoints_are_never_the_latest(tmp_path) -> None:
    from recipes.runs.stage_folder import latest_checkpoint

    def checkpoint(step: int) -> Path:
        folder = tmp_path / "checkpoints" / f"step={step:08d}"
        (folder / "context").mkdir(parents=True)
        (folder / "weights").mkdir()
        (folder / "weights" / "metadata.json").write_text("{}")
        return folder

    assert latest_checkpoint(tmp_path) is None
    whole = checkpoint(9)
    checkpoint(19).with_name("step=00000019-unfinished").touch()
    (checkpoint(29) / "weights" / "metadata.json").unlink()
    shutil.rmtree(checkpoint(39) / "context")
    assert latest_checkpoint(tmp_path) == whole


def test_data_of_the_users_own_text(data) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    assert list(manifest["components"]) == ["text"]
    assert manifest["components"]["text"]["documents"] >= 20


def test_a_stage_that_fails_says_so_in_its_manifest(data, tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory\nTried to allocate 20 GiB")

    monkeypatch.setattr(run, "fit", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train("phase1", "tiny", tmp_path / "run", data, ["split=900,100,0"])
    manifest = json.loads((tmp_path / "run/phase1/manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["error"] == "RuntimeError: CUDA out of memory Tried to allocate 20 GiB"
