"""`granite41 eval` by a real vLLM server, where GRANITE41_VLLM_PYTHON names a Python that has it.

docs/evaluate_a_server.md says how to make such an environment, also on a machine without a GPU.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.results import read_evaluation
from evaluation.server import Server, ServerRefused, ServerStopped
from tests.helpers.eval_models import granite41, write_model

VLLM_PYTHON = os.environ.get("GRANITE41_VLLM_PYTHON")
REASON = "GRANITE41_VLLM_PYTHON does not name the Python of an environment with vLLM"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not VLLM_PYTHON, reason=REASON)]

KEY = "sk-of-a-test"
PORT = 8923
URL = f"http://127.0.0.1:{PORT}/v1/completions"
START_SECONDS = 900
POSITIONS = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory, forked) -> Path:
    folder = tmp_path_factory.mktemp("model") / "hf"
    # two heads of 32: vLLM has no smaller ones on a CPU
    forked(_write_model, folder)
    return folder


def _write_model(folder: Path) -> None:
    write_model(folder, POSITIONS, hidden_size=64)


@pytest.fixture(scope="module", autouse=True)
def server(model, tmp_path_factory) -> Iterator[None]:
    """A server of the model under two names."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment = {**os.environ, **variables}
    environment.pop("PYTHONPATH", None)
    command = [str(Path(VLLM_PYTHON).with_name("vllm")), "serve", str(model)]
    command += ["--served-model-name", "tiny", "other", "--api-key", KEY, "--port", str(PORT)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-num-seqs", "16", "--max-num-batched-tokens", "2048"]
    with log.open("w") as file:
        # its workers are processes too
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        _wait_for(process, log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait_for(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            Server(URL, tries=1).models()
        except ServerStopped:
            time.sleep(1)
        except ServerRefused:
            # it wants the key
            return
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def _eval(forked, suite: str, model: Path, output: Path, *more: str) -> tuple[int, str]:
    words = ("eval", suite, "--model", str(model), "--output", str(output), *more)
    code, _, error = forked(granite41, *words)
    assert "Traceback" not in error
    return code, error


def _by_server(*arguments: str) -> tuple[str, ...]:
    joined = ",".join(("model=tiny", *arguments))
    return ("--backend", "local-completions", "--url", URL, "--backend-args", joined)


def _answers(output: Path, unit: str) -> list:
    (file,) = (output / "units" / unit).glob("samples_*.jsonl")
    return [json.loads(line)["filtered_resps"] for line in file.read_text().splitlines()]


def test_answers_are_those_of_transformers(model, tmp_path, forked) -> None:
    tiny = ("--size", "tiny")
    code, error = _eval(forked, "smoke", model, tmp_path / "vllm", *tiny, *_by_server())
    assert code == 0, error
    # a server leaves one position to the token that it generates, and lm-eval one more
    window = ("--backend-args", f"max_length={POSITIONS - 2}")
    code, error = _eval(forked, "smoke", model, tmp_path / "hf", *tiny, *window)
    assert code == 0, error

    assert _answers(tmp_path / "vllm", "smoke_recall") == _answers(tmp_path / "hf", "smoke_recall")
    by_vllm = _answers(tmp_path / "vllm", "smoke_cloze")
    by_hf = _answers(tmp_path / "hf", "smoke_cloze")
    for choices, expected in zip(by_vllm, by_hf, strict=True):
        scores = [float(nats) for nats, _ in choices]
        assert scores == pytest.approx([float(nats) for nats, _ in expected], abs=1e-3)
    scores = []
    for folder in (tmp_path / "vllm", tmp_path / "hf"):
        units = {unit.name: unit for unit in read_evaluation(folder).units}
        scores.append(units["smoke_text"].score)
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)

    served = read_evaluation(tmp_path / "vllm").backend["served"]
    assert served["root"] == str(model)
    assert served["version"]
    code, error = _eval(forked, "smoke", model, tmp_path / "vllm", *tiny, *_by_server())
    assert "3 of 3 units have their results already" in error


def test_ruler_fills_the_context_to_its_last_token(model, tmp_path, forked) -> None:
    settings = ("--size", "3b", "--samples", "2", "--tasks", "niah_single_1", "vt")
    code, error = _eval(forked, "long-context", model, tmp_path / "vllm", *settings, *_by_server())
    assert code == 0, error
    code, error = _eval(forked, "long-context", model, tmp_path / "hf", *settings)
    assert code == 0, error
    for unit in ("niah_single_1@256", "vt@256"):
        assert _answers(tmp_path / "vllm", unit) == _answers(tmp_path / "hf", unit)


def test_prompts_over_the_servers_context(model, tmp_path, forked) -> None:
    longer = shutil.copytree(model, tmp_path / "hf")
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    arguments = ("--size", "tiny", *_by_server())
    code, error = _eval(forked, "smoke", longer, tmp_path / "out", *arguments)
    assert code == 1
    assert f"smoke_text has no result: {URL}: answers 400: " in error
    assert "maximum context length is 256 tokens" in error
    assert {unit.task for unit in read_evaluation(tmp_path / "out").units} == {
        "smoke_cloze",
        "smoke_recall",
    }


def test_another_tokenizer(model, tmp_path, forked) -> None:
    other = shutil.copytree(model, tmp_path / "hf")
    forked(_train_tokenizer, tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "tokenizer", other, dirs_exist_ok=True)
    code, error = _eval(forked, "smoke", other, tmp_path / "out", "--size", "tiny", *_by_server())
    assert code == 2
    assert "so that it has another tokenizer" in error


def _train_tokenizer(folder: Path) -> None:
    from data_prep import tokenizer

    tokenizer.train(["another text, of which there is little"] * 10, 280, folder)


def test_what_is_refused_before_any_work(model, tmp_path, forked, monkeypatch) -> None:
    arguments = ("--size", "tiny", "--backend", "local-completions", "--url", URL)
    code, error = _eval(forked, "smoke", model, tmp_path / "out", *arguments)
    assert code == 2
    assert "serves several models (tiny, other)" in error
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    code, error = _eval(forked, "smoke", model, tmp_path / "out", *arguments)
    assert code == 2
    assert "answers 401: Unauthorized" in error
    assert not (tmp_path / "out").exists()
