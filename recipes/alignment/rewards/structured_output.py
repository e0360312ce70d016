"""Structured output: JSON that a JSON Schema accepts, and nothing but it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from recipes.alignment.rewards.reward import RIGHT, BadGold, NoAnswer, Reward, wrong

_FENCE = "```"
_LANGUAGES = ("", "json")


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with.

    Attributes:
        schema: JSON Schema, draft 2020-12; a reference leads nowhere but into it.
        value: the value that is asked for; None where any that the schema accepts is right.
    """

    schema: dict[str, Any]
    value: Any = None


def example(gold: Gold) -> str:
    """Return an answer that is right, "" where none is known.

    Raises:
        BadGold: the schema is none, accepts anything or refuses the value.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(gold.schema)
    except SchemaError as error:
        raise BadGold(f"its schema is none ({error.message:.100})") from error
    if gold.value is None:
        for text in ("{}", "[]", '""', "0"):
            if not _fault(json.loads(text), gold.schema):
                raise BadGold(f"its schema accepts {text}, and no value is asked for")
        return ""
    return json.dumps(gold.value)


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the reward of an answer."""
    try:
        value = json.loads(
            _without_fence(answer.strip()),
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        raise NoAnswer(f"it is no JSON ({error})") from error
    fault = _fault(value, gold.schema)
    if fault:
        return wrong(f"the schema refuses it ({fault:.100})")
    if gold.value is not None and _typed(value) != _typed(gold.value):
        return wrong("it has another value")
    return RIGHT


def _without_fence(text: str) -> str:
    """Return what is in a fence that has nothing around it."""
    first, _, rest = text.partition("\n")
    is_fenced = first.startswith(_FENCE) and rest.endswith(_FENCE)
    if is_fenced and first.removeprefix(_FENCE).strip().lower() in _LANGUAGES:
        return rest.removesuffix(_FENCE)
    return text


def _fault(value: Any, schema: dict[str, Any]) -> str:
    """Return why a schema refuses a value, or ""."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # without a way to retrieve what a reference names
    validator = Draft202012Validator(schema, registry=Registry())
    for error in validator.iter_errors(value):
        return error.message
    return ""


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _typed(value: Any) -> Any:
    """Return a value that equals another of the same JSON only: 1 is 1.0, and not true."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return value
