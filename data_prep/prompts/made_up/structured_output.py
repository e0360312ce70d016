"""Structured output: what a sentence says, as JSON by a schema that comes with it."""

import json
import random
from typing import Any

from data_prep.prompts.made_up.draft import DIGITS, Draft, words


def draft(draw: random.Random, is_easy: bool) -> Draft:
    """Return a task; an easy one asks for a number, which is JSON already."""
    if is_easy:
        first = draw.choice(DIGITS)
        second = draw.choice(DIGITS)
        schema = {"type": "integer", "minimum": 0, "maximum": 18}
        question = f"What is {first} + {second}, as JSON?"
        return Draft(question, {"schema": schema, "value": first + second})
    text, schema, value = draw.choice((_person, _order))(draw)
    question = (
        f"{text}\nWrite this as JSON by the following schema, and write nothing else.\n"
        f"{json.dumps(schema)}"
    )
    return Draft(question, {"schema": schema, "value": value})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _person(draw: random.Random) -> tuple[str, dict[str, Any], Any]:
    name = draw.choice(words("names"))
    age = draw.randint(18, 90)
    city = draw.choice(words("cities"))
    is_member = draw.random() < 0.5
    schema = _object(
        name={"type": "string"},
        age={"type": "integer", "minimum": 0},
        address=_object(city={"enum": words("cities")}),
        member={"type": "boolean"},
    )
    member = "a member" if is_member else "no member"
    text = f"{name} is {age} years old, lives in {city} and is {member} of the club."
    value = {"name": name, "age": age, "address": {"city": city}, "member": is_member}
    return text, schema, value


def _order(draw: random.Random) -> tuple[str, dict[str, Any], Any]:
    lines = []
    for item in draw.sample(words("furniture"), draw.randint(2, 4)):
        line = {"item": item, "color": draw.choice(words("colors")), "count": draw.randint(2, 9)}
        lines.append(line)
    number = draw.randint(1000, 9999)
    line_schema = _object(
        item={"type": "string"},
        color={"enum": words("colors")},
        count={"type": "integer", "minimum": 1},
    )
    schema = _object(
        order={"type": "integer"},
        lines={"type": "array", "items": line_schema, "minItems": 1},
    )
    said = ", ".join(f"{line['count']} {line['color']} pieces of {line['item']}" for line in lines)
    text = f"Order {number} asks for {said}, in this order; items are named in the singular."
    return text, schema, {"order": number, "lines": lines}
