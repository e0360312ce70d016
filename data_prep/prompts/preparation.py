"""Preparing a folder of prompts: what cannot be used or teaches nothing is left out."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.conversations.conversation import BadConversation, parse
from data_prep.prompts.difficulty import Trial, measure
from data_prep.prompts.sources import Source
from data_prep.quality import contamination
from data_prep.records import BadRow, to_json
from recipes.alignment.rewards.answer import role_token
from recipes.alignment.rewards.functions import REWARD_MODEL, require_known
from recipes.alignment.rewards.workers import Workers
from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.runs.prompts import (
    MANIFEST,
    Prompt,
    PromptManifest,
    PromptSource,
    write_prompts,
)

LEFT_OUT = "left_out.jsonl"
BAD_RECORD = "no prompt"
BAD_GOLD = "its gold answer cannot be used"
DUPLICATE = "another prompt asks the same"
CONTAMINATED = "an evaluation text shares words with it"
ROLE_TOKEN = "it spells out a special token"  # noqa: S105  no password
# candidates that workers check at a time
_CHUNK = 512


@dataclass(frozen=True)
class Settings:
    """What decides, besides the sources, which prompts are in a folder.

    Attributes:
        seed: of generators and of the order in which sources are drawn from.
        is_easy: generators make up what a model of size tiny can learn.
        decontaminate: specs of evaluation texts, see :func:`contamination.build`.
        ngram_words: that a prompt must not share with them, in a row.
        trial: how often a model solves a prompt; None to keep prompts of any difficulty.
    """

    seed: int = 1234
    is_easy: bool = False
    decontaminate: tuple[str, ...] = ()
    ngram_words: int = contamination.NGRAM_WORDS
    trial: Trial | None = None


@dataclass
class _Sieve:
    """Leaves prompts out.

    Attributes:
        settings: of the folder.
        workers: check gold answers.
        index: of evaluation texts.
        seen: what was asked already.
        ids: of the prompts that were.
        left_out: a line for each prompt or record that was left out.
    """

    settings: Settings
    workers: Workers
    index: contamination.Index | None
    seen: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    left_out: list[dict[str, Any]] = field(default_factory=list)

    def leave_out(self, source: str, prompt: str, reason: str, detail: str) -> None:
        """Note a prompt or a record that is not in the folder."""
        line = {"source": source, "prompt": prompt, "reason": reason, "detail": detail}
        self.left_out.append(line)

    def counts(self, source: str) -> dict[str, int]:
        """Return reason -> prompts of a source that were left out."""
        reasons = [line["reason"] for line in self.left_out if line["source"] == source]
        return dict(Counter(reasons))


def prepare(
    sources: Sequence[Source], output: Path, settings: Settings, workers: int
) -> PromptManifest:
    """Write ``prompts.jsonl``, ``left_out.jsonl`` and ``manifest.json``.

    A run that was interrupted while a model was asked continues with the answers that it has.

    Args:
        sources: in the order of the folder.
        output: a folder without a manifest.
        settings: see :class:`Settings`.
        workers: processes; they change nothing in the output.

    Raises:
        UserError: a source, an evaluation text or the server cannot be read, a reward is unknown,
            no prompt is left, or ``output`` has prompts already.
    """
    if (output / MANIFEST).exists():
        raise UserError(f"{output}: holds prompts already; remove it or name another --output")
    names = [source.name for source in sources]
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"--source {name}: is named {times} times; name it once")
    index = None
    if settings.decontaminate:
        index, _ = contamination.build(settings.decontaminate, settings.ngram_words)

    kept: dict[str, list[Prompt]] = {}
    with Workers(workers) as processes:
        sieve = _Sieve(settings, processes, index)
        for source in sources:
            kept[source.name] = list(islice(_usable(source, sieve), source.count))
        if settings.trial:
            for name, prompts in kept.items():
                kept[name] = _sometimes_solved(name, prompts, sieve, settings.trial, output)

    if not any(kept.values()):
        counts = Counter(line["reason"] for line in sieve.left_out)
        words = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        raise UserError(f"{output}: no prompt is left ({words or 'there is none'}); name others")
    licenses = {source.name: source.license for source in sources}
    described = {}
    for name, prompts in kept.items():
        described[name] = PromptSource(len(prompts), licenses[name], sieve.counts(name))
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / LEFT_OUT) as temporary:
        temporary.write_bytes(b"".join(map(to_json, sieve.left_out)))
    every = (prompt for prompts in kept.values() for prompt in prompts)
    return write_prompts(output, every, described, settings.seed)


def _usable(source: Source, sieve: _Sieve) -> Iterator[Prompt]:
    """Yield the prompts of a source whose gold answers can be used."""
    candidates = _new(source, sieve)
    while some := list(islice(candidates, _CHUNK)):
        require_known({prompt.reward for prompt in some}, source.name)
        reasons = sieve.workers.check(some)
        for prompt, reason in zip(some, reasons, strict=True):
            if reason:
                sieve.leave_out(source.name, prompt.id, BAD_GOLD, reason)
            else:
                yield prompt


def _new(source: Source, sieve: _Sieve) -> Iterator[Prompt]:
    """Yield the prompts of a source that are prompts, new, and no evaluation text."""
    settings = sieve.settings
    for number, prompt in enumerate(source.read(settings.seed, settings.is_easy), 1):
        if isinstance(prompt, BadRow):
            sieve.leave_out(source.name, f"record {number}", BAD_RECORD, prompt.reason)
            continue
        reason, detail = _fault(prompt, sieve)
        if reason:
            sieve.leave_out(source.name, prompt.id, reason, detail)
            continue
        yield prompt


def _fault(prompt: Prompt, sieve: _Sieve) -> tuple[str, str]:
    """Return why a prompt is left out, and the detail; two empty strings for one that is kept."""
    record = {"messages": prompt.messages, "tools": prompt.tools, "documents": prompt.documents}
    # a conversation ends with an answer, which a prompt waits for
    answered = [*prompt.messages, {"role": "assistant", "content": "."}]
    try:
        parse(record | {"messages": answered})
    except BadConversation as error:
        return BAD_RECORD, str(error)
    if prompt.messages[-1].get("role") == "assistant":
        return BAD_RECORD, "its last message is the assistant's"
    if prompt.id in sieve.ids:
        return BAD_RECORD, "another prompt has its id"
    content = json.dumps(record, sort_keys=True, ensure_ascii=False)
    token = role_token(content)
    if token:
        return ROLE_TOKEN, token
    if content in sieve.seen:
        return DUPLICATE, ""
    sieve.seen.add(content)
    sieve.ids.add(prompt.id)
    if sieve.index:
        texts = [str(message.get("content") or "") for message in prompt.messages]
        texts += [str(document.get("text") or "") for document in prompt.documents]
        hit = sieve.index.find("\n".join(texts))
        if hit:
            return CONTAMINATED, f"{hit[1]}: {hit[0]}"
    return "", ""


def _sometimes_solved(
    name: str, prompts: list[Prompt], sieve: _Sieve, trial: Trial, output: Path
) -> list[Prompt]:
    """Return the prompts of which a model solves some samples, and those that a model judges."""
    tried = [prompt for prompt in prompts if prompt.reward != REWARD_MODEL]
    reasons = measure(tried, trial, sieve.workers, output)
    too_easy_or_hard = set()
    for prompt, reason in zip(tried, reasons, strict=True):
        if reason:
            too_easy_or_hard.add(prompt.id)
            sieve.leave_out(name, prompt.id, reason, "")
    return [prompt for prompt in prompts if prompt.id not in too_easy_or_hard]
