"""Arguments of a call against the JSON Schema of the tool, which a stranger wrote.

The library alone would fetch schemas that a reference names, and could be kept busy for ever by a
pattern or by references that double at each step.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

_MOST_REFERENCES = 1000
_PATTERN_SECONDS = 1
# characters of a schema whose validator is kept: bounds the memory
_LONGEST_KEPT = 16_384
# beside properties they say which other arguments there may be
_OPEN = (
    "additionalProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "$dynamicRef",
)
_WORDS = 200

_followed = 0


class BadSchema(Exception):
    """A tool's parameters that arguments cannot be checked by; the argument says why."""


def find_mistake(parameters: Any, arguments: dict[str, Any]) -> str | None:
    """Return what is wrong with the arguments of a call, a part of a sentence, or None.

    A tool without parameters takes any arguments. One that lists ``properties`` and says nothing of
    others takes no others: calls with made-up arguments are what the rule is for.

    Raises:
        BadSchema: the parameters are no JSON Schema, or cannot be checked safely.
    """
    if not parameters:
        return None
    global _followed
    _followed = 0
    try:
        text = json.dumps(parameters)
        build = _cached_validator if len(text) <= _LONGEST_KEPT else _build_validator
        validator = build(text)
        mistake = next(validator.iter_errors(arguments), None)
    except (Unresolvable, RecursionError, TypeError, ValueError, regex.error) as error:
        raise BadSchema(f"cannot be checked ({error!r:.{_WORDS}})") from error
    if mistake is None:
        return None
    where = "/".join(map(str, mistake.absolute_path))
    at = f"{where}: " if where else ""
    return f"{at}{mistake.message:.{_WORDS}}"


@lru_cache(1024)
def _cached_validator(parameters: str) -> Any:
    return _build_validator(parameters)


def _build_validator(parameters: str) -> Any:
    schema = json.loads(parameters)
    if not isinstance(schema, dict):
        raise BadSchema(f"are {type(schema).__name__}, expected an object")
    if '"patternProperties"' in parameters:
        raise BadSchema("have patternProperties, whose patterns are not run")
    if "properties" in schema and not any(key in schema for key in _OPEN):
        schema["additionalProperties"] = False
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadSchema(f"are no JSON Schema ({error.message:.{_WORDS}})") from error
    # an empty registry: nothing is fetched
    return _SafeValidator(schema, registry=Registry())


def _follow(
    validator: Any, reference: str, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    global _followed
    _followed += 1
    if _followed > _MOST_REFERENCES:
        raise BadSchema(f"follow more than {_MOST_REFERENCES:,} references")
    follow = Draft202012Validator.VALIDATORS["$ref"]
    yield from follow(validator, reference, instance, schema)


def _match(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "string"):
        return
    try:
        found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
    except TimeoutError as error:
        raise BadSchema(f"have a pattern that takes too long ({pattern!r:.60})") from error
    if not found:
        yield ValidationError(f"{instance!r:.60} does not match {pattern!r:.60}")


_SafeValidator: Any = validators.extend(
    Draft202012Validator, {"$ref": _follow, "$dynamicRef": _follow, "pattern": _match}
)
