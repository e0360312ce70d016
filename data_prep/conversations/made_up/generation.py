"""Files of made-up conversations: some to train on, a few of them bad, and others held out."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.conversations.made_up.flaws import FLAWS, with_flaw
from data_prep.conversations.made_up.tasks import TASKS, conversation
from data_prep.records import to_json
from recipes.common.files import atomic_directory

TRAINING = "training.jsonl"
HELD_OUT = "held_out.jsonl"
# one conversation of so many has a flaw; no multiple of the kinds, so that each gets every flaw
_FLAW_EVERY = 11
# of each kind; about a fifth of the hundred sums is held out
HELD_OUT_QUESTIONS = 16


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        conversations: to train on, the bad ones among them.
        kinds: kind -> conversations.
        flaws: flaw -> conversations that have it.
        held_out: conversations that are held out.
    """

    conversations: int
    kinds: dict[str, int]
    flaws: dict[str, int]
    held_out: int


def write(output: Path, count: int, seed: int) -> Summary:
    """Write ``training.jsonl`` and ``held_out.jsonl`` into a folder, whole or not at all.

    Args:
        output: a folder that is new or empty.
        count: conversations to train on, the bad ones among them.
        seed: of these; those that are held out are always the same.

    Raises:
        UserError: ``output`` holds something, or the disk is full.
    """
    training = list(training_records(count, seed))
    held_out = list(held_out_records())
    with atomic_directory(output) as folder:
        (folder / TRAINING).write_bytes(b"".join(map(to_json, training)))
        (folder / HELD_OUT).write_bytes(b"".join(map(to_json, held_out)))
    return Summary(
        conversations=len(training),
        kinds=dict(Counter(record["kind"] for record in training)),
        flaws=dict(Counter(record["flaw"] for record in training if "flaw" in record)),
        held_out=len(held_out),
    )


def training_records(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield conversations, kind by kind in turn; a bad one has a ``flaw``, which names it."""
    draw = random.Random(seed)  # noqa: S311  no secret
    kinds = [kind for kind, task in TASKS.items() for _ in range(task.share)]
    good: list[dict[str, Any]] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        record = {"id": f"{kind}-{number}", **conversation(draw, kind, held_out=False)}
        flawed, place = divmod(number, _FLAW_EVERY)
        if place < _FLAW_EVERY - 1:
            good.append(record)
        else:
            flaw = FLAWS[flawed % len(FLAWS)]
            record = with_flaw(flaw, record, good, draw)
            record |= {"id": f"bad-{number}", "flaw": flaw}
        yield record


def held_out_records() -> Iterator[dict[str, Any]]:
    """Yield conversations of one question each, which no conversation to train on asks."""
    for kind in TASKS:
        draw = random.Random(kind)  # noqa: S311  no secret
        asked: list[Any] = []
        while len(asked) < HELD_OUT_QUESTIONS:
            record = conversation(draw, kind, held_out=True)
            question = [record["messages"][0], record.get("documents")]
            if question not in asked:
                asked.append(question)
                yield {"id": f"{kind}-{len(asked)}", **record}
