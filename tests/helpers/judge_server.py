"""The scripted judge's server with faults, latency, a key and a log."""

import argparse
import asyncio
import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.conversations.judge.scripted_server import (
    MODEL,
    Asked,
    ScriptedJudge,
    serve,
    serving,
)

HANG = "hang"


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
    model: str = MODEL
    is_structured: bool = True
    log: Path | None = None


class _Server(ScriptedJudge):
    def __init__(self, api: JudgeApi) -> None:
        super().__init__(api.reply)
        self._api = api

    async def answer(self, request: Any) -> Any:
        from aiohttp import web

        api = self._api
        body = await request.json()
        asked = self.read(body)
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
        response = self.respond(asked)
        self._note(kind="answered", sample=digest)
        return response

    def _note(self, **entry: Any) -> None:
        if self._api.log:
            with self._api.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def by_the_reply(asked: Asked) -> str:
    """Do what the sample's reply says: ``score 9``, ``fault``, or nothing that is a verdict."""
    word, _, number = asked.reply.partition(" ")
    if word == "score":
        return json.dumps(asked.verdict(int(number)))
    if word == "fault":
        return json.dumps(asked.verdict(10, hallucination=True))
    return "I would rather not."


@contextmanager
def judge_server(**behavior: Any) -> Iterator[str]:
    """Yield the address of a server process that behaves as a :class:`JudgeApi`."""
    with serving(_Server(JudgeApi(**behavior))) as url:
        yield url


def entries(log: Path, kind: str) -> list[dict[str, Any]]:
    """Return what a server has noted of requests ("asked") or answers ("answered")."""
    if not log.exists():
        return []
    lines = log.read_text().split("\n")[:-1]
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def answers(log: Path) -> Counter[str]:
    """Return sample -> how often the server has answered for it; the probe is left out."""
    return Counter(entry["sample"] for entry in entries(log, "answered") if entry["sample"])


def main() -> None:
    """Do as ``vllm serve`` with the key in VLLM_API_KEY; judge by what replies say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--tensor-parallel-size", type=int, required=True)
    options = parser.parse_args()
    log = Path(options.model) / "log"
    key = os.environ["VLLM_API_KEY"]
    print("serving", vars(options), flush=True)
    api = JudgeApi(by_the_reply, key=key, model=options.served_model_name, log=log)
    serve(_Server(api), socket.create_server((options.host, options.port)))


if __name__ == "__main__":
    main()
