"""Requests to the judge: the prompt of a sample's category, and the sample as data within it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from data_prep.conversations.judge.rubric import Rubric
from data_prep.conversations.judge.verdict import faults_of, schema

# published: recipes/facts.yaml, sft.curation.judge.prompts_by_type
CATEGORIES = ("multi_turn", "rag", "tool_call", "multilingual")
_FOLDER = Path(__file__).with_name("prompts")
_VERSION = "v1"
# what the judge sees of a sample and of a message; labels, sources and hidden reasoning are not
_SEEN = ("messages", "tools", "documents")
_SEEN_OF_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "name")
# Ends of a line, and starts of what chat templates of some models have as control tokens, such as
# <|im_end|> and </s>: servers may read them as such anywhere in a prompt.
_CONTROL = re.compile(
    r"[\x85\u2028\u2029]|<(?=[|｜]|/?s>|(?:start|end)_of_turn>|bos>|eos>)|\[(?=/?INST\])"
)


class BadConversation(Exception):
    """A value that is no conversation with a reply to judge; the argument is half a sentence."""


@dataclass(frozen=True)
class Prompt:
    """What the judge of a category is told.

    Attributes:
        category: one of :data:`CATEGORIES`.
        system: the instructions.
    """

    category: str
    system: str

    @cached_property
    def version(self) -> str:
        """Identifies the instructions and the schema; another text has another version."""
        content = self.system + json.dumps(schema(self.category))
        digest = hashlib.sha256(content.encode()).hexdigest()
        return f"{self.category}.{_VERSION}:{digest[:16]}"


def build_prompt(category: str, rubric: Rubric, is_reversed: bool = False) -> Prompt:
    """Return the prompt of a category.

    Args:
        category: one of :data:`CATEGORIES`.
        rubric: its dimensions, in the order in which they are listed.
        is_reversed: list the dimensions from the last to the first.
    """
    frame = (_FOLDER / f"frame.{_VERSION}.md").read_text(encoding="utf-8")
    rules = (_FOLDER / f"{category}.{_VERSION}.md").read_text(encoding="utf-8")
    questions = {name: dimension.asks for name, dimension in rubric.dimensions.items()}
    if is_reversed:
        questions = dict(reversed(questions.items()))
    faults = faults_of(category)
    system = Template(frame).substitute(
        category=rules.strip(),
        dimensions=_listed(questions),
        dimension_names=_quoted(questions),
        faults=_listed(faults),
        fault_names=_quoted(faults),
    )
    return Prompt(category, system)


def _listed(questions: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {question}" for name, question in questions.items())


def _quoted(names: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def build_messages(prompt: Prompt, sample: Mapping[str, Any], token: str) -> list[dict[str, str]]:
    """Return the request for one sample.

    The sample is a single line of JSON, so that nothing in it can end it.

    Args:
        prompt: of its category.
        sample: of :func:`seen`.
        token: random, new in each request.
    """
    text = json.dumps(sample, ensure_ascii=False, default=str)
    # half of a surrogate pair becomes an escape, which is JSON too
    text = text.encode("utf-8", "backslashreplace").decode()
    text = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    content = (
        f"BEGIN {token}\n{text}\nEND {token}\n\n"
        f"Judge the assistant's replies in this sample. Answer with the JSON object only; its "
        f'"token" is "{token}".'
    )
    return [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": content},
    ]


def seen(conversation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the judge sees of a conversation.

    Raises:
        BadConversation: it has no list of messages with roles, or none is the assistant's.
    """
    messages = conversation.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadConversation("holds no list under 'messages', expected a conversation")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadConversation("holds a message without a role")
    if all(message["role"] != "assistant" for message in messages):
        raise BadConversation("holds no message of the role 'assistant', which is what is judged")

    sample = {name: conversation[name] for name in _SEEN if conversation.get(name)}
    sample["messages"] = [_keep(message, _SEEN_OF_MESSAGE) for message in messages]
    return sample


def _keep(message: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: message[name] for name in names if message.get(name) is not None}


def category_of(conversation: Mapping[str, Any]) -> str:
    """Return the category by which a conversation is judged.

    Documents come first, as grounding rejects; then calls of tools; then a ``language`` that is not
    English, or without one letters that mostly are no Latin ones.
    """
    if conversation.get("documents"):
        return "rag"
    messages = conversation["messages"]
    if conversation.get("tools") or any(message.get("tool_calls") for message in messages):
        return "tool_call"
    language = conversation.get("language")
    if isinstance(language, str) and language:
        is_english = language.lower().split("-")[0] in ("en", "english")
        return "multi_turn" if is_english else "multilingual"
    contents = [message.get("content") for message in messages]
    text = "".join(content for content in contents if isinstance(content, str))
    if text.isascii():
        return "multi_turn"
    letters = list(filter(str.isalpha, text))
    # beyond the letters of European languages
    others = sum(letter > "ɏ" for letter in letters)
    return "multilingual" if 2 * others > len(letters) else "multi_turn"


def sample_hash(sample: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what the judge sees of a conversation."""
    text = json.dumps(sample, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
