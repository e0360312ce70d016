"""A client of any OpenAI-compatible chat endpoint: many requests in flight, within a budget."""

import asyncio
import json
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from data_prep.conversations.judge.rubric import Sampling
from recipes.common.errors import UserError
from recipes.common.servers import (
    KEY,
    RATE_LIMITED,
    TIMED_OUT,
    NotNow,
    api_key,
    check_url,
    error_words,
    seconds_to_wait,
    shorten,
)

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

CHAT_COMPLETIONS = "/chat/completions"
_PROBE = 'Answer with the JSON object {"ready": true}.'
_PROBE_TOKENS = 16
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_ANSWER = 4 * 2**20  # bytes
_UNAUTHORIZED = (401, 403)
# of the request's content; any other 4xx is of the address, the model or the account
_BAD_CONTENT = (400, 413, 422)
# where a server does not count them
_CHARACTERS_A_TOKEN = 4
# requests that failed together are not sent again together
_RANDOM = random.SystemRandom()

Messages = Sequence[Mapping[str, Any]]


class Refused(Exception):
    """The server refuses this request and no other; the argument says why."""


@dataclass(frozen=True)
class Endpoint:
    """A server, and how it is asked.

    Attributes:
        url: address of the chat completions.
        model: name by which the server knows the judge.
        in_flight: requests at a time.
        tries: of a request, before a server that does not answer, or answers 5xx, has stopped.
        timeout: seconds that an answer may take.
        first_wait: seconds before the second try; each further wait is twice as long.
        patience: seconds that one request waits for rate limits, all its waits together.
        option: that gave the address, for messages.
    """

    url: str
    model: str
    in_flight: int
    tries: int = 5
    timeout: float = 300.0
    first_wait: float = 1.0
    patience: float = 600.0
    option: str = "--endpoint"


@dataclass
class Budget:
    """What a run may cost, and what it has cost.

    Attributes:
        max_requests: sent, those again and the probe included; None for any number.
        max_tokens: of prompts and answers. No request is sent once they are spent; those in flight
            by then are answered, and go beyond it.
        requests, tokens: sent and spent so far.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    requests: int = 0
    tokens: int = 0

    def take(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            UserError: the budget is spent.
        """
        spent = ""
        if self.max_requests is not None and self.requests >= self.max_requests:
            spent = f"--max-requests {self.max_requests}"
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            spent = f"--max-tokens {self.max_tokens}"
        if spent:
            raise UserError(
                f"{spent}: the budget is spent ({self.requests:,} requests, {self.tokens:,} "
                f"tokens); the answers are kept, and the same command continues with what it is "
                f"given"
            )
        self.requests += 1


@dataclass(frozen=True)
class Answer:
    """The text of a reply, and whether it was cut off at the most tokens it may have."""

    text: str
    is_cut: bool


class Client:
    """Asks a judge; an asynchronous context, whose requests share their connections.

    Before the first request a probe is sent: a wrong address, key or model ends the run before a
    sample is spent, and a server that refuses structured output is asked without it.
    """

    def __init__(self, endpoint: Endpoint, sampling: Sampling, budget: Budget) -> None:
        check_url(endpoint.option, endpoint.url, CHAT_COMPLETIONS)
        self._endpoint = endpoint
        self._where = f"{endpoint.option} {endpoint.url}"
        self._sampling = sampling
        self.budget = budget
        self._slots = asyncio.Semaphore(endpoint.in_flight)
        self._probing = asyncio.Lock()
        self._is_structured: bool | None = None
        # why no request is sent any more, and that it is so
        self._stopped: UserError | None = None
        self._ending = asyncio.Event()

    @property
    def model(self) -> str:
        """The judge's name."""
        return self._endpoint.model

    async def __aenter__(self) -> "Client":
        """Open the connections."""
        # a third of a second, and only this client needs it
        import aiohttp

        headers = {"Content-Type": "application/json"}
        key = api_key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout),
            headers=headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(
        self,
        messages: Messages,
        schema: Mapping[str, Any] | None,
        others: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Return the model's reply.

        Args:
            messages: the request's.
            schema: JSON Schema that a server with structured output keeps to; None for free text.
            others: further fields of the request, such as ``tools``.

        Raises:
            Refused: the server refuses these messages, as those beyond its context.
            UserError: the server refuses everything or has stopped answering, or the budget is
                spent. Whoever asks after that gets the same error, and what is in flight ends.
        """
        async with self._slots:
            try:
                await self.probe(schema)
                body = self._body(messages, self._sampling.max_tokens, schema, others)
                return await self._persist(body, self._endpoint.tries)
            except UserError as error:
                self._stopped = self._stopped or error
                self._ending.set()
                raise

    async def probe(self, schema: Mapping[str, Any] | None) -> None:
        """Find out, once, whether the server answers, and takes a schema.

        Raises:
            UserError: it does not answer, or refuses the address, the key or the model.
        """
        async with self._probing:
            if self._is_structured is not None:
                return
            messages = [{"role": "user", "content": _PROBE}]
            # as if it were, for the first body
            self._is_structured = schema is not None
            try:
                await self._persist(self._body(messages, _PROBE_TOKENS, schema), tries=1)
                return
            except Refused as error:
                refusal = str(error)
                self._is_structured = False
            except BaseException:
                self._is_structured = None
                raise
            try:
                await self._persist(self._body(messages, _PROBE_TOKENS, schema), tries=1)
            except Refused as error:
                raise UserError(
                    f"{self._where}: refuses a request of two lines ({error}); "
                    f"check --model {self.model} and the server's log"
                ) from error
            log.warning(
                "%s: has no structured output (%s); verdicts are asked for in words",
                self._endpoint.url,
                refusal,
            )

    def _body(
        self,
        messages: Messages,
        max_tokens: int,
        schema: Mapping[str, Any] | None,
        others: Mapping[str, Any] | None = None,
    ) -> bytes:
        content: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": self._sampling.temperature,
            "max_tokens": max_tokens,
            **(others or {}),
        }
        if self._is_structured:
            wanted = {"name": "verdict", "strict": True, "schema": schema}
            content["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return json.dumps(content).encode()

    async def _persist(self, body: bytes, tries: int) -> Answer:
        """Return the answer to a request; wait and send it again where there may be one later."""
        failures = 0
        waited = 0.0
        wait = self._endpoint.first_wait
        while True:
            if self._stopped:
                raise self._stopped
            self.budget.take()
            try:
                return await self._send(body)
            except NotNow as error:
                # a limit is no failure, but ends too
                failures += not error.is_limit
                seconds = error.seconds
                if seconds is None:
                    seconds = wait * _RANDOM.uniform(0.5, 1)
                    wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
                waited += seconds
                if failures >= tries or waited > self._endpoint.patience:
                    raise UserError(
                        f"{self._where}: gives no answer ({error.reason}); the "
                        f"answers before are kept, look at the server and run the same command "
                        f"again"
                    ) from error
                log.debug("%s; asked again in %.1f s", error.reason, seconds)
            # whoever waits ends with the run
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)

    async def _send(self, body: bytes) -> Answer:
        """Send a request once."""
        import aiohttp

        url = self._endpoint.url
        try:
            # elsewhere the key would be another server's
            async with self._session.post(url, data=body, allow_redirects=False) as response:
                content = await _read(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = shorten(str(error))
            raise NotNow(f"{type(error).__name__}: {words}") from error
        if response.status != 200:
            self._raise_for(response, content.decode("utf-8", "replace"))
        return self._parse(content, len(body))

    def _raise_for(self, response: "aiohttp.ClientResponse", text: str) -> None:
        status = response.status
        words = f"{status}: {error_words(text or response.reason or '')}"
        if status >= 500 or status in (RATE_LIMITED, TIMED_OUT):
            header = response.headers.get("Retry-After")
            seconds = seconds_to_wait(header, datetime.now(UTC))
            raise NotNow(words, seconds, is_limit=status == RATE_LIMITED)
        if status in _BAD_CONTENT:
            raise Refused(words)
        remedy = f"check the address and --model {self.model}"
        if status in _UNAUTHORIZED:
            remedy = f"set the key in the environment variable {KEY}"
        raise UserError(f"{self._where}: answers {words}; {remedy}")

    def _parse(self, content: bytes, sent: int) -> Answer:
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            words = shorten(content.decode("utf-8", "replace"))
            raise NotNow(f"answers with what is no chat completion: {words}") from error
        # null, for a refusal or where all tokens went into reasoning
        if not isinstance(text, str):
            text = ""
        self.budget.tokens += _count_tokens(answer, sent + len(text))
        return Answer(text, choice.get("finish_reason") == "length")


async def _read(response: "aiohttp.ClientResponse") -> bytes:
    content = b""
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _LONGEST_ANSWER:
            raise ValueError(f"more than {_LONGEST_ANSWER:,} bytes")
    return content


def _count_tokens(answer: Mapping[str, Any], characters: int) -> int:
    usage = answer.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    if type(counted) is int and counted >= 0:
        return counted
    return characters // _CHARACTERS_A_TOKEN
