"""Faults that are put into made-up conversations on purpose, each of which curation must find."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.conversations.made_up.tasks import DIGITS, LETTERS

Record = dict[str, Any]


def _wrong_answer(record: Record) -> None:
    reply = record["messages"][-1]
    letters = LETTERS if reply["content"] in LETTERS else DIGITS
    place = letters.index(reply["content"][-1])
    reply["content"] = letters[(place + 1) % len(letters)]


def _unknown_role(record: Record) -> None:
    record["messages"].insert(0, {"role": "narrator", "content": "Somebody asks."})


def _undeclared_tool(record: Record) -> None:
    function = {"name": "search", "arguments": {}}
    call = {"type": "function", "function": function}
    record["messages"][1] = {"role": "assistant", "content": "", "tool_calls": [call]}
    record["messages"][2:] = []


def _answer_in_prompt(record: Record) -> None:
    *_, question = [message for message in record["messages"] if message["role"] == "user"]
    answer = record["messages"][-1]["content"]
    question["content"] += f" Answer: {answer}"


_EDITS: dict[str, Callable[[Record], None]] = {
    "wrong answer": _wrong_answer,
    "unknown role": _unknown_role,
    "undeclared tool": _undeclared_tool,
    "answer in the prompt": _answer_in_prompt,
}
DUPLICATE = "duplicate"
FLAWS = (*_EDITS, DUPLICATE)


def with_flaw(flaw: str, record: Record, earlier: Sequence[Record], draw: random.Random) -> Record:
    """Return a record that has a flaw.

    Args:
        flaw: of :data:`FLAWS`.
        record: without one.
        earlier: records without a flaw, one of which a duplicate repeats.
        draw: chooses it.
    """
    if flaw == DUPLICATE:
        return copy.deepcopy(draw.choice(earlier))
    flawed = copy.deepcopy(record)
    _EDITS[flaw](flawed)
    return flawed
