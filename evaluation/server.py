"""A server with OpenAI's completions API: what it serves, its answers, and what it refuses."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from operator import itemgetter
from time import sleep
from typing import TYPE_CHECKING, Any

from recipes.common.servers import (
    RATE_LIMITED,
    TIMED_OUT,
    NotNow,
    api_key,
    error_words,
    seconds_to_wait,
    shorten,
)

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

COMPLETIONS = "/completions"
TRIES = 5
TIMEOUT_SECONDS = 300.0
# what one request waits for rate limits, all its waits together
PATIENCE_SECONDS = 600.0
_LONGEST_WAIT_SECONDS = 60.0
# of an entry of /v1/models, what vLLM makes anew for each answer
_VOLATILE = ("created", "permission")


class ServerRefused(Exception):
    """The server has answered, but not with what was asked for; the argument is a sentence."""


class ServerStopped(Exception):
    """The server did not answer, however often it was asked; the argument is half a sentence."""


@dataclass(frozen=True)
class Served:
    """A model that a server has.

    Attributes:
        name: by which requests ask for it.
        positions: tokens of a prompt and its answer; None where the server does not say.
        entry: what ``/v1/models`` says of it, without what changes from one answer to the next.
    """

    name: str
    positions: int | None
    entry: dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A client, which several threads may share.

    Attributes:
        url: address of the completions, as ``http://HOST:PORT/v1/completions``.
        tries: requests before a server that does not answer, or answers 5xx, has stopped.
        timeout: seconds that an answer may take.
        verify: whether certificates are checked, or a file of authorities.
    """

    url: str
    tries: int = TRIES
    timeout: float = TIMEOUT_SECONDS
    verify: bool | str = True

    def models(self) -> list[Served]:
        """Return the models that the server lists.

        Raises:
            ServerRefused: its answer is no list of models, or a status of 4xx.
            ServerStopped: it does not answer.
        """
        address = self.url.removesuffix(COMPLETIONS) + "/models"
        answer = _parse(self._request("GET", address), address)
        try:
            found = [_read_model(entry) for entry in answer["data"]]
        except (KeyError, TypeError) as error:
            raise ServerRefused(
                f"{address}: answers with what is no list of models ({shorten(json.dumps(answer))})"
            ) from error
        if not found:
            raise ServerRefused(f"{address}: serves no model")
        return found

    def complete(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, whose choices are sorted and one for each prompt.

        Raises:
            ServerRefused: a status of 4xx, or an answer without a text for each prompt.
            ServerStopped: the server does not answer.
        """
        answer = _parse(self._request("POST", self.url, payload), self.url)
        prompt = payload["prompt"]
        num_prompts = 1 if isinstance(prompt, str) else len(prompt)
        try:
            choices = sorted(answer["choices"], key=itemgetter("index"))
            indices = [choice["index"] for choice in choices]
            has_texts = all(isinstance(choice["text"], str) for choice in choices)
        except (KeyError, TypeError):
            has_texts = False
        if not has_texts or indices != list(range(num_prompts)):
            raise ServerRefused(
                f"{self.url}: answers with what is no text for each of {num_prompts} prompts "
                f"({shorten(json.dumps(answer))})"
            )
        return {**answer, "choices": choices}

    def version(self) -> str | None:
        """Return the server's version, which vLLM has beside the API; None where it has none."""
        address = self.url.removesuffix("/v1" + COMPLETIONS) + "/version"
        try:
            answer = _parse(self._ask("GET", address), address)
        except (ServerRefused, NotNow):
            return None
        version = answer.get("version")
        return version if isinstance(version, str) else None

    def _request(
        self, method: str, address: str, content: Mapping[str, Any] | None = None
    ) -> "requests.Response":
        """Return a good answer; wait and ask again where there may be one later."""
        number = 0
        failures = 0
        waited = 0.0
        while True:
            try:
                return self._ask(method, address, content)
            except NotNow as error:
                # a limit is no failure, but ends too
                failures += not error.is_limit
                seconds = error.seconds
                if seconds is None:
                    seconds = min(2.0**number, _LONGEST_WAIT_SECONDS)
                number += 1
                waited += seconds
                if failures >= self.tries or waited > PATIENCE_SECONDS:
                    raise ServerStopped(error.reason) from error
                log.info("%s: %s; asked again in %.0f s", address, error.reason, seconds)
            sleep(seconds)

    def _ask(
        self, method: str, address: str, content: Mapping[str, Any] | None = None
    ) -> "requests.Response":
        """Return a good answer; raise ServerRefused for one of 4xx, NotNow where there is none."""
        try:
            response = self._session.request(method, address, json=content, timeout=self.timeout)
        # requests has errors of both kinds that are none of its own
        except (OSError, ValueError) as error:
            raise NotNow(f"{type(error).__name__}: {shorten(str(error))}") from error
        if response.ok:
            return response

        status = response.status_code
        reason = f"{status}: {error_words(response.text or response.reason)}"
        if status < 500 and status not in (RATE_LIMITED, TIMED_OUT):
            raise ServerRefused(f"{address}: answers {reason}")
        raise NotNow(
            reason,
            seconds_to_wait(response.headers.get("Retry-After"), datetime.now(UTC)),
            is_limit=status == RATE_LIMITED,
        )

    @cached_property
    def _session(self) -> "requests.Session":
        # a third of a second, and only servers need it
        import requests

        session = requests.Session()
        session.verify = self.verify
        key = api_key()
        if key:
            # as a function, or the machine's .netrc would replace it
            session.auth = lambda request: _with_key(request, key)
        return session


def count_log_probabilities(choice: Mapping[str, Any]) -> int:
    """Return of how many tokens of an echoed prompt an answer has usable log-probabilities.

    The first token, which follows nothing, counts; the last one is the answer and does not.
    """
    content = choice.get("logprobs")
    if not isinstance(content, dict):
        return 0
    values = content.get("token_logprobs")
    most_likely = content.get("top_logprobs")
    if not isinstance(values, list) or not isinstance(most_likely, list):
        return 0
    if len(values) != len(most_likely):
        return 0
    for value, entry in zip(values[1:-1], most_likely[1:-1], strict=True):
        if not isinstance(value, int | float) or math.isnan(value):
            return 0
        if not isinstance(entry, dict) or not entry:
            return 0
    return max(0, len(values) - 1)


def _read_model(entry: Mapping[str, Any]) -> Served:
    name = entry["id"]
    if not isinstance(name, str):
        raise TypeError(name)
    positions = entry.get("max_model_len")
    if type(positions) is not int:
        positions = None
    stable = {key: value for key, value in entry.items() if key not in _VOLATILE}
    return Served(name, positions, stable)


def _parse(response: "requests.Response", address: str) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ServerRefused(
            f"{address}: answers with what is no JSON object ({shorten(response.text)}); "
            f"look at the server's log"
        )
    return answer


def _with_key(request: "requests.PreparedRequest", key: str) -> "requests.PreparedRequest":
    request.headers["Authorization"] = f"Bearer {key}"
    return request
