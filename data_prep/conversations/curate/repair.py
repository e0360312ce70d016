"""Repairs of a record that cannot change what is trained on; each is named."""

from collections.abc import Callable
from typing import Any

from data_prep.conversations.conversation import ASSISTANT, SYSTEM, TOOL

# OpenAI's own other names of the roles
_ROLES = {"developer": SYSTEM, "function": TOOL}

Messages = list[dict[str, Any]]


def repair(messages: Messages) -> tuple[Messages, list[str]]:
    """Return the messages after every repair, and what was repaired."""
    changes: list[str] = []
    for mend in _REPAIRS:
        messages = mend(messages, changes)
    return messages, changes


def _rename_roles(messages: Messages, changes: list[str]) -> Messages:
    renamed = []
    for number, message in enumerate(messages, 1):
        role = message.get("role")
        # what is no text is for a later rule
        if isinstance(role, str) and role in _ROLES:
            name = _ROLES[role]
            message = {**message, "role": name}
            changes.append(f"message {number}: role {role} is now {name}")
        renamed.append(message)
    return renamed


def _move_function_calls(messages: Messages, changes: list[str]) -> Messages:
    """Write OpenAI's older ``function_call`` of an assistant as ``tool_calls``."""
    moved = []
    for number, message in enumerate(messages, 1):
        call = message.get("function_call")
        if isinstance(call, dict) and not message.get("tool_calls"):
            message = dict(message)
            del message["function_call"]
            message["tool_calls"] = [{"type": "function", "function": call}]
            changes.append(f"message {number}: function_call is now tool_calls")
        moved.append(message)
    return moved


def _remove_empty_system(messages: Messages, changes: list[str]) -> Messages:
    kept = []
    for number, message in enumerate(messages, 1):
        is_system = message.get("role") == SYSTEM
        if is_system and _is_blank(message):
            changes.append(f"message {number}: an empty system message is removed")
        else:
            kept.append(message)
    return kept


def _cut_after_last_reply(messages: Messages, changes: list[str]) -> Messages:
    """Remove what nothing answers: it has no token that is trained."""
    last = 0
    for number, message in enumerate(messages, 1):
        if message.get("role") != ASSISTANT:
            continue
        if message.get("tool_calls") or not _is_blank(message):
            last = number

    # without any reply there is nothing to keep
    if not last or last == len(messages):
        return messages
    changes.append(f"messages after number {last}, the last reply, are removed")
    return messages[:last]


def _is_blank(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        return not content.strip()
    return content is None


_REPAIRS: tuple[Callable[[Messages, list[str]], Messages], ...] = (
    _rename_roles,
    _move_function_calls,
    _remove_empty_system,
    _cut_after_last_reply,
)
