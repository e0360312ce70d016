"""Rules: each looks at one conversation, and leaves it, changes it or drops it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import orjson

from data_prep.conversations.conversation import (
    ASSISTANT,
    DOCUMENTS,
    MESSAGES,
    TOOL,
    TOOLS,
    BadConversation,
    Conversation,
    check_calls,
    check_order,
    read,
    tool_name,
)
from data_prep.conversations.curate import leakage
from data_prep.conversations.curate.repair import repair
from data_prep.conversations.curate.text import is_cut_off, normalize
from data_prep.conversations.curate.tool_schemas import BadSchema, find_mistake
from data_prep.conversations.judge.prompts import category_of
from data_prep.quality.contamination import NGRAM_WORDS, Index
from data_prep.records import BadRow
from recipes.runs.curated_folder import MOST_CHARACTERS

UNREADABLE = "unreadable"
_EMPTY = Conversation([], [], [], Counter())
PASSED = "passed"


@dataclass(frozen=True)
class RuleSettings:
    """What the rules depend on.

    Attributes:
        min_reply_characters: of every reply without a call, without white space at its ends.
        max_characters: of all messages and documents together.
        decontaminate: specs of evaluation texts, see :func:`contamination.build`.
        ngram_words: words of the n-grams that a conversation must not share with them.
    """

    min_reply_characters: int = 1
    max_characters: int = MOST_CHARACTERS
    decontaminate: tuple[str, ...] = ()
    ngram_words: int = NGRAM_WORDS


@dataclass
class Draft:
    """A conversation on its way through the rules.

    Attributes:
        record: the fields, as they were read.
        settings: of the rules.
        index: n-grams of evaluation texts; None without any.
        conversation: empty until ``form`` has read it.
    """

    record: dict[str, Any]
    settings: RuleSettings
    index: Index | None
    conversation: Conversation = _EMPTY


Changes = list[str]
Rule = Callable[[Draft], Changes]
"""Returns what it changed, and raises :class:`BadConversation` to drop the conversation."""


@dataclass(frozen=True)
class Screened:
    """A conversation after the rules.

    Attributes:
        steps: rule -> what it did, of those that saw it: ``passed``, or ``changed: `` or
            ``dropped: `` and a reason.
        category: of the judge's prompts; ``unreadable`` before there is a conversation.
        record: the curated record; None where a rule drops it.
        conversation: in it; None where there is none.
    """

    steps: dict[str, str]
    category: str
    record: dict[str, Any] | None
    conversation: Conversation | None = None

    @property
    def dropped_by(self) -> str | None:
        """The rule that drops it."""
        return None if self.record is not None else list(self.steps)[-1]


def screen(
    row: Mapping[str, Any] | BadRow, settings: RuleSettings, index: Index | None = None
) -> Screened:
    """Pass a record through the rules, up to the first that drops it.

    Args:
        row: a record, or what could not be read as one.
        settings: of the rules.
        index: of the evaluation texts that the settings name.
    """
    if isinstance(row, BadRow):
        reason = f"dropped: {row.reason}"
        return Screened({"record": reason}, UNREADABLE, None)

    draft = Draft(dict(row), settings, index)
    category = UNREADABLE
    steps = {"record": PASSED}
    for name, rule in RULES.items():
        try:
            changes = rule(draft)
        except BadConversation as error:
            steps[name] = f"dropped: {error}"
            return Screened(steps, category, None)

        steps[name] = PASSED
        if changes:
            steps[name] = f"changed: {'; '.join(changes)}"
        # as soon as there is a conversation
        if category == UNREADABLE and draft.conversation.messages:
            category = category_of(draft.conversation, draft.record.get("language"))
    return Screened(steps, category, _record(draft), draft.conversation)


def _record(draft: Draft) -> dict[str, Any]:
    """Return the record of a conversation, with the fields that no rule knows."""
    record = dict(draft.record)
    conversation = draft.conversation
    record[MESSAGES] = conversation.messages
    # left out where there are none, as an empty list says the same
    for name in (TOOLS, DOCUMENTS):
        record.pop(name, None)
    if conversation.tools:
        record[TOOLS] = conversation.tools
    if conversation.documents:
        record[DOCUMENTS] = conversation.documents
    return record


def identity(conversation: Conversation) -> bytes:
    """Return what is equal in equal conversations: all that a template may render.

    The ids of calls are left out, which templates do not render.
    """
    content = [
        [_without_ids(message) for message in conversation.messages],
        conversation.tools,
        conversation.documents,
    ]
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # integers beyond 64 bits, or half of a surrogate pair
        return json.dumps(content, sort_keys=True, default=str).encode()


def _without_ids(message: dict[str, Any]) -> list[Any]:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return [message["role"], message["content"], calls]


# --- The rules


def _repair(draft: Draft) -> Changes:
    messages = draft.record.get(MESSAGES)
    # what is no list of objects is for the next rule
    if not isinstance(messages, list):
        return []
    if not all(isinstance(message, dict) for message in messages):
        return []
    draft.record[MESSAGES], changes = repair(messages)
    return changes


def _form(draft: Draft) -> Changes:
    conversation = read(draft.record)
    draft.conversation = conversation
    changes = [f"field {key!r} of messages is left out" for key in conversation.unread]

    # what has another form than in the record
    pairs = zip(draft.record[MESSAGES], conversation.messages, strict=True)
    for number, (before, after) in enumerate(pairs, 1):
        if isinstance(before.get("content"), list):
            changes.append(f"message {number}: parts are now one text")
        for call in after.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str):
                changes.append(f"message {number}: arguments are now an object")
    for name in (TOOLS, DOCUMENTS):
        if isinstance(draft.record.get(name), str):
            changes.append(f"{name} are now a list")
    return changes


def _roles(draft: Draft) -> Changes:
    messages = draft.conversation.messages
    check_order(messages)
    calls: list[dict[str, Any]] = []
    for number, (previous, message) in enumerate(pairwise(messages), 2):
        role = message["role"]
        if role == ASSISTANT == previous["role"]:
            raise BadConversation(f"messages {number - 1} and {number} are both the assistant's")
        if "tool_calls" in previous:
            calls = list(previous["tool_calls"])
            if role != TOOL:
                raise BadConversation(f"message {number} comes where a tool has to answer")
        if role == TOOL:
            _take_answered(calls, message, number)
    return []


def _take_answered(calls: list[dict[str, Any]], answer: dict[str, Any], number: int) -> None:
    """Remove the call that a tool answers: by its id, or without one the first."""
    ids = [call.get("id") for call in calls]
    wanted = answer.get("tool_call_id")
    if wanted in ids:
        del calls[ids.index(wanted)]
    elif not calls or (wanted and any(ids)):
        raise BadConversation(f"message {number} answers a call that nobody made")
    else:
        del calls[0]


def _tool_calls(draft: Draft) -> Changes:
    conversation = draft.conversation
    check_calls(conversation)
    parameters = {}
    for number, tool in enumerate(conversation.tools, 1):
        name = tool_name(tool, number)
        function = tool.get("function", tool)
        parameters[name] = function.get("parameters")

    for number, message in enumerate(conversation.messages, 1):
        for call in message.get("tool_calls", ()):
            function = call["function"]
            _check_arguments(function, parameters, number)
    return []


def _check_arguments(function: dict[str, Any], parameters: dict[str, Any], number: int) -> None:
    name = function["name"]
    try:
        mistake = find_mistake(parameters[name], function["arguments"])
    except BadSchema as error:
        raise BadConversation(f"the parameters of {name} {error}") from error
    if mistake:
        raise BadConversation(f"message {number} calls {name} with wrong arguments: {mistake}")


def _normalization(draft: Draft) -> Changes:
    """Normalize what people read; tools' schemas, calls and answers are left as they are."""
    changes = []
    messages = []
    for number, message in enumerate(draft.conversation.messages, 1):
        content = message["content"]
        clean = content
        if message["role"] != TOOL:
            clean = normalize(content)
        if clean != content:
            if message["role"] == ASSISTANT and content.strip() and not clean.strip():
                raise BadConversation(f"message {number} holds nothing but control characters")
            message = {**message, "content": clean}
            changes.append(f"message {number}")
        messages.append(message)

    documents = []
    for number, document in enumerate(draft.conversation.documents, 1):
        normalized = _normalized(document)
        if normalized != document:
            changes.append(f"document {number}")
        documents.append(normalized)

    if changes:
        draft.conversation = replace(draft.conversation, messages=messages, documents=documents)
    return changes


def _normalized(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its texts normalized."""
    fields = {}
    for key, value in document.items():
        if isinstance(value, str):
            value = normalize(value)
        fields[key] = value
    return fields


def _lengths(draft: Draft) -> Changes:
    settings = draft.settings
    for number, message in enumerate(draft.conversation.messages, 1):
        if message["role"] != ASSISTANT:
            continue
        content = message["content"].strip()
        # a call may stand alone
        if len(content) < settings.min_reply_characters and "tool_calls" not in message:
            raise BadConversation(
                f"message {number} has {len(content):,} characters, expected at least "
                f"{settings.min_reply_characters:,}"
            )
        if is_cut_off(content):
            raise BadConversation(f"message {number} ends within a block of code")

    characters = len(leakage.all_text(draft.conversation))
    if characters > settings.max_characters:
        raise BadConversation(
            f"has {characters:,} characters, expected at most {settings.max_characters:,}"
        )
    return []


def _own_answer(draft: Draft) -> Changes:
    found = leakage.find_own_answer(draft.conversation)
    if found:
        raise BadConversation(found)
    return []


def _contamination(draft: Draft) -> Changes:
    if draft.index is None:
        return []
    text = leakage.all_text(draft.conversation)
    found = draft.index.find(text)
    if found:
        ngram, suite = found
        raise BadConversation(f"shares {ngram!r:.200} with {suite}")
    return []


RULES: dict[str, Rule] = {
    "repair": _repair,
    "form": _form,
    "roles": _roles,
    "tool_calls": _tool_calls,
    # before what takes longer the longer a text is
    "lengths": _lengths,
    "normalization": _normalization,
    "own_answer": _own_answer,
    "contamination": _contamination,
}
"""Name -> rule, in the order in which they see a conversation."""
DUPLICATES = "duplicates"
JUDGE = "judge"
STEPS = ("record", *RULES, DUPLICATES, JUDGE)
