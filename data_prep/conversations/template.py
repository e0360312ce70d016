"""A tokenizer's chat template: rendering, and where in the text the assistant's words are.

What is trained of an assistant's turn is its content, its calls and the end-of-text after them. Two
independent methods find that in the text: tags around it in a copy of the template, and the
difference between renderings of more and more messages.

transformers renders with the same settings of jinja2. It is not used here, as its import takes
seconds, and as it gives templates the day, on which no rendering may depend.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_prep.conversations.conversation import ASSISTANT, BadConversation, Conversation
from recipes.common.chat_template import read_chat_template, template_sha256
from recipes.common.errors import UserError

# in Granite's template: the branch of an assistant's message, and in it the header before the
# content, and the end of the turn
_BRANCH = re.compile(r"""if\s+\(?message(?:\.role|\['role'\])\s*==\s*'assistant'\)?\s*-?%}""")
_HEADER = re.compile(r"(<\|end_of_role\|>')\s*\+\s*")
_END = re.compile(r"('<\|end_of_text\|>)\\n'\s*-?}}")

# around what is trained while it is rendered; nobody can write them into a conversation beforehand
_START_MARK = secrets.token_hex(16)
_END_MARK = secrets.token_hex(16)
_MARKS = re.compile(f"({_START_MARK}|{_END_MARK})")

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendering:
    """A conversation as text.

    Attributes:
        text: what a model reads.
        spans: start and end of the characters that are trained, in order.
    """

    text: str
    spans: list[Span]


class ChatTemplate:
    """A chat template and the copy of it that has tags around what is trained.

    Attributes:
        name: the file, for messages.
        sha256: of the template, in hex.
    """

    def __init__(self, source: str, name: str, tokens: Mapping[str, str]) -> None:
        """Compile a template.

        Args:
            source: the template.
            name: the file, for messages.
            tokens: variables for special tokens, ``eos_token`` among them.

        Raises:
            UserError: it cannot be compiled, or has no place for the tags.
        """
        self.name = name
        self.sha256 = template_sha256(source)
        self._tokens = tokens
        environment = _environment()
        try:
            self._original = environment.from_string(source)
            self._tagged = environment.from_string(_with_tags(source, name))
        except TemplateError as error:
            raise UserError(
                f"{name}: is no template of jinja2 ({error}); fetch the tokenizer again"
            ) from error

    def render(self, conversation: Conversation) -> Rendering:
        """Return the conversation's text, and by the tags what is trained of it.

        Raises:
            BadConversation: it cannot be rendered.
        """
        return _without_marks(self._render(self._tagged, conversation, len(conversation.messages)))

    def render_by_prefixes(self, conversation: Conversation) -> Rendering:
        """Return what :meth:`render` does, by the template as it is.

        Of each assistant's turn, what follows the rendering of the messages before it, with the
        prompt to answer, is trained, up to the last end-of-text.

        Raises:
            BadConversation: it cannot be rendered, or the text of some messages is not the start
                of that of more.
        """
        end_of_text = self._tokens["eos_token"]
        text = self._text(conversation, len(conversation.messages))
        spans = []
        for index, message in enumerate(conversation.messages):
            if message["role"] != ASSISTANT:
                continue
            before = self._text(conversation, index, add_generation_prompt=True)
            after = text
            if index + 1 < len(conversation.messages):
                after = self._text(conversation, index + 1)
            last = after.rfind(end_of_text, len(before))
            if not (after.startswith(before) and text.startswith(after) and last >= 0):
                raise BadConversation(
                    f"message {index + 1} is rendered otherwise within the whole by {self.name}, "
                    f"so that what is trained cannot be told; use another template"
                )
            spans.append((len(before), last + len(end_of_text)))
        return Rendering(text, spans)

    def render_prompt(self, conversation: Conversation) -> str:
        """Return the conversation's text, up to where the assistant begins to answer it.

        Raises:
            BadConversation: it cannot be rendered.
        """
        count = len(conversation.messages)
        return self._text(conversation, count, add_generation_prompt=True)

    def _text(self, conversation: Conversation, count: int, **options: bool) -> str:
        """Return the text of the first ``count`` messages."""
        return _without_marks(self._render(self._original, conversation, count, **options)).text

    def _render(
        self, template: Any, conversation: Conversation, count: int, **options: bool
    ) -> str:
        try:
            return template.render(
                messages=conversation.messages[:count],
                tools=conversation.tools or None,
                documents=conversation.documents or None,
                **self._tokens,
                **options,
            )
        except Exception as error:  # a template from outside may fail in any way
            reason = str(error).splitlines() or [type(error).__name__]
            raise BadConversation(
                f"cannot be rendered by {self.name} ({reason[0][:100]}); repair one of the two"
            ) from error


def load_template(folder: Path, tokens: Mapping[str, str]) -> ChatTemplate:
    """Return the chat template of a tokenizer's folder.

    Args:
        tokens: of :func:`recipes.common.tokenizer_files.special_tokens`, ``eos_token`` among them.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    source, file = read_chat_template(folder)
    return ChatTemplate(source, str(file), tokens)


# --- The copy with tags


def _with_tags(source: str, name: str) -> str:
    """Return a template with ``{% generation %}`` tags, its own or in Granite's places.

    Raises:
        UserError: it has neither.
    """
    if re.search(r"{%-?\s*generation\b", source):
        return source
    branch = _BRANCH.search(source)
    if branch is None:
        raise _no_place(name)
    before = source[: branch.end()]
    rest, headers = _HEADER.subn(r"\1 }}{% generation %}{{- ", source[branch.end() :], count=1)
    rest, ends = _END.subn(r"\1' }}{% endgeneration %}{{- '\\n' }}", rest, count=1)
    if not (headers and ends):
        raise _no_place(name)
    return before + rest


def _no_place(name: str) -> UserError:
    return UserError(
        f"{name}: has no generation tags, and no assistant's turn of Granite's form that they "
        f"could be put into; add {{% generation %}} and {{% endgeneration %}} around what is "
        f"trained"
    )


class _Generation(Extension):
    """The tags that transformers knows; here they write marks around what is in them."""

    tags = {"generation"}  # noqa: RUF012  jinja2's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start = nodes.Output([nodes.TemplateData(_START_MARK)], lineno=line)
        end = nodes.Output([nodes.TemplateData(_END_MARK)], lineno=line)
        return [start, *body, end]


def _without_marks(text: str) -> Rendering:
    if _START_MARK not in text:
        return Rendering(text, [])
    pieces = []
    spans = []
    length = 0
    start = 0
    # the marks are every second piece
    for piece in _MARKS.split(text):
        if piece == _START_MARK:
            start = length
        elif piece == _END_MARK:
            spans.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return Rendering("".join(pieces), spans)


# --- jinja2, as transformers sets it up


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes the characters of HTML
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        # NaN is no JSON
        allow_nan=False,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
