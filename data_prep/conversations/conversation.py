"""A conversation as a record holds it: OpenAI's messages, with optional tools and documents."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

MESSAGES = "messages"
TOOLS = "tools"
DOCUMENTS = "documents"

SYSTEM = "system"
USER = "user"
ASSISTANT = "assistant"
TOOL = "tool"
ROLES = (SYSTEM, USER, ASSISTANT, TOOL)

# what a template may read of a message
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")


class BadConversation(Exception):
    """A record that is no conversation; the argument says why, half a sentence."""


@dataclass(frozen=True)
class Conversation:
    """A conversation that was checked.

    Attributes:
        messages: each with ``role`` and ``content`` (text); of an assistant ``tool_calls`` too,
            whose ``function`` has ``name`` and ``arguments`` (an object).
        tools: schemas, as the record has them.
        documents: objects, as the record has them.
        unread: key of a message that no template reads -> how many messages have it.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    documents: list[dict[str, Any]]
    unread: Counter[str]


def parse(record: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a record.

    Text that is a list of parts is joined by newlines; arguments in a string become an object.

    Raises:
        BadConversation: an unknown role, content that is no text, an order that makes no
            conversation, a call of a tool that was not declared, arguments that are no object.
    """
    conversation = read(record)
    check_order(conversation.messages)
    check_calls(conversation)
    return conversation


def read(record: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a record before :func:`check_order` and :func:`check_calls`.

    Raises:
        BadConversation: an unknown role, content that is no text, tools or documents that are no
            objects.
    """
    tools = _objects(record, TOOLS)
    documents = _objects(record, DOCUMENTS)
    raw = record.get(MESSAGES)
    if not isinstance(raw, list) or not raw:
        _refuse(
            f"field {MESSAGES!r} holds {_kind(raw)}, expected a list of messages; "
            f"repair or convert it"
        )

    messages = []
    unread = Counter[str]()
    for number, message in enumerate(raw, 1):
        messages.append(_message(message, f"message {number}"))
        unread.update(key for key in message if key not in _KEYS and message[key] is not None)
    return Conversation(messages, tools, documents, unread)


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that hold null.

    In parquet the objects of a column have all keys of each other, null where one has none.
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


# --- A message


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        _refuse(f"{where} is {_kind(message)}, expected an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        _refuse(
            f"{where} has the role {role!r:.60}, expected one of {', '.join(ROLES)}; rename it, "
            f"as templates drop what they do not know"
        )
    calls = message.get("tool_calls") or []
    if calls and role != ASSISTANT:
        _refuse(f"{where} is of the role {role} and has tool_calls; only the assistant calls tools")
    if not isinstance(calls, list):
        _refuse(f"{where} has tool_calls that are {_kind(calls)}, expected a list; repair it")
    content = _text(message.get("content"), where, allow_none=bool(calls))
    if role == ASSISTANT and not calls and not content.strip():
        _refuse(f"{where} is an assistant's without content or calls; leave the conversation out")

    clean = {"role": role, "content": content}
    for key in ("tool_call_id", "name"):
        if isinstance(message.get(key), str):
            clean[key] = message[key]
    if calls:
        clean["tool_calls"] = [_call(call, where) for call in calls]
    return clean


def _text(content: Any, where: str, allow_none: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and allow_none:
        return ""
    if not isinstance(content, list):
        _refuse(f"{where} has content that is {_kind(content)}, expected text or a list of parts")
    text = ""
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        if kind != "text" or not isinstance(part.get("text"), str):
            _refuse(f"{where} has a part of the type {kind!r:.60}, expected text; leave it out")
        # as Granite's template joins them: no newline before the first text
        if text:
            text += "\n"
        text += part["text"]
    return text


def _call(call: Any, where: str) -> dict[str, Any]:
    # some data has the function without the object around it
    function = call.get("function") or call if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        _refuse(f"{where} has a call without a function's name; repair it")
    clean: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": function.get("arguments")},
    }
    if isinstance(call.get("id"), str):
        clean["id"] = call["id"]
    return clean


# --- What messages make together


def check_order(messages: list[dict[str, Any]]) -> None:
    """Check that the messages can have been said one after the other, the assistant last.

    Raises:
        BadConversation: they cannot.
    """
    if messages[0]["role"] == ASSISTANT:
        _refuse("message 1 is the assistant's, expected what it answers before it")
    previous = messages[0]
    for number, message in enumerate(messages, 1):
        answers_call = previous["role"] == TOOL or "tool_calls" in previous
        if message["role"] == TOOL and (number == 1 or not answers_call):
            _refuse(f"message {number} is a tool's answer that no call comes before; repair it")
        previous = message
    if previous["role"] != ASSISTANT:
        _refuse(
            f"its last message is of the role {previous['role']}, expected the assistant's; "
            f"cut the conversation after its last reply"
        )


def check_calls(conversation: Conversation) -> None:
    """Check that each call is one of a declared tool; make its arguments an object.

    Raises:
        BadConversation: a tool without a name, a call of another tool, arguments that are no
            object.
    """
    names = {tool_name(tool, number) for number, tool in enumerate(conversation.tools, 1)}
    for number, message in enumerate(conversation.messages, 1):
        for call in message.get("tool_calls", ()):
            _check_call(call["function"], f"message {number}", names)


def _check_call(function: dict[str, Any], where: str, tool_names: set[str]) -> None:
    name = function["name"]
    if name not in tool_names:
        declared = ", ".join(sorted(tool_names)) or "none"
        _refuse(
            f"{where} calls {name!r:.60}, which is no tool that the conversation declares "
            f"({declared:.200}); declare it"
        )
    arguments = function["arguments"]
    if arguments is None:
        arguments = {}
    arguments = _parsed(arguments, f"{where} has a string of arguments of {name} that")
    if not isinstance(arguments, dict):
        _refuse(f"{where} has arguments of {name} that are {_kind(arguments)}, expected an object")
    function["arguments"] = arguments


# --- Tools, documents and values in strings


def _objects(record: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """Return the objects of a field that may be missing; data sets also write them as JSON."""
    values = _parsed(record.get(field) or [], f"field {field!r}") or []
    if not isinstance(values, list):
        _refuse(f"field {field!r} holds {_kind(values)}, expected a list; repair it")
    objects = [_parsed(value, f"field {field!r}") for value in values]
    for value in objects:
        if not isinstance(value, dict):
            _refuse(f"field {field!r} lists {_kind(value)}, expected objects; repair it")
    return objects


def tool_name(tool: dict[str, Any], number: int) -> str:
    """Return the name of a tool's schema, which is in an object ``function`` or not.

    Raises:
        BadConversation: it has none, or one that templates could not write between quotes.
    """
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    # templates put it between quotes as it is
    if not isinstance(name, str) or json.dumps(name, ensure_ascii=False) != f'"{name}"':
        _refuse(f"tool {number} has the name {name!r:.60}, expected text that needs no escape")
    return name


def _parsed(value: Any, what: str) -> Any:
    """Return a value, of a string the JSON in it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadConversation(f"{what} is no JSON ({error}); repair it") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list) and not value:
        return "an empty list"
    return type(value).__name__


def _refuse(reason: str) -> NoReturn:
    raise BadConversation(reason)
