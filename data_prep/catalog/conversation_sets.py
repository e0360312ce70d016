"""Public conversation sets (``conversations.yaml``), and how their rows become conversations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.common.json_files import parse_record

_FILE = "conversations.yaml"
# of xLAM's tools, whose parameters have types of Python
_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


class BadRow(Exception):
    """A row that its columns make no conversation of; the argument says why, half a sentence."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns, as the head of ``conversations.yaml`` explains them."""

    messages: str | None = None
    user: str | None = None
    assistant: str | None = None
    calls: str | None = None
    document: str | None = None
    tools: str | None = None
    python_types: bool = False
    language: str | None = None

    def __str__(self) -> str:
        names = {
            name: column
            for name, column in vars(self).items()
            if isinstance(column, str) and column != name
        }
        return ", ".join(f"{column} is {name}" for name, column in names.items()) or "as they are"


@dataclass(frozen=True)
class ConversationSet:
    """A set; its attributes are the keys of ``conversations.yaml``."""

    id: str
    dataset: str
    license: str
    samples: int
    percent: float
    why: str
    columns: Columns
    checked: str
    configuration: str = ""
    split: str = "train"
    ibm: bool = False
    note: str | None = field(default=None)

    @property
    def input(self) -> str:
        """What ``--input`` takes to read the whole set."""
        return f"hf:{self.dataset}:{self.configuration}:{self.split}"


@cache
def load_sets() -> Mapping[str, ConversationSet]:
    """Return the sets by id."""
    import yaml

    text = (resources.files(__package__) / _FILE).read_text(encoding="utf-8")
    sets = {}
    for name, values in yaml.safe_load(text).items():
        sets[name] = parse_record(ConversationSet, {"id": name, **values}, _FILE, "correct it")
    return sets


def get_set(name: str) -> ConversationSet:
    """Return a set.

    Raises:
        UserError: there is none of this name.
    """
    sets = load_sets()
    if name not in sets:
        raise UserError(
            f"{name}: no such set{nearest(name, sets)}; `granite41 data conversations` lists them"
        )
    return sets[name]


def to_record(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Return a row as a record of :mod:`data_prep.conversations.conversation`.

    Raises:
        BadRow: a column is missing, or holds no JSON where it should.
    """
    record: dict[str, Any] = {"messages": _messages(row, columns)}
    if columns.document:
        record["documents"] = [{"text": _get(row, columns.document)}]
    if columns.tools:
        tools = _parsed(row, columns.tools)
        if columns.python_types:
            tools = [_with_json_schema(tool) for tool in tools]
        record["tools"] = tools
    if columns.language:
        record["language"] = _get(row, columns.language)
    return record


def _messages(row: Mapping[str, Any], columns: Columns) -> Any:
    if columns.messages:
        return _get(row, columns.messages)
    reply: dict[str, Any] = {"role": "assistant", "content": ""}
    if columns.calls:
        calls = _parsed(row, columns.calls)
        reply["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    else:
        reply["content"] = _get(row, str(columns.assistant))
    return [{"role": "user", "content": _get(row, str(columns.user))}, reply]


def _get(row: Mapping[str, Any], column: str) -> Any:
    value = row.get(column)
    if value is None:
        raise BadRow(f"has no {column!r}, but {', '.join(map(str, row)):.200}")
    return value


def _parsed(row: Mapping[str, Any], column: str) -> list[Any]:
    value = _get(row, column)
    try:
        # or a list of JSON in strings, which a conversation may hold
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRow(f"has no JSON in {column!r} ({error})") from error
    if not isinstance(parsed, list):
        raise BadRow(f"has {type(parsed).__name__} in {column!r}, expected a list")
    return parsed


def _with_json_schema(tool: Any) -> dict[str, Any]:
    """Return a tool of xLAM's form, ``{name, description, parameters}``, as OpenAI has it."""
    try:
        properties = {}
        required = []
        for name, parameter in tool["parameters"].items():
            kind, _, rest = parameter["type"].partition(",")
            # `List[int]` is a list
            plain = kind.strip().lower().partition("[")[0]
            properties[name] = {"description": parameter["description"]}
            # without a type any value is allowed, as of a tuple or a union
            if plain in _JSON_TYPES:
                properties[name]["type"] = _JSON_TYPES[plain]
            if "optional" not in rest:
                required.append(name)
        schema = {"type": "object", "properties": properties, "required": required}
        function = {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": schema,
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise BadRow(f"has a tool of another form ({error!r:.100})") from error
    return {"type": "function", "function": function}
