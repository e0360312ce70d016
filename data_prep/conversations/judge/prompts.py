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

from data_prep.conversations.conversation import Conversation, parse
from data_prep.conversations.judge.rubric import Rubric
from data_prep.conversations.judge.verdict import faults_of, schema

# published: recipes/facts.yaml, sft.curation.judge.prompts_by_type
CATEGORIES = ("multi_turn", "rag", "tool_call", "multilingual")
_FOLDER = Path(__file__).with_name("instructions")
_VERSION = "v1"
# Ends of a line, and starts of what chat templates of some models have as control tokens, such as
# <|im_end|> and </s>: servers may read them as such anywhere in a prompt.
_CONTROL = re.compile(
    r"[\x85\u2028\u2029]|<(?=[|｜]|/?s>|(?:start|end)_of_turn>|bos>|eos>)|\[(?=/?INST\])"
)


@dataclass(frozen=True)
class Sample:
    """What the judge sees of a record: no labels, sources or hidden reasoning.

    Attributes:
        content: ``messages``, and ``tools`` and ``documents`` where there are some.
        category: of the prompt, one of :data:`CATEGORIES`.
    """

    content: dict[str, Any]
    category: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        text = json.dumps(self.content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def read_sample(record: Mapping[str, Any]) -> Sample:
    """Return what the judge sees of a record, and by which prompt.

    Raises:
        BadConversation: as :func:`parse`.
    """
    conversation = parse(record)
    content: dict[str, Any] = {"messages": conversation.messages}
    if conversation.tools:
        content["tools"] = conversation.tools
    if conversation.documents:
        content["documents"] = conversation.documents
    return Sample(content, category_of(conversation, record.get("language")))


def category_of(conversation: Conversation, language: Any) -> str:
    """Return the category of a conversation, one of :data:`CATEGORIES`.

    Documents come first, as grounding rejects; then calls of tools; then a ``language`` that is not
    English, or without one letters that mostly are no Latin ones.
    """
    if conversation.documents:
        return "rag"
    if conversation.tools:
        return "tool_call"
    if not _is_english(conversation, language):
        return "multilingual"
    return "multi_turn"


def _is_english(conversation: Conversation, language: Any) -> bool:
    """Whether a conversation is in English; without a ``language`` one in Latin letters is."""
    if isinstance(language, str) and language:
        return language.lower().split("-")[0] in ("en", "english")
    text = "".join(message["content"] for message in conversation.messages)
    if text.isascii():
        return True
    letters = list(filter(str.isalpha, text))
    # beyond the letters of European languages
    others = sum(letter > "ɏ" for letter in letters)
    return 2 * others <= len(letters)


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


def build_messages(prompt: Prompt, sample: Sample, token: str) -> list[dict[str, str]]:
    """Return the request for one sample.

    The sample is a single line of JSON, so that nothing in it can end it.

    Args:
        prompt: of its category.
        sample: the conversation.
        token: random, new in each request.
    """
    text = json.dumps(sample.content, ensure_ascii=False, default=str)
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
