import socket
from typing import Any

import pytest

from data_prep.conversations.curate.tool_schemas import BadSchema, find_mistake

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"city": "Zürich"}, None),
        ({"city": "Zürich", "days": 2}, None),
        ({}, "'city' is a required property"),
        ({"city": 3}, "city: 3 is not of type 'string'"),
        ({"city": "Zürich", "days": 0}, "days: 0 is less than the minimum of 1"),
        ({"city": "Zürich", "unit": "C"}, "Additional properties are not allowed ('unit'"),
    ],
)
def test_arguments_are_compared_with_the_schema(arguments: dict, says: str | None) -> None:
    found = find_mistake(CITY, arguments)
    assert (found is None) if says is None else (says in str(found))


def test_other_arguments_are_allowed_where_the_schema_says_so() -> None:
    assert find_mistake(CITY | {"additionalProperties": True}, {"city": "a", "unit": "C"}) is None


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}])
def test_a_tool_without_properties_takes_anything(parameters: Any) -> None:
    assert find_mistake(parameters, {"a": 1}) is None


def _doubling(depth: int) -> dict[str, Any]:
    """A schema whose check takes 2 to the power of ``depth`` steps."""
    definitions = {"0": {"type": "object"}}
    for number in range(1, depth):
        reference = {"$ref": f"#/$defs/{number - 1}"}
        definitions[str(number)] = {"allOf": [reference, reference]}
    return {"$defs": definitions, "$ref": f"#/$defs/{depth - 1}"}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ("text", "are str, expected an object"),
        ({"type": "dict"}, "are no JSON Schema"),
        ({"$ref": "#/nowhere"}, "cannot be checked"),
        ({"$ref": "#"}, "cannot be checked|follow more than 1,000"),
        (_doubling(64), "follow more than 1,000 references"),
        ({"properties": {"a": {"pattern": "["}}}, "are no JSON Schema"),
        ({"properties": {"a": {"pattern": "(a|aa)+$"}}}, "have a pattern that takes too long"),
        ({"patternProperties": {"(a|aa)+$": {}}}, "have patternProperties"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_named(parameters: Any, says: str) -> None:
    with pytest.raises(BadSchema, match=says):
        find_mistake(parameters, {"a": "a" * 200 + "b"})


def test_a_schema_elsewhere_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    with pytest.raises(BadSchema, match="cannot be checked"):
        find_mistake({"$ref": "http://127.0.0.1:9/schema.json"}, {})
    assert asked == []
