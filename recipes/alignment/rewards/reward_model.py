"""A scalar reward model: on servers of vLLM, or in this process by transformers.

An address ends with ``/classify``, ``/score`` or ``/pooling``, as vLLM names them. The value of a
model with one output is taken as it comes: GRPO compares it within a group only. What the rules for
all domains refuse, such as an empty answer, is not asked for and gets less than any other.
"""

import asyncio
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recipes.alignment.rewards.answer import question_of, refuse
from recipes.alignment.rewards.functions import REWARD_MODEL
from recipes.alignment.rewards.reward import Outcome, Reward, infrastructure, unreadable
from recipes.common.errors import UserError
from recipes.common.servers import (
    KEY,
    RATE_LIMITED,
    TIMED_OUT,
    NotNow,
    api_key,
    check_url,
    error_words,
    shorten,
)
from recipes.runs.prompts import Prompt

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

CLASSIFY = "/classify"
SCORE = "/score"
POOLING = "/pooling"
_OPTION = "--reward-model"
_TRIES = 4
_FIRST_WAIT_SECONDS = 1.0
_TIMEOUT_SECONDS = 300.0
_BATCH = 16


_PROBE = Prompt("probe", "general chat", [{"role": "user", "content": "Hi."}], REWARD_MODEL)


class _Refused(Exception):
    """A server refuses a request, and would again; the argument says why."""


# what an answer without a number raises
_NO_NUMBER = (NotNow, _Refused, LookupError, TypeError, ValueError)


class RewardModel(Protocol):
    """Scores answers by a model."""

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order."""


def open_reward_model(where: str, model: str) -> RewardModel:
    """Return the reward model at an address or in a folder, after it was asked whether it is there.

    Args:
        where: addresses, joined by commas, or the folder of a model for sequence classification.
        model: its name on the servers; empty for a folder.

    Raises:
        UserError: an address is of another form, a server does not answer or serves another model,
            or the folder holds no model with one output.
    """
    if "://" in where:
        return RewardServers(where.split(","), model)
    return LocalRewardModel(Path(where))


# --- Servers


class RewardServers:
    """Servers of one reward model; requests are spread over them.

    Args:
        urls: addresses, all with the same ending.
        model: the model's name on each of them.
        in_flight: requests at a time, of all servers together.
        first_wait: seconds before the second try of a request; each further wait is twice as long.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        *,
        in_flight: int = 64,
        first_wait: float = _FIRST_WAIT_SECONDS,
    ) -> None:
        self._ending = ""
        for ending in (CLASSIFY, SCORE, POOLING):
            if urls[0].endswith(ending):
                self._ending = ending
        for url in urls:
            check_url(_OPTION, url, self._ending or CLASSIFY)
        self._urls = urls
        self._model = model
        self._in_flight = in_flight
        self._first_wait = first_wait
        asyncio.run(self._require_servers())

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order.

        A server that does not answer, or no finite number, makes the outcome ``infrastructure``.
        """
        return asyncio.run(self._score(pairs))

    async def _score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        slots = asyncio.Semaphore(self._in_flight)

        async def score_one(number: int, prompt: Prompt, answer: str) -> Reward:
            refused = refuse(answer, question_of(prompt))
            if refused:
                return refused
            async with slots:
                # another server at each try
                return await self._persist(session, number, self._body(prompt, answer))

        async with self._session() as session:
            tasks = [score_one(number, *pair) for number, pair in enumerate(pairs)]
            return _below_all(await asyncio.gather(*tasks))

    def _session(self) -> "aiohttp.ClientSession":
        # a third of a second, which nobody else pays
        import aiohttp

        headers = {"Content-Type": "application/json"}
        key = api_key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        return aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def _require_servers(self) -> None:
        """Raise UserError unless every server serves the model, and gives it a number."""
        async with self._session() as session:
            for url in self._urls:
                await self._require_model(session, url)
                try:
                    _value(await self._fetch(session, "POST", url, self._body(_PROBE, "Hello.")))
                except _NO_NUMBER as error:
                    raise UserError(
                        f"{_OPTION} {url}: gives no number for an answer of one word "
                        f"({shorten(str(error))}); serve a scalar reward model for chats"
                    ) from error

    async def _require_model(self, session: "aiohttp.ClientSession", url: str) -> None:
        base = url.removesuffix(self._ending).removesuffix("/v1")
        try:
            answer = await self._fetch(session, "GET", f"{base}/v1/models", None)
            names = [entry["id"] for entry in answer["data"]]
        except _NO_NUMBER as error:
            raise UserError(
                f"{_OPTION} {url}: its /v1/models gives no answer ({shorten(str(error))}); start "
                f"the server, or correct the address"
            ) from error
        if self._model not in names:
            raise UserError(
                f"{_OPTION} {url}: serves {', '.join(map(shorten, names))}, expected "
                f"{self._model!r}; name one of its models"
            )

    async def _persist(
        self, session: "aiohttp.ClientSession", number: int, body: dict[str, Any]
    ) -> Reward:
        wait = self._first_wait
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(wait)
                wait *= 2
            url = self._urls[(number + attempt) % len(self._urls)]
            try:
                return _reward(_value(await self._fetch(session, "POST", url, body)))
            # the others of its group are scored
            except _Refused as error:
                return unreadable(f"the reward model refuses it ({shorten(str(error))})")
            except _NO_NUMBER as error:
                reason = f"{url}: {shorten(str(error))}"
        log.warning("%s", reason)
        return infrastructure(reason)

    async def _fetch(
        self, session: "aiohttp.ClientSession", method: str, url: str, body: Any
    ) -> Any:
        """Return the JSON of an answer.

        Raises:
            NotNow: there is none, or an error's.
            _Refused: the server refuses this body, as one beyond its context.
            UserError: the key is refused.
        """
        import aiohttp

        try:
            # elsewhere the key would be another server's
            async with session.request(method, url, json=body, allow_redirects=False) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
            raise NotNow(f"{type(error).__name__} {error}") from error
        if response.status in (401, 403):
            raise UserError(f"{_OPTION} {url}: refuses the key; set {KEY}")
        if response.status in (400, 413, 422):
            raise _Refused(error_words(text))
        if response.status != 200:
            kind = "busy" if response.status in (RATE_LIMITED, TIMED_OUT) else "error"
            raise NotNow(f"{kind} {response.status}: {error_words(text)}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise NotNow("its answer is no JSON") from error

    def _body(self, prompt: Prompt, answer: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model}
        if self._ending == SCORE:
            asked = [str(message.get("content") or "") for message in prompt.messages]
            return body | {"text_1": "\n".join(asked), "text_2": answer}
        return body | {"messages": _with_answer(prompt, answer)}


def _value(answer: dict[str, Any]) -> float:
    """Return the number in an answer of any of the three addresses."""
    entry = answer["data"][0]
    if "score" in entry:
        return float(entry["score"])
    values = entry["probs"] if "probs" in entry else entry["data"]
    # a model that pools every token has a list of lists, and the answer ends with the last token
    while isinstance(values[-1], list):
        values = values[-1]
    if len(values) != 1:
        raise ValueError(f"it gives {len(values)} numbers, expected one of a scalar reward model")
    return float(values[0])


# --- In this process


class LocalRewardModel:
    """A model for sequence classification with one output, by transformers.

    Args:
        folder: model and tokenizer, in safetensors, with a chat template.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise UserError(f"{_OPTION} {folder}: holds no config.json, expected a model's folder")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            )
        # whatever transformers makes of files from elsewhere
        except Exception as error:
            words = " ".join(str(error).split())
            raise UserError(f"{_OPTION} {folder}: cannot be loaded ({words:.200})") from error
        outputs = self._model.config.num_labels
        if outputs != 1 or self._tokenizer.chat_template is None:
            raise UserError(
                f"{_OPTION} {folder}: has {outputs} outputs, expected one and a chat template; "
                f"name a scalar reward model for chats"
            )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device).eval()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.config.pad_token_id = self._tokenizer.pad_token_id

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Reward]:
        """Return the rewards of answers, in their order."""
        rewards: dict[int, Reward] = {}
        asked: list[int] = []
        for number, (prompt, answer) in enumerate(pairs):
            refused = refuse(answer, question_of(prompt))
            if refused:
                rewards[number] = refused
            else:
                asked.append(number)

        for start in range(0, len(asked), _BATCH):
            numbers = asked[start : start + _BATCH]
            texts = [self._text(*pairs[number]) for number in numbers]
            for number, value in zip(numbers, self._values(texts), strict=True):
                rewards[number] = _reward(value)
        return _below_all([rewards[number] for number in range(len(pairs))])

    def _text(self, prompt: Prompt, answer: str) -> str:
        return self._tokenizer.apply_chat_template(_with_answer(prompt, answer), tokenize=False)

    def _values(self, texts: list[str]) -> Iterable[float]:
        import torch

        batch = self._tokenizer(
            texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            logits = self._model(**batch.to(self._device)).logits
        return logits.float().squeeze(-1).tolist()


# --- Both


def _below_all(rewards: Sequence[Reward]) -> list[Reward]:
    """Return rewards with those of refused answers below all others: a value of 0 may be high."""
    values = [reward.value for reward in rewards if reward.outcome == Outcome.RIGHT]
    below = min(values, default=1.0) - 1
    refused = (Outcome.WRONG, Outcome.UNREADABLE)
    return [
        replace(reward, value=below) if reward.outcome in refused else reward for reward in rewards
    ]


def _with_answer(prompt: Prompt, answer: str) -> list[dict[str, Any]]:
    """Return the messages of a prompt and its answer."""
    return [*prompt.messages, {"role": "assistant", "content": answer}]


def _reward(value: float) -> Reward:
    if not math.isfinite(value):
        return infrastructure(f"the reward model gives {value}")
    return Reward(value, Outcome.RIGHT)
