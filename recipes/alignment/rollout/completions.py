"""A vLLM server as the trainer uses it: completions of token ids, and new weights."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.alignment.rollout.engine import Request, Sample
from recipes.common.servers import error_words, shorten

if TYPE_CHECKING:
    import requests

# by which requests name the model
POLICY = "policy"
# of what is no answer to a prompt
CONTROL_SECONDS = 600.0


class ServerLost(Exception):
    """The server does not answer, or answers 5xx; the argument is half a sentence."""


class ServerRefused(Exception):
    """The server answers, but not with what was asked for; the argument is a sentence."""


@dataclass(frozen=True)
class ServerState:
    """What a server says of itself.

    Attributes:
        version: of its weights; None before the first load, or where its workers differ.
        files: name in the folder that it serves -> SHA-256, in hex.
    """

    version: int | None
    files: dict[str, str]


@dataclass(frozen=True)
class RolloutServer:
    """A client of one server, which several threads may share.

    Attributes:
        url: its address, ``http://HOST:PORT``.
        key: without which it answers nothing; it is in no message.
        timeout: seconds that the answers to a prompt may take.
    """

    url: str
    key: str
    timeout: float

    def positions(self) -> int:
        """Return the tokens of a prompt and its answer.

        Raises:
            ServerRefused: it serves no model of the name, or does not say it.
            ServerLost: it does not answer.
        """
        listing = self._ask("GET", "/v1/models", None, CONTROL_SECONDS)
        try:
            served = {entry["id"]: entry["max_model_len"] for entry in listing["data"]}
            positions = served[POLICY]
        except (KeyError, TypeError) as error:
            raise ServerRefused(
                f"{self.url}: serves {shorten(json.dumps(listing))}, expected a model {POLICY} and "
                f"its max_model_len; start it by `granite41 rollout-server`"
            ) from error
        return int(positions)

    def state(self) -> ServerState:
        """Ask all workers of the server what they have.

        Raises:
            ServerRefused, ServerLost: as :meth:`positions`.
        """
        states = self._call_workers("granite41_state")
        try:
            versions = {state["version"] for state in states}
            version = versions.pop() if len(versions) == 1 else None
            return ServerState(version, dict(states[0]["files"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerRefused(
                f"{self.url}: its workers answer {shorten(json.dumps(states))}; start it by "
                f"`granite41 rollout-server`"
            ) from error

    def load(self, folder: Path, version: int) -> None:
        """Load the weights of ``folder``, which was checked, in place of the present ones.

        Raises:
            ServerRefused, ServerLost: as :meth:`positions`. Its weights are unknown then.
        """
        # what is in flight ends first, and nothing starts before the cache is empty
        self._post("/pause?mode=wait")
        arguments = {"folder": str(folder), "version": version}
        answers = self._call_workers("granite41_load", arguments)
        if any(answer != {"version": version} for answer in answers):
            raise ServerRefused(
                f"{self.url}: its workers answer {shorten(json.dumps(answers))} to new weights of "
                f"version {version}"
            )
        reset = self._post("/reset_prefix_cache")
        if reset.get("success") is False:
            raise ServerLost(f"{self.url} keeps a cache of the former weights")
        self._post("/resume")

    def complete(
        self, request: Request, stop_ids: Sequence[int], version: int, vocab_size: int
    ) -> list[Sample]:
        """Return the answers to a request.

        Args:
            request: the prompt.
            stop_ids: any of which ends an answer.
            version: of the weights that the server has.
            vocab_size: above every id.

        Raises:
            ServerRefused, ServerLost: as :meth:`positions`; the answers are no answers.
        """
        payload = {
            "model": POLICY,
            "prompt": request.ids.tolist(),
            "n": request.samples,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            # over a generation_config.json of the model's folder
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # the server adds the number of the answer
            "seed": request.draw_seed(),
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": True,
            "stop_token_ids": list(stop_ids),
        }
        answer = self._ask("POST", "/v1/completions", payload, self.timeout)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            if len(choices) != request.samples:
                raise ValueError(f"{len(choices)} answers")
            return [_sample(choice, request, stop_ids, version, vocab_size) for choice in choices]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerRefused(
                f"{self.url}: prompt {request.prompt_id}: answers with what is not "
                f"{request.samples} answers with ids and log-probabilities ({shorten(str(error))}; "
                f"{shorten(json.dumps(answer)):.100})"
            ) from error

    def _call_workers(self, method: str, arguments: Mapping[str, Any] | None = None) -> list[Any]:
        content = {"method": method, "kwargs": dict(arguments or {})}
        answer = self._post("/collective_rpc", content)
        results = answer.get("results")
        if not isinstance(results, list) or not results:
            raise ServerRefused(f"{self.url}: no worker answers {method}; look at its log")
        return results

    def _post(self, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._ask("POST", path, content, CONTROL_SECONDS)

    def _ask(
        self, method: str, path: str, content: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        try:
            response = self._session.request(method, self.url + path, json=content, timeout=timeout)
        # requests has errors of both kinds that are none of its own
        except (OSError, ValueError) as error:
            words = shorten(str(error)).replace(self.key, "KEY")
            raise ServerLost(f"{self.url} does not answer ({words})") from error

        words = error_words(response.text or str(response.reason)).replace(self.key, "KEY")
        status = response.status_code
        if status >= 500:
            raise ServerLost(f"{self.url} answers {status} ({words})")
        if not response.ok:
            raise ServerRefused(f"{self.url}{path}: answers {status} ({words})")
        if not response.content:
            return {}
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ServerRefused(f"{self.url}{path}: answers with what is no JSON object ({words})")
        return answer

    @cached_property
    def _session(self) -> "requests.Session":
        # a third of a second, and only servers need it
        import requests

        session = requests.Session()
        # within the cluster, past any proxy and the machine's .netrc
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {self.key}"
        return session


def _sample(
    choice: Mapping[str, Any],
    request: Request,
    stop_ids: Sequence[int],
    version: int,
    vocab_size: int,
) -> Sample:
    """Return an answer; KeyError, TypeError or ValueError for what is none."""
    # what the server has read is what it was sent
    if choice.get("prompt_token_ids") not in (None, request.ids.tolist()):
        raise ValueError("it has read another prompt")
    ids = choice["token_ids"]
    values = choice["logprobs"]["token_logprobs"]
    if not 0 < len(ids) == len(values) <= request.max_tokens:
        raise ValueError(f"{len(ids)} ids, {len(values)} log-probabilities")
    for token, value in zip(ids, values, strict=True):
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ValueError(f"id {token!r:.40} of {vocab_size}")
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"log-probability {value!r:.40}")

    is_finished = ids[-1] in stop_ids
    if any(token in stop_ids for token in ids[:-1]):
        raise ValueError("it goes on after a stop token")
    if not is_finished and len(ids) < request.max_tokens:
        raise ValueError(f"it ends after {len(ids)} tokens with {ids[-1]}, no stop token")
    return Sample(
        ids=np.array(ids, dtype=np.int32),
        log_probabilities=np.array(values, dtype=np.float32),
        is_finished=is_finished,
        weight_version=version,
    )
