"""`granite41 eval` by a server process: what it lacks, refuses, limits and how it ends."""

import json
import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from evaluation.results import Unit, read_evaluation
from tests.helpers.completions_server import (
    after,
    completions,
    log_probability,
    requests_of,
)
from tests.helpers.eval_models import granite41, write_model

pytestmark = pytest.mark.slow

KEY = "sk-0123456789"
# texts of the smoke suite have more
POSITIONS = 128
SMOKE = ("smoke_cloze", "smoke_recall", "smoke_text")


@pytest.fixture(scope="module")
def model(tmp_path_factory, forked) -> Path:
    folder = tmp_path_factory.mktemp("model") / "hf"
    forked(write_model, folder, POSITIONS)
    return folder


def _words(model: Path, output: Path, url: str, *more: str) -> tuple[str, ...]:
    place = ("--model", str(model), "--size", "tiny", "--output", str(output))
    return ("eval", "smoke", *place, "--backend", "local-completions", "--url", url, *more)


def _run(forked, *words: str, status: int = 0) -> str:
    """Return what a command logs, which must end with this status."""
    code, _, error = forked(granite41, *words)
    assert code == status, error
    assert "Traceback" not in error
    return error


def _sentence(error: str) -> str:
    *_, sentence = error.splitlines()
    assert sentence.startswith("granite41: ")
    return sentence


def _units(output: Path) -> dict[str, Unit]:
    return {unit.name: unit for unit in read_evaluation(output).units}


def _bodies(log: Path) -> list[dict]:
    return [request["body"] for request in requests_of(log)]


def _is_probe(body: dict) -> bool:
    return isinstance(body["prompt"], str)


def _files_with(word: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if word.encode() in path.read_bytes()]


def test_scores_by_a_server_with_a_key(model, tmp_path, forked, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    log = tmp_path / "log"
    output = tmp_path / "out"
    server = completions(tokenizer=model, key=KEY, positions=POSITIONS, log=log)
    with server as url:
        error = _run(forked, *_words(model, output, url))
        again = _run(forked, *_words(model, output, url, "--backend-args", "timeout=9"))
    assert "3 of 3 units have their results already" in again

    assert set(_units(output)) == set(SMOKE)
    assert read_evaluation(output).backend["served"]["id"] == "tiny"
    # the first request is the probe, and each has the key
    first, *others = _bodies(log)
    assert _is_probe(first)
    assert not any(map(_is_probe, others))
    sent = {request["headers"]["Authorization"] for request in requests_of(log)}
    assert sent == {f"Bearer {KEY}"}
    # a text's windows leave the token free that the server generates
    assert max(len(body["prompt"][0]) for body in others) == POSITIONS - 1
    assert KEY not in error
    assert _files_with(KEY, output) == []

    # each token of each text is scored once
    encoder = Tokenizer.from_file(str(model / "tokenizer.json"))
    nats = 0.0
    num_bytes = 0
    (samples,) = (output / "units/smoke_text").glob("samples_*.jsonl")
    for line in samples.read_text().splitlines():
        text = json.loads(line)["doc"]["text"]
        num_bytes += len(text.encode())
        nats += sum(map(log_probability, encoder.encode(text).ids))
    bits = -nats / math.log(2) / num_bytes
    assert _units(output)["smoke_text"].score == pytest.approx(bits)


def test_a_wrong_key(model, tmp_path, forked, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with completions(key=KEY) as url:
        error = _run(forked, *_words(model, tmp_path / "out", url), status=2)
    assert "answers 401: Incorrect API key provided: Bearer $OPENAI_API_KEY" in _sentence(error)
    assert "sk-wrong" not in error
    assert not (tmp_path / "out").exists()


def test_a_server_of_several_models(model, tmp_path, forked) -> None:
    log = tmp_path / "log"
    words = ("--tasks", "smoke_recall", "--samples", "2")
    with completions(models=("m1", "m2"), log=log) as url:
        error = _run(forked, *_words(model, tmp_path / "out", url), status=2)
        assert "serves several models (m1, m2); name one with --backend-args model=NAME" in error
        other = _words(model, tmp_path / "out", url, "--backend-args", "model=n2")
        assert "serves no such model (did you mean 'm2'?), but m1, m2" in _run(
            forked, *other, status=2
        )
        assert not (tmp_path / "out").exists()
        chosen = _words(model, tmp_path / "out", url, *words, "--backend-args", "model=m2")
        _run(forked, *chosen)
    assert {body["model"] for body in _bodies(log)} == {"m2"}
    assert read_evaluation(tmp_path / "out").backend["arguments"]["model"] == "m2"


def test_a_refused_prompt_costs_its_unit_only(model, tmp_path, forked) -> None:
    log = tmp_path / "log"
    # as --max-model-len of a server for shorter prompts
    with completions(tokenizer=model, positions=POSITIONS - 8, log=log) as url:
        error = _run(forked, *_words(model, tmp_path / "out", url), status=1)
    reason = f"answers 400: This model's maximum context length is {POSITIONS - 8} tokens."
    assert f"granite41: smoke_text has no result: {url}: {reason}" in error
    assert reason in read_evaluation(tmp_path / "out").failures["smoke_text"]
    assert set(_units(tmp_path / "out")) == {"smoke_cloze", "smoke_recall"}
    # no request is sent twice
    bodies = [json.dumps(body, sort_keys=True) for body in _bodies(log)]
    assert len(set(bodies)) == len(bodies)


def test_a_server_without_log_probabilities_of_prompts(model, tmp_path, forked) -> None:
    # it ignores echo, and gives its own token's
    with completions(positions=POSITIONS) as url:
        error = _run(forked, *_words(model, tmp_path / "out", url), status=1)
    reason = "gives no log-probabilities of a prompt, which scores of given answers need"
    lines = error.splitlines()
    warned = next(number for number, line in enumerate(lines) if reason in line)
    scored = next(number for number, line in enumerate(lines) if "[1/3]" in line)
    assert warned < scored
    assert set(_units(tmp_path / "out")) == {"smoke_recall"}
    failures = read_evaluation(tmp_path / "out").failures
    assert set(failures) == {"smoke_cloze", "smoke_text"}
    assert all(reason in failure for failure in failures.values())


def test_a_server_that_loses_log_probabilities_later(model, tmp_path, forked) -> None:
    body = {"choices": [{"index": 0, "text": "a", "logprobs": {"token_logprobs": [-0.5]}}]}
    with completions(tokenizer=model, fault=after(1, 200, body)) as url:
        error = _run(
            forked, *_words(model, tmp_path / "out", url, "--tasks", "smoke_cloze"), status=1
        )
    assert "gives log-probabilities of 0 tokens of a prompt that has" in error


@pytest.mark.parametrize("has_echo", [True, False])
def test_a_server_with_another_tokenizer(model, tmp_path, forked, has_echo) -> None:
    other = tmp_path / "other"
    forked(_train_tokenizer, other)

    def fault(number: int, body: dict):
        refusal = (400, {}, {"error": "echo is not supported"})
        return refusal if body.get("echo") and not has_echo else None

    with completions(tokenizer=other, fault=fault) as url:
        words = _words(model, tmp_path / "out", url, "--tasks", "smoke_recall")
        error = _sentence(_run(forked, *words, status=2))
    assert f"{url}: counts " in error
    assert "so that it has another tokenizer" in error
    assert _units(tmp_path / "out") == {}


def _train_tokenizer(folder: Path) -> None:
    from data_prep import tokenizer

    tokenizer.train(["another text, of which there is little"] * 10, 280, folder)


def test_a_rate_limit_is_waited_for(model, tmp_path, forked) -> None:
    def fault(number: int, body: dict):
        limited = (429, {"Retry-After": "0.1"}, {"error": "slow down"})
        return limited if number % 2 else None

    with completions(positions=POSITIONS, fault=fault) as url:
        words = ("--tasks", "smoke_recall", "--backend-args", "max_retries=1,num_concurrent=1")
        _run(forked, *_words(model, tmp_path / "out", url, *words))
    assert _units(tmp_path / "out")["smoke_recall"].samples == 16


@pytest.mark.parametrize(
    ("misbehavior", "sentence"),
    [
        # the probe and 16 prompts are answered
        ({"fault": after(17)}, "stopped answering in smoke_text (500: out of memory)"),
        ({"fault": after(0)}, "stopped answering in the first request (500: out of memory)"),
        ({"seconds": 3}, "stopped answering in the first request (ReadTimeout"),
    ],
)
def test_a_server_that_stops(model, tmp_path, forked, monkeypatch, misbehavior, sentence) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    output = tmp_path / "out"
    more = ("--tasks", "smoke_recall", "smoke_text")
    once = ("--backend-args", "max_retries=1,timeout=1")
    server = {"tokenizer": model, "positions": POSITIONS}
    with completions(**server, **misbehavior) as url:
        error = _sentence(_run(forked, *_words(model, output, url, *more, *once), status=2))
    assert sentence in error
    assert "finished units are kept" in error
    assert not list(output.rglob("*.partial"))
    assert _files_with(KEY, output) == []

    # another address and other patience: the units are the same
    is_half = "smoke_text" in sentence
    assert len(_units(output)) == is_half
    with completions(**server) as url:
        progress = _run(forked, *_words(model, output, url, *more))
    assert ("1 of 2 units have their results already" in progress) == is_half


def test_another_model_of_the_same_name_is_scored_again(model, tmp_path, forked) -> None:
    words = ("--tasks", "smoke_recall", "--samples", "1")
    for positions, kept in ((POSITIONS, False), (POSITIONS, True), (2 * POSITIONS, False)):
        with completions(positions=positions) as url:
            progress = _run(forked, *_words(model, tmp_path, url, *words))
        assert ("1 of 1 units have their results already" in progress) == kept


def test_a_server_that_is_not_there(model, tmp_path, forked) -> None:
    with completions() as url:
        chat = url.replace("completions", "chat")
        error = _run(forked, *_words(model, tmp_path / "out", chat), status=2)
        assert "expected the address of completions" in error
        unknown = ("--backend-args", "max_retires=2")
        error = _run(forked, *_words(model, tmp_path / "out", url, *unknown), status=2)
        assert "max_retires: unknown (did you mean 'max_retries'?)" in error
    error = _run(forked, *_words(model, tmp_path / "out", url), status=2)
    assert "no server answers (ConnectionError" in error
    assert not (tmp_path / "out").exists()
