"""A server process with the part of vLLM's API that rollouts use, and a model of one token.

The model's logits after a token are the products of its embedding with all others, read from the
folder's safetensors: whoever has other weights answers with other log-probabilities. The workers'
methods are those that vLLM gets from this project.

    python -m tests.helpers.rollout_server MODEL FAULTS --host HOST --port PORT

FAULTS is a JSON file that tests write while the server runs: see :class:`Faults`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from recipes.alignment.rollout.completions import POLICY
from recipes.alignment.rollout.engine import Request, Sample
from recipes.alignment.rollout.vllm_extension.granite41_vllm import Worker
from recipes.common.files import write_text
from recipes.model_folder.config import CONFIG, read_config
from recipes.model_folder.weights import EMBEDDING, WEIGHTS, granite_shapes

VOCAB_SIZE = 64
POSITIONS = 48
STOP_IDS = (2, 3, 4)
_CONFIG = {
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": POSITIONS,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.125,
    "residual_multiplier": 0.7,
    "logits_scaling": 1.0,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "torch_dtype": "float32",
}


@dataclass(frozen=True)
class Faults:
    """What a server does wrong.

    Attributes:
        ends_after: completions after which its process ends; None for never.
        hangs: whether completions get no answer.
        is_ill: whether it does not answer that it is well, either.
        keeps_weights: whether it answers a refresh with success and keeps its weights.
        shift: added to every log-probability.
        other_version: that its workers report.
        loses_version_after: completions after which its workers have no version.
        change: of the JSON of a completion's choice.
        model: name of what it serves.
    """

    ends_after: int | None = None
    hangs: bool = False
    is_ill: bool = False
    keeps_weights: bool = False
    shift: float = 0.0
    other_version: int | None = None
    loses_version_after: int | None = None
    change: Mapping[str, Any] | None = None
    model: str = POLICY


def set_faults(file: Path, **faults: Any) -> None:
    """Change what the server does wrong from its next request on."""
    write_text(file, json.dumps(faults))


def write_policy(folder: Path, seed: int = 0, **changed: Any) -> Path:
    """Write a folder that is a Granite model's, with random weights."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(_CONFIG | changed))
    vocabulary = {f"w{number}": number for number in range(VOCAB_SIZE)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
    content = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2"}))
    draw = np.random.default_rng(seed)
    shapes = granite_shapes(read_config(folder))
    tensors = {name: draw.normal(size=shape, scale=0.5) for name, shape in shapes.items()}
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)
    return folder


def log_probabilities(embedding: np.ndarray, last: int, temperature: float) -> np.ndarray:
    """Return those of every token after ``last``."""
    logits = embedding.astype(np.float64) @ embedding[last] / (temperature or 1.0)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def score(folder: Path, pairs: Sequence[tuple[Request, Sample]]) -> list[np.ndarray]:
    """Return the log-probabilities of answers by the model in ``folder``, as a trainer would."""
    embedding = load_file(folder / WEIGHTS)[EMBEDDING]
    scores = []
    for request, sample in pairs:
        last = [request.ids[-1], *sample.ids[:-1]]
        found = [log_probabilities(embedding, token, request.temperature) for token in last]
        scores.append(np.array([row[token] for row, token in zip(found, sample.ids, strict=True)]))
    return scores


class StandIn(Worker):
    """A worker of vLLM with the model of one token' memory."""

    def __init__(self, model: Path, faults: Path) -> None:
        self.model_config = type("ModelConfig", (), {"model": str(model)})
        self._faults = faults
        self.completed = 0
        # nobody's weights
        self._embedding = np.zeros((VOCAB_SIZE, 16), dtype=np.float32)

    @property
    def faults(self) -> Faults:
        """Those of now."""
        return Faults(**json.loads(self._faults.read_text()))

    def reload_weights(self, weights_path: str) -> None:
        """Read the embedding of a folder; as vLLM, end at a folder without it."""
        folder = Path(weights_path)
        if not (folder / WEIGHTS).is_file():
            os._exit(1)
        self.model_config.model = weights_path
        if not self.faults.keeps_weights:
            self._embedding = load_file(folder / WEIGHTS)[EMBEDDING]

    def call(self, method: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Answer ``/collective_rpc``."""
        answer = getattr(self, method)(**kwargs)
        faults = self.faults
        if faults.other_version is not None:
            answer["version"] = faults.other_version
        limit = faults.loses_version_after
        if limit is not None and self.completed > limit:
            answer["version"] = None
        return answer

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``/v1/completions``."""
        choices = []
        for number in range(body["n"]):
            draw = np.random.default_rng(body["seed"] + number)
            choices.append(self._choice(number, body, draw))
        return {"choices": choices}

    def _choice(
        self, number: int, body: Mapping[str, Any], draw: np.random.Generator
    ) -> dict[str, Any]:
        faults = self.faults
        ids = list(body["prompt"])
        values = []
        while len(values) < body["max_tokens"]:
            row = log_probabilities(self._embedding, ids[-1], body["temperature"])
            token = int(row.argmax())
            if body["temperature"]:
                token = int(draw.choice(VOCAB_SIZE, p=np.exp(row) / np.exp(row).sum()))
            ids.append(token)
            values.append(row[token] + faults.shift)
            if token in body["stop_token_ids"]:
                break
        choice = {
            "index": number,
            "prompt_token_ids": list(body["prompt"]),
            "token_ids": ids[len(body["prompt"]) :],
            "logprobs": {"token_logprobs": values},
        }
        return choice | dict(faults.change or {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, worker: StandIn, *arguments: Any) -> None:
        self._worker = worker
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path == "/health":
            while self._worker.faults.is_ill:
                time.sleep(0.05)
            self._send(200, {})
        elif self._has_key():
            entry = {"id": self._worker.faults.model, "max_model_len": POSITIONS}
            self._send(200, {"data": [entry]})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(content or b"{}")
        if not self._has_key():
            return
        if self.path == "/collective_rpc":
            answer = self._worker.call(body["method"], body["kwargs"])
            self._send(200, {"results": [answer]})
        elif self.path == "/v1/completions":
            self._complete(body)
        else:
            self._send(200, {"success": True})

    def _complete(self, body: dict[str, Any]) -> None:
        faults = self._worker.faults
        while self._worker.faults.hangs:
            time.sleep(0.05)
        with _LOCK:
            self._worker.completed += 1
            limit = faults.ends_after
            if limit is not None and self._worker.completed > limit:
                os._exit(1)
        if len(body["prompt"]) + body["max_tokens"] > POSITIONS:
            self._send(400, {"error": {"message": "This model's maximum context length is 48."}})
            return
        self._send(200, self._worker.complete(body))

    def _has_key(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self._send(401, {"error": "Unauthorized"})
        return False

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


_LOCK = threading.Lock()


def main() -> None:
    """Serve."""
    model, faults, *rest = sys.argv[1:]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    worker = StandIn(Path(model), Path(faults))
    address = (options["--host"], int(options["--port"]))
    ThreadingHTTPServer(address, partial(_Handler, worker)).serve_forever()


if __name__ == "__main__":
    main()
