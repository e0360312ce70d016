"""A server process with OpenAI's completions API, which fails or stalls where a test needs it."""

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POSITIONS = 256

# (number of the request for completions, its body) -> (status, headers, body) of an error, or None
Fault = Callable[[int, dict], tuple[int, dict[str, str], Any] | None]


def after(number: int, status: int = 500, body: Any = None) -> Fault:
    """Answer with ``status`` after ``number`` requests."""
    content = body if body is not None else {"error": "out of memory"}
    return lambda count, _: (status, {}, content) if count > number else None


@dataclass(frozen=True)
class Api:
    """What the server answers.

    Attributes:
        answer: returns the completion of a prompt, which is "" where the prompt comes as tokens.
        fault: see :data:`Fault`.
        seconds: time of each completion.
        key: without which requests get 401; None for none.
        models: names of what is served.
        tokenizer: folder of a tokenizer, to echo prompts with their log-probabilities; without one
            ``echo`` is ignored.
        positions: tokens of a prompt and its answer.
        log: receives each request for completions as a line of JSON.
    """

    answer: Callable[[str], str] = lambda prompt: " w"
    fault: Fault = lambda number, body: None
    seconds: float = 0
    key: str | None = None
    models: tuple[str, ...] = ("tiny",)
    tokenizer: Path | None = None
    positions: int = POSITIONS
    log: Path | None = None

    def entries(self) -> dict:
        """Return the answer to ``/v1/models``, as vLLM's: two fields change from call to call."""
        data = []
        for name in self.models:
            entry = {
                "id": name,
                "max_model_len": self.positions,
                "created": time.time_ns(),
                "permission": [{"id": f"modelperm-{time.time_ns()}"}],
            }
            data.append(entry)
        return {"object": "list", "data": data}

    def complete(self, body: dict) -> tuple[int, dict]:
        """Return status and body of the answer to a request for completions."""
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}

        prompts = body["prompt"]
        if isinstance(prompts, str):
            prompts = [prompts]
        choices = []
        num_tokens = 0
        for index, prompt in enumerate(prompts):
            text = prompt if isinstance(prompt, str) else ""
            choice = {"index": index, "text": self.answer(text), "logprobs": None}
            tokens = self._tokens(prompt)
            num_tokens += len(tokens)
            if len(tokens) + body["max_tokens"] > self.positions:
                words = f"This model's maximum context length is {self.positions} tokens."
                return 400, {"error": {"message": words, "type": "BadRequestError"}}
            if body.get("logprobs"):
                echoed = tokens if body.get("echo") and self.tokenizer else []
                choice["logprobs"] = log_probabilities(echoed)
            choices.append(choice)

        answer = {"choices": choices}
        if self.tokenizer:
            answer["usage"] = {"prompt_tokens": num_tokens}
        return 200, answer

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if not isinstance(prompt, str):
            return prompt
        return self._encoder.encode(prompt).ids if self.tokenizer else []

    @cached_property
    def _encoder(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.tokenizer / "tokenizer.json"))


def log_probability(token: int) -> float:
    """Return what the server gives as a token's log-probability."""
    return -1 - token % 7 / 8


def log_probabilities(tokens: list[int]) -> dict:
    """Return the log-probabilities of an echoed prompt, and of the one token that follows it."""
    values = [log_probability(token) for token in tokens] + [-0.5]
    most_likely: list[dict | None] = [{"w": value} for value in values]
    # nothing precedes the first token
    if tokens:
        values[0] = None
        most_likely[0] = None
    return {"token_logprobs": values, "top_logprobs": most_likely}


class Handler(BaseHTTPRequestHandler):
    """Answers for :attr:`api`."""

    api: Api
    count = 0
    lock = threading.Lock()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._has_key():
            return
        if self.path.endswith("/models"):
            self._send(200, self.api.entries())
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            type(self).count += 1
            number = self.count
            if self.api.log:
                line = json.dumps({"headers": dict(self.headers), "body": body})
                with self.api.log.open("a") as file:
                    file.write(line + "\n")
        if not self._has_key():
            return
        time.sleep(self.api.seconds)
        fault = self.api.fault(number, body)
        if fault:
            status, headers, content = fault
            self._send(status, content, headers)
        else:
            self._send(*self.api.complete(body))

    def _has_key(self) -> bool:
        given = self.headers.get("Authorization")
        if self.api.key is None or given == f"Bearer {self.api.key}":
            return True
        # some servers repeat the key
        self._send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        return False

    def _send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def completions(*arguments: Any, **behavior: Any) -> Iterator[str]:
    """Yield the address of a server process that behaves as an :class:`Api` of these arguments."""
    handler = type("ApiHandler", (Handler,), {"api": Api(*arguments, **behavior)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # a fork, for functions of a test
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    port = server.server_port
    # or the port would still be open here when the process has ended
    server.server_close()
    try:
        yield f"http://127.0.0.1:{port}/v1/completions"
    finally:
        process.kill()
        process.join()


def requests_of(log: Path) -> list[dict]:
    """Return the requests that a server has written: their ``headers`` and ``body``."""
    return [json.loads(line) for line in log.read_text().splitlines()]
