"""The tasks of made-up conversations: questions from a generator, and the one right reply by rule.

They are as small as a model of 300K parameters can learn within a minute: digits, and the first ten
letters.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LETTERS = "abcdefghij"
DIGITS = "0123456789"
# of what can be asked, one part of so many is held out
HELD_OUT_PARTS = 5

PRICE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "price",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string"}},
            "required": ["item"],
        },
    },
}

Message = dict[str, Any]
Documents = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A kind of task.

    Attributes:
        ask: yields questions, each in the light of the conversation's documents.
        share: of the conversations, in twelfths; a short one has more to learn in each token.
        most_turns: questions in a conversation.
        write_documents: returns the documents; None where there are none.
        tools: declared to the assistant.
    """

    ask: Callable[[random.Random, Documents], Iterator[str]]
    share: int
    most_turns: int
    write_documents: Callable[[random.Random], list[dict[str, Any]]] | None = None
    tools: tuple[dict[str, Any], ...] = ()


def _ask_sums(draw: random.Random, documents: Documents) -> Iterator[str]:
    while True:
        yield f"What is {draw.choice(DIGITS)} + {draw.choice(DIGITS)}?"


def _ask_letters(draw: random.Random, documents: Documents) -> Iterator[str]:
    while True:
        place = draw.choice(("first", "last"))
        yield f"What is the {place} letter of {' '.join(draw.sample(LETTERS, 3))}?"


def _write_box(draw: random.Random) -> list[dict[str, Any]]:
    balls = draw.choice(DIGITS)
    owner = draw.choice(LETTERS)
    return [{"text": f"The box holds {balls} balls. It belongs to {owner}."}]


def _ask_of_box(draw: random.Random, documents: Documents) -> Iterator[str]:
    yield from draw.sample(("How many balls does it hold?", "Who does it belong to?"), 2)


def _ask_prices(draw: random.Random, documents: Documents) -> Iterator[str]:
    while True:
        yield f"What does item {draw.choice(LETTERS)}{draw.choice(DIGITS)} cost?"


TASKS = {
    "arithmetic": Task(_ask_sums, share=4, most_turns=10),
    "string": Task(_ask_letters, share=5, most_turns=10),
    "look_up": Task(_ask_of_box, share=2, most_turns=2, write_documents=_write_box),
    "tool_call": Task(_ask_prices, share=1, most_turns=8, tools=(PRICE,)),
}


# --- The right reply


def right_reply(messages: Sequence[Message], documents: Documents = ()) -> Message | None:
    """Return what the assistant has to say next, or None where no task asks for anything.

    Args:
        messages: so far; the last one is of the user or of a tool.
        documents: of the conversation.
    """
    last = messages[-1]
    if last["role"] == "tool":
        return _say(last["content"])
    for pattern, answer in _ANSWERS.items():
        match = re.fullmatch(pattern, last["content"])
        if match:
            return answer(match, documents)
    return None


def _say(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _add(match: re.Match[str], documents: Documents) -> Message:
    return _say(str(int(match[1]) + int(match[2])))


def _first_letter(match: re.Match[str], documents: Documents) -> Message:
    return _say(match[1][0])


def _last_letter(match: re.Match[str], documents: Documents) -> Message:
    return _say(match[1][-1])


def _balls(match: re.Match[str], documents: Documents) -> Message | None:
    return _read(r"holds (\d) balls", documents)


def _owner(match: re.Match[str], documents: Documents) -> Message | None:
    return _read(r"belongs to (\w)\.", documents)


def _read(pattern: str, documents: Documents) -> Message | None:
    for document in documents:
        found = re.search(pattern, str(document.get("text")))
        if found:
            return _say(found[1])
    return None


def _call(match: re.Match[str], documents: Documents) -> Message:
    function = {"name": "price", "arguments": {"item": match[1]}}
    return {**_say(""), "tool_calls": [{"type": "function", "function": function}]}


# form of a question -> the reply to it
_ANSWERS: dict[str, Callable[[re.Match[str], Documents], Message | None]] = {
    r"What is (\d) \+ (\d)\?": _add,
    r"What is the first letter of (\w \w \w)\?": _first_letter,
    r"What is the last letter of (\w \w \w)\?": _last_letter,
    r"How many balls does it hold\?": _balls,
    r"Who does it belong to\?": _owner,
    r"What does item (\w\d) cost\?": _call,
}


def is_held_out(question: str, documents: Documents) -> bool:
    """Whether a question about these documents is one that no conversation to train on asks."""
    content = f"{question} {documents}"
    return hashlib.sha256(content.encode()).digest()[0] % HELD_OUT_PARTS == 0


# --- Conversations


def conversation(draw: random.Random, kind: str, held_out: bool) -> dict[str, Any]:
    """Return a record with ``kind``, ``messages`` and perhaps ``tools`` and ``documents``.

    Its questions are either all held out, or none of them is.

    Args:
        draw: gives the conversation its contents and its length.
        kind: of :data:`TASKS`.
        held_out: which part the questions are of; of the one that is held out there is one.
    """
    task = TASKS[kind]
    turns = 1 if held_out else draw.randint(1, task.most_turns)
    messages: list[Message] = []
    documents: list[dict[str, Any]] = []
    # the documents may have no question of the part
    while not messages:
        if task.write_documents:
            documents = task.write_documents(draw)
        for turn in itertools.islice(_turns(draw, task, documents, held_out), turns):
            messages += turn
    record: dict[str, Any] = {"kind": kind, "messages": messages}
    if task.tools:
        record["tools"] = list(task.tools)
    if documents:
        record["documents"] = documents
    return record


def _turns(
    draw: random.Random, task: Task, documents: Documents, held_out: bool
) -> Iterator[list[Message]]:
    """Yield questions of a part, each with the messages that answer it."""
    for question in task.ask(draw, documents):
        if is_held_out(question, documents) != held_out:
            continue
        turn = [{"role": "user", "content": question}]
        while reply := right_reply(turn, documents):
            turn.append(reply)
            if "tool_calls" in reply:
                turn.append({"role": "tool", "content": draw.choice(DIGITS)})
        yield turn
