"""A judge of made-up conversations: it knows the one right reply."""

import json
from typing import Any

from data_prep.conversations.judge.scripted_server import Asked
from data_prep.conversations.made_up.tasks import right_reply

_GOOD = 9
_BAD = 2


def judge_by_rule(asked: Asked) -> str:
    """Return a verdict that names a fault where a reply is not the right one."""
    messages = asked.sample["messages"]
    documents = asked.sample.get("documents", ())
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if _said(message) != _said(right_reply(messages[:number], documents)):
            # a reply beside the documents, or a computation that is wrong
            fault = "ungrounded" if "ungrounded" in asked.faults else "incorrect_computation"
            return json.dumps(asked.verdict(_BAD, **{fault: True}))
    return json.dumps(asked.verdict(_GOOD))


def _said(message: dict[str, Any] | None) -> Any:
    if message is None:
        return None
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"], calls
