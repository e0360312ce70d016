"""How often a model solves a prompt: what it always or never solves teaches GRPO nothing."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.conversations.judge.cache import Cache, cache_key, open_cache
from data_prep.conversations.judge.client import Budget, Client, Endpoint, Refused
from data_prep.conversations.judge.rubric import Sampling
from recipes.alignment.rewards.reward import Outcome
from recipes.alignment.rewards.workers import Workers
from recipes.runs.prompts import Prompt

log = logging.getLogger(__name__)

ANSWERS = "answers.sqlite"
ALWAYS = "the model always solves it"
NEVER = "the model never solves it"
REFUSED = "the model's server refuses it"
# prompts whose answers are in memory
_CHUNK = 256


@dataclass(frozen=True)
class Trial:
    """How prompts are tried.

    Attributes:
        endpoint: of the model, usually that of SFT.
        samples: answers to a prompt.
        sampling: of an answer; the temperature of the rollouts.
    """

    endpoint: Endpoint
    samples: int
    sampling: Sampling


def measure(prompts: Sequence[Prompt], trial: Trial, workers: Workers, folder: Path) -> list[str]:
    """Return why each prompt is left out, "" for those that the model sometimes solves.

    Answers are kept in ``answers.sqlite``, from which the same command continues.

    Raises:
        UserError: the server does not answer, or there is no space.
        RuntimeError: an answer cannot be scored.
    """
    reasons: list[str] = []
    with open_cache(folder, ANSWERS) as cache:
        for start in range(0, len(prompts), _CHUNK):
            some = prompts[start : start + _CHUNK]
            answers = asyncio.run(_sample(some, trial, cache))
            reasons += _judge(some, answers, workers)
            log.info("%s of %s prompts were tried", f"{len(reasons):,}", f"{len(prompts):,}")
    return reasons


def _judge(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[str | None]], workers: Workers
) -> list[str]:
    pairs = []
    for prompt, texts in zip(prompts, answers, strict=True):
        pairs += [(prompt, text) for text in texts if text is not None]
    rewards = iter(workers.score(pairs))
    reasons = []
    for texts in answers:
        scored = [next(rewards) for text in texts if text is not None]
        for reward in scored:
            if reward.outcome == Outcome.INFRASTRUCTURE:
                raise RuntimeError(f"an answer cannot be scored: {reward.reason}")
        right = sum(reward.outcome == Outcome.RIGHT for reward in scored)
        if not scored:
            reasons.append(REFUSED)
        elif right == len(scored):
            reasons.append(ALWAYS)
        else:
            reasons.append("" if right else NEVER)
    return reasons


async def _sample(prompts: Sequence[Prompt], trial: Trial, cache: Cache) -> list[list[str | None]]:
    """Return the answers to prompts; None where the server refuses one."""
    client = Client(trial.endpoint, trial.sampling, Budget())

    async def ask(prompt: Prompt, number: int) -> str | None:
        digest = hashlib.sha256(
            json.dumps([prompt.messages, prompt.tools, prompt.documents]).encode()
        ).hexdigest()
        key = cache_key(client.model, f"sample {number}", digest, trial.sampling)
        known = cache.get(key)
        if known is None:
            others = {name: getattr(prompt, name) for name in ("tools", "documents")}
            given = {name: value for name, value in others.items() if value}
            try:
                reply = await client.ask(prompt.messages, None, given)
            except Refused:
                return None
            known = {"text": reply.text}
            cache.put(key, known)
        return known["text"]

    async with client:
        tasks = [ask(prompt, number) for prompt in prompts for number in range(trial.samples)]
        # what is in flight is paid: it is waited for after an error
        found = await asyncio.gather(*tasks, return_exceptions=True)
    texts: list[str | None] = []
    for item in found:
        if isinstance(item, BaseException):
            raise item
        texts.append(item)
    return [texts[start : start + trial.samples] for start in range(0, len(texts), trial.samples)]
