"""Judging conversations: each is asked for once, kept, and put into a bucket."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data_prep.conversations.judge.cache import Cache, cache_key
from data_prep.conversations.judge.client import Client, Refused
from data_prep.conversations.judge.prompts import (
    Prompt,
    Sample,
    build_messages,
    build_prompt,
    read_sample,
)
from data_prep.conversations.judge.rubric import UNDECIDED, Rubric
from data_prep.conversations.judge.verdict import InvalidVerdict, Verdict, parse_verdict, schema
from recipes.common.errors import UserError

# requests for one sample, before it is undecided
VERDICT_TRIES = 3
# conversations in memory for each request in flight: a slow one holds up none of these
_AHEAD = 16


@dataclass(frozen=True)
class Judgement:
    """What became of a conversation.

    Attributes:
        sample: SHA-256 of what the judge saw.
        category: of the prompt.
        bucket: accept, borderline, reject or undecided.
        score: weighted mean of the verdict's scores; None where it is undecided.
        verdict: None where it is undecided.
        reason: why it is undecided.
    """

    sample: str
    category: str
    bucket: str
    score: float | None
    verdict: Verdict | None
    reason: str = ""


class Judge:
    """Asks for verdicts, or takes them from the cache.

    Args:
        rubric: gives the prompts their dimensions, and verdicts their bucket.
        client: is asked.
        cache: keeps the answers.
        is_reversed: list the dimensions from the last to the first.
    """

    def __init__(
        self,
        rubric: Rubric,
        client: Client,
        cache: Cache,
        is_reversed: bool = False,
    ) -> None:
        self._rubric = rubric
        self._client = client
        self._cache = cache
        self._prompt = lru_cache(lambda category: build_prompt(category, rubric, is_reversed))
        # key -> the answer that another conversation waits for already
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}

    async def judge(self, conversation: Mapping[str, Any]) -> Judgement:
        """Return the judgement of a conversation.

        Raises:
            BadConversation: it is none, or nothing in it can be judged.
            UserError: as :meth:`Client.ask`.
        """
        sample = read_sample(conversation)
        prompt = self._prompt(sample.category)
        digest = sample.digest
        key = cache_key(self._client.model, prompt.version, digest, self._rubric.sampling)
        answer = self._cache.get(key)
        if answer is None and key in self._asked:
            # shielded, or whoever ends first would end it for all
            answer = await asyncio.shield(self._asked[key])
        elif answer is None:
            self._asked[key] = asyncio.ensure_future(self._ask(prompt, sample, key))
            try:
                answer = await self._asked[key]
            finally:
                del self._asked[key]
        return self._judgement(digest, prompt.category, answer)

    async def _ask(self, prompt: Prompt, sample: Sample, key: str) -> dict[str, Any]:
        """Return ``{"verdict": ...}`` or ``{"undecided": REASON}``, which the cache has by then."""
        reason = ""
        for _ in range(VERDICT_TRIES):
            # new in each request, so that no reply can be an old one
            token = secrets.token_hex(8)
            messages = build_messages(prompt, sample, token)
            try:
                reply = await self._client.ask(messages, schema(prompt.category))
            except Refused as error:
                # which costs nothing, and may be another server's answer the next time
                return {"undecided": f"the server refuses the sample: {error}"}
            try:
                verdict = parse_verdict(reply.text, prompt.category, token)
            except InvalidVerdict as error:
                reason = f"the judge's reply {error}"
                if reply.is_cut:
                    reason = "the judge's reply was cut off at max_tokens"
                continue
            return self._keep(key, {"verdict": vars(verdict)})
        return self._keep(key, {"undecided": reason})

    def _keep(self, key: str, answer: dict[str, Any]) -> dict[str, Any]:
        self._cache.put(key, answer)
        return answer

    def _judgement(self, sample: str, category: str, answer: dict[str, Any]) -> Judgement:
        if "verdict" not in answer:
            return Judgement(sample, category, UNDECIDED, None, None, answer["undecided"])
        verdict = Verdict(**answer["verdict"])
        score = self._rubric.score(verdict)
        return Judgement(sample, category, self._rubric.bucket(verdict), score, verdict)


async def judge_all(
    judge: Judge, conversations: Iterable[Mapping[str, Any]], in_flight: int
) -> AsyncGenerator[Judgement, None]:
    """Yield the judgements of conversations, in their order.

    Memory is that of ``16 x in_flight`` conversations. After an error that ends the run, requests
    in flight are waited for, as their answers are paid.

    Raises:
        BadConversation, UserError: as :meth:`Judge.judge`.
    """
    window: deque[asyncio.Task[Judgement]] = deque()
    try:
        for conversation in conversations:
            window.append(asyncio.create_task(judge.judge(conversation)))
            # the first requests are sent while later conversations are read
            await asyncio.sleep(0)
            if len(window) >= _AHEAD * in_flight:
                yield await window.popleft()
        while window:
            yield await window.popleft()
    except UserError:
        await asyncio.gather(*window, return_exceptions=True)
        raise
    finally:
        for task in window:
            task.cancel()
