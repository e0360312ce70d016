"""A judge's server process with OpenAI's chat API whose verdicts come from a function."""

import json
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data_prep.conversations.judge.verdict import DIMENSIONS, UNGROUNDED, faults_of

# of the judge on this server
MODEL = "judge"


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

    @property
    def faults(self) -> dict[str, str]:
        """Fault that the verdict has to speak of -> what the judge is asked."""
        category = "rag" if next(iter(UNGROUNDED)) in self.system else "multi_turn"
        return faults_of(category)

    def verdict(self, score: int = 9, **faults: bool) -> dict[str, Any]:
        """Return a verdict with the same score everywhere."""
        return {
            "token": self.token,
            "reason": "scripted",
            "scores": dict.fromkeys(DIMENSIONS, score),
            "faults": dict.fromkeys(self.faults, False) | faults,
        }


class ScriptedJudge:
    """Answers requests of :class:`data_prep.conversations.judge.client.Client`."""

    def __init__(self, reply: Callable[[Asked], str]) -> None:
        """Take a function that returns the text of the judge's reply."""
        self._reply = reply
        self._count = 0

    async def answer(self, request: Any) -> Any:
        """Return the response to a request."""
        asked = self.read(await request.json())
        return self.respond(asked)

    def read(self, body: dict[str, Any]) -> Asked | None:
        """Return what is asked; None of the probe."""
        system, *rest = body["messages"]
        if not rest:
            return None
        begin, line, *_ = rest[0]["content"].split("\n")
        token = begin.removeprefix("BEGIN ")
        self._count += 1
        return Asked(self._count, json.loads(line), line, token, system["content"])

    def respond(self, asked: Asked | None) -> Any:
        """Return a response that holds the reply."""
        from aiohttp import web

        content = self._reply(asked) if asked else '{"ready": true}'
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        return web.json_response({"choices": [choice], "usage": {"total_tokens": 100}})


@contextmanager
def serving(judge: ScriptedJudge) -> Iterator[str]:
    """Yield the address of a process that answers as ``judge`` does."""
    # port 0: the system chooses one that is free
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = sock.getsockname()[1]
    # a fork, as a function need not be one that can be pickled
    process = multiprocessing.get_context("fork").Process(
        target=serve, args=(judge, sock), daemon=True
    )
    process.start()
    sock.close()
    try:
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        process.kill()
        process.join()


def serve(judge: ScriptedJudge, sock: socket.socket) -> None:
    """Answer as ``judge`` does, and that the server is there, until the process ends."""
    from aiohttp import web

    async def say_ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/health", say_ready)
    app.router.add_post("/v1/chat/completions", judge.answer)
    web.run_app(app, sock=sock, print=None, handle_signals=False, access_log=None)
