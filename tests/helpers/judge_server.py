"""A judge's server process with OpenAI's chat API: scripted replies, faults, latency, a log."""

import asyncio
import hashlib
import json
import multiprocessing
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.conversations.judge.verdict import DIMENSIONS, faults_of

HANG = "hang"


@dataclass(frozen=True)
class Asked:
    """A request for a verdict.

    Attributes:
        number: of the request, from 1; the probe is none.
        sample: the conversation.
        line: it, as the prompt has it.
        token: of the request.
        system: the instructions.
    """

    number: int
    sample: dict[str, Any]
    line: str
    token: str
    system: str

    @property
    def reply(self) -> str:
        """The text of the assistant's last reply."""
        replies = [m for m in self.sample["messages"] if m["role"] == "assistant"]
        return replies[-1].get("content", "")

    def verdict(self, score: int = 9, **faults: bool) -> dict[str, Any]:
        """Return a verdict with the same score everywhere."""
        category = "rag" if "ungrounded" in self.system else "multi_turn"
        return {
            "token": self.token,
            "reason": "scripted",
            "scores": dict.fromkeys(DIMENSIONS, score),
            "faults": dict.fromkeys(faults_of(category), False) | faults,
        }


def nine(asked: Asked) -> str:
    """Give every sample a nine."""
    return json.dumps(asked.verdict())


@dataclass(frozen=True)
class JudgeApi:
    """What the server answers.

    Attributes:
        reply: returns the text of the judge's reply.
        fault: returns status, headers and body of an error, HANG for no answer, or None; its
            argument is the number of the request.
        seconds: time of each answer.
        key: without which requests get 401; None for none.
        model: the only one.
        is_structured: False to refuse ``response_format``.
        log: receives a line of JSON for each request, and one for each answer.
    """

    reply: Callable[[Asked], str] = nine
    fault: Callable[[int], tuple[int, dict[str, str], Any] | str | None] = lambda number: None
    seconds: float = 0
    key: str | None = None
    model: str = "judge"
    is_structured: bool = True
    log: Path | None = None


class _Server:
    def __init__(self, api: JudgeApi) -> None:
        self._api = api
        self._count = 0

    async def answer(self, request: Any) -> Any:
        from aiohttp import web

        api = self._api
        body = await request.json()
        asked = self._read(body)
        digest = hashlib.sha256(asked.line.encode()).hexdigest() if asked else None
        self._note(kind="asked", sample=digest, headers=dict(request.headers), body=body)

        if api.key and request.headers.get("Authorization") != f"Bearer {api.key}":
            given = request.headers.get("Authorization")
            words = {"error": {"message": f"Incorrect API key provided: {given}"}}
            return web.json_response(words, status=401)
        if body["model"] != api.model:
            words = {"error": {"message": f"The model `{body['model']}` does not exist."}}
            return web.json_response(words, status=404)
        if not api.is_structured and "response_format" in body:
            return web.json_response({"error": "response_format is not supported"}, status=400)

        fault = api.fault(asked.number) if asked else None
        if fault == HANG:
            await asyncio.sleep(3600)
        await asyncio.sleep(api.seconds)
        if isinstance(fault, tuple):
            status, headers, content = fault
            text = content if isinstance(content, str) else json.dumps(content)
            return web.Response(status=status, headers=headers, text=text)
        content = api.reply(asked) if asked else '{"ready": true}'
        self._note(kind="answered", sample=digest)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        return web.json_response({"choices": [choice], "usage": {"total_tokens": 100}})

    def _read(self, body: dict) -> Asked | None:
        """Return what is asked; None of the probe."""
        system, *rest = body["messages"]
        if not rest:
            return None
        begin, line, end, *_ = rest[0]["content"].split("\n")
        token = begin.removeprefix("BEGIN ")
        assert end == f"END {token}"
        self._count += 1
        return Asked(self._count, json.loads(line), line, token, system["content"])

    def _note(self, **entry: Any) -> None:
        if self._api.log:
            with self._api.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def _serve(api: JudgeApi, sock: socket.socket) -> None:
    from aiohttp import web

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", _Server(api).answer)
    web.run_app(app, sock=sock, print=None, handle_signals=False, access_log=None)


@contextmanager
def judge_server(**behavior: Any) -> Iterator[str]:
    """Yield the address of a server process that behaves as a :class:`JudgeApi`."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = sock.getsockname()[1]
    # a fork, for functions of a test
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(JudgeApi(**behavior), sock), daemon=True
    )
    process.start()
    sock.close()
    try:
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        process.kill()
        process.join()


def entries(log: Path, kind: str) -> list[dict[str, Any]]:
    """Return what a server has noted of requests ("asked") or answers ("answered")."""
    if not log.exists():
        return []
    lines = log.read_text().split("\n")[:-1]
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def answers(log: Path) -> Counter[str]:
    """Return sample -> how often the server has answered for it; the probe is left out."""
    return Counter(entry["sample"] for entry in entries(log, "answered") if entry["sample"])
