"""The demo's job from the command line: prepare, train with an interruption, export, load, generate, report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from recipes.spec import resolve_pretraining

GRANITE41 = [sys.executable, "-m", "recipes.cli"]


def _interrupt_after(step: int, command: list[str], metrics: Path) -> str:
    """Run ``command`` until its metrics hold ``step``, then press Ctrl-C; return what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while process.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            os.killpg(process.pid, signal.SIGINT)
            break
        time.sleep(0.2)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "granite41: interrupted; the same command continues" in printed
    return printed


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    command = [*GRANITE41, "run", "phase1", "--size", "tiny", "--on", "local", "--run-dir", str(folder)]
    interrupted = _interrupt_after(18, command, folder / "phase1" / "metrics" / "steps.jsonl")
    assert "phase1: starts, 153 steps of 8,192 tokens" in interrupted
    manifest = json.loads((folder / "phase1" / "manifest.json").read_text())
    assert manifest["status"] == "running"
    refused = subprocess.run(
        [*GRANITE41, "export", "--checkpoint", str(folder / "phase1"), "--output", str(folder / "early")],
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "not finished" in refused.stderr
    assert not (folder / "early").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    (folder / "output.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "phase1" / "metrics" / "steps.jsonl").read_text().splitlines()]


def test_it_continues_where_it_was_interrupted(run_folder) -> None:
    assert "phase1: continues after step 15" in (run_folder / "output.txt").read_text()
    assert [line["step"] for line in _steps(run_folder) if "loss" in line] == list(range(1, 154))
    assert json.loads((run_folder / "phase1" / "manifest.json").read_text())["starts"] == 2


def test_the_loss_ends_a_quarter_below_the_unigram_entropy(run_folder) -> None:
    manifest = json.loads((run_folder / "phase1" / "manifest.json").read_text())
    assert manifest["validation_loss"] == [line["val_loss"] for line in _steps(run_folder) if "val_loss" in line][-1]
    assert manifest["validation_loss"] <= 0.75 * manifest["unigram_entropy"]
    assert _steps(run_folder)[-1].keys() == {"step", "val_loss"}
    assert _steps(run_folder)[-1]["step"] == 153
    # the tokens of a vocabulary of 2,048 cannot be more even than ln 2048, nor much less in real text
    assert 6 < manifest["unigram_entropy"] < 7.63
    report = (run_folder / "report.md").read_text()
    assert f"| {manifest['validation_loss']:.3f} | {manifest['unigram_entropy']:.3f} |" in report


def test_the_optimizer_applied_the_recipes_learning_rate(run_folder) -> None:
    recipe = resolve_pretraining("phase1", "tiny")
    for line in _steps(run_folder):
        if "loss" in line:
            expected = recipe.schedule.lr((line["step"] - 1) * 8192)
            assert line["lr"] == pytest.approx(expected, rel=1e-12)
            # tiny is a quarter of muP's base width
            assert line["lr_hidden"] == pytest.approx(expected * 4, rel=1e-12)


def test_recipe_and_logs_are_kept(run_folder) -> None:
    recorded = yaml.safe_load((run_folder / "phase1" / "recipe.yaml").read_text())
    assert recorded["values"]["tokens"]["value"] == 1_250_000
    assert recorded["values"]["schedule.a"]["origin"] == "published"
    assert recorded["libraries"]["megatron-core"] == "0.13.1"
    assert list((run_folder / "phase1" / "metrics" / "tensorboard").glob("events.out.tfevents.*"))
    checkpoints = {path.name for path in (run_folder / "phase1" / "checkpoints").iterdir()}
    assert len(checkpoints) == 3
    assert Path(json.loads((run_folder / "phase1" / "manifest.json").read_text())["checkpoint"]).name == max(
        checkpoints
    )


def test_the_export_is_the_trained_model(run_folder) -> None:
    """Transformers, on its own, scores the training text as well as Megatron did."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run_folder / "phase1" / "hf"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.logits_scaling == 0.25
    text = Path(json.__file__).read_text()
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :256]
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    last = [line["loss"] for line in _steps(run_folder) if "loss" in line][-1]
    assert loss == pytest.approx(last, abs=1)
    assert "generate/0 def __init__(self, " in (run_folder / "output.txt").read_text()


def test_a_finished_stage_is_not_trained_again(run_folder) -> None:
    before = (run_folder / "phase1" / "manifest.json").read_text()
    command = [*GRANITE41, "train", "phase1", "--size", "tiny", "--run-dir", str(run_folder)]
    command += ["--data", str(run_folder / "data")]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert "finished already" in again.stdout
    assert (run_folder / "phase1" / "manifest.json").read_text() == before
    other = subprocess.run([*command, "seed=1"], capture_output=True, text=True)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "seed was 1234 when this run began and is 1 now" in other.stderr
