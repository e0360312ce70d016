"""Reward models: three kinds of servers, one in this process, and what goes wrong with them."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recipes.alignment.rewards.reward import Outcome
from recipes.alignment.rewards.reward_model import RewardServers, open_reward_model
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt

pytestmark = pytest.mark.slow

PROMPT = Prompt(
    id="a",
    domain="general chat",
    messages=[{"role": "user", "content": "Tell me of the sea."}],
    reward="reward_model",
)
PAIRS = [(PROMPT, "It is wide."), (PROMPT, ""), (PROMPT, "It is wide and blue.")]

# (address, body) -> (status, answer)
Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


def length(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Answer as vLLM does, with the negative length of the answer that is judged."""
    if path.endswith("/score"):
        return 200, {"data": [{"index": 0, "object": "score", "score": -len(body["text_2"])}]}
    value = -len(body["messages"][-1]["content"])
    if path.endswith("/classify"):
        return 200, {"data": [{"index": 0, "label": "x", "probs": [value], "num_classes": 1}]}
    return 200, {"data": [{"index": 0, "object": "pooling", "data": [[0.0], [value]]}]}


@contextmanager
def server(answer: Answer = length, model: str = "judge") -> Iterator[str]:
    """Yield the address of a server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": model}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["model"] == model
            self._send(*answer(self.path, body))

        def _send(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["/classify", "/score", "/pooling", "/v1/score"])
def test_each_kind_of_server_gives_the_values_of_answers(path: str) -> None:
    with server() as address:
        rewards = open_reward_model(address + path, "judge").score(PAIRS)
    # the empty answer is not asked for, and is worth less than the others
    assert [reward.value for reward in rewards] == [-11, -21, -20]
    assert rewards[1].outcome == Outcome.UNREADABLE


def test_a_server_that_is_gone_for_a_moment_is_asked_again() -> None:
    count = 0

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal count
        count += 1
        # after the first one, of the set-up
        return (503, {"error": "starting"}) if count == 2 else length(path, body)

    with server(answer) as address:
        rewards = RewardServers([f"{address}/score"], "judge", first_wait=0).score(PAIRS[:1])
    assert rewards[0].value == -11


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((500, {"error": "out of memory"}), "error 500: out of memory"),
        ((200, {"data": [{"probs": [0.3, 0.7]}]}), "gives 2 numbers, expected one"),
        ((200, {"data": [{"score": math.nan}]}), "the reward model gives nan"),
        ((200, {"data": []}), "list index out of range"),
        ((200, []), "list indices must be integers"),
    ],
)
def test_a_server_without_a_number_gives_no_reward_of_zero(
    content: tuple[int, Any], says: str
) -> None:
    answers = [length("/classify", {"messages": [{"content": ""}]})]
    with server(lambda *_: answers[0]) as address:
        model = RewardServers([f"{address}/classify"], "judge", first_wait=0)
        answers[0] = content
        rewards = model.score(PAIRS[:1])
    assert rewards[0].outcome == Outcome.INFRASTRUCTURE
    assert math.isnan(rewards[0].value)
    assert says in rewards[0].reason


def test_an_answer_that_the_server_refuses_is_worth_less_than_the_others() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "blue" in body["text_2"]:
            return 400, {"error": {"message": "longer than the context"}}
        return length(path, body)

    with server(answer) as address:
        rewards = open_reward_model(f"{address}/score", "judge").score(PAIRS)
    assert [reward.value for reward in rewards] == [-11, -12, -12]
    assert rewards[2].reason == "the reward model refuses it (longer than the context)"


def test_a_server_that_is_dead_is_replaced_by_another() -> None:
    with server() as address:
        with server() as gone:
            urls = [f"{gone}/score", f"{address}/score"]
            model = RewardServers(urls, "judge", first_wait=0)
        assert model.score(PAIRS[:1])[0].value == -11


def test_servers_that_cannot_be_used_are_refused() -> None:
    with server() as address, pytest.raises(UserError, match="serves judge, expected 'other'"):
        open_reward_model(f"{address}/score", "other")
    with pytest.raises(UserError, match=r"its /v1/models gives no answer .*start the server"):
        open_reward_model(f"{address}/score", "judge")
    two = {"data": [{"probs": [0.3, 0.7]}]}
    with (
        server(lambda *_: (200, two)) as address,
        pytest.raises(UserError, match=r"gives no number for an answer of one word \(it"),
    ):
        open_reward_model(f"{address}/classify", "judge")
    with pytest.raises(UserError, match="expected the address of classify"):
        open_reward_model(f"{address}/v1/completions", "judge")


# --- In this process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of random weights with a tokenizer and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from data_prep import tokenizer

    folder = tmp_path_factory.mktemp("reward") / "model"
    tokenizer.train(["system user assistant tool It is wide and blue.\n" * 20], 290, folder)
    config = LlamaConfig(
        vocab_size=290,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_local_model_gives_the_same_value_alone_and_in_a_batch(folder: Path) -> None:
    model = open_reward_model(str(folder), "")
    together = [reward.value for reward in model.score(PAIRS)]
    alone = [model.score([pair])[0].value for pair in (PAIRS[0], PAIRS[2])]
    assert [together[0], together[2]] == pytest.approx(alone, abs=1e-6)
    assert together[0] != pytest.approx(together[2], abs=1e-6)
    assert together[1] == min(together[0], together[2]) - 1


def test_local_models_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        open_reward_model(str(tmp_path), "")
    shutil.copytree(folder, tmp_path / "copy")
    config = tmp_path / "copy" / "config.json"
    content = json.loads(config.read_text())
    content |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match="copy: "):
        open_reward_model(str(tmp_path / "copy"), "")
