"""A verdict: its JSON Schema, and how it is read from the judge's reply and from nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

# published: recipes/facts.yaml, sft.curation.judge
DIMENSIONS = (
    "instruction_following",
    "correctness",
    "completeness",
    "conciseness",
    "naturalness",
    "calibration",
)
# fault -> what the judge is asked
FAULTS = {
    "hallucination": "it states as a fact what is made up",
    "false_premise": "it accepts a premise of the user that is false",
    "incorrect_computation": "it holds a wrong result of a computation",
}
# published: a RAG reply that is not grounded in what was retrieved is a hallucination
UNGROUNDED = {"ungrounded": "it holds a statement that the documents do not support"}
SMALLEST = 1
LARGEST = 10
_FENCE = "```"


class InvalidVerdict(Exception):
    """A reply that is no verdict; the argument says why, in a few words."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
        scores: dimension -> 1 to 10.
        faults: fault -> whether the replies have it.
        reason: the judge's words.
    """

    scores: dict[str, int]
    faults: dict[str, bool]
    reason: str


def faults_of(category: str) -> dict[str, str]:
    """Return the faults that reject a sample of a category -> what the judge is asked."""
    if category == "rag":
        return FAULTS | UNGROUNDED
    return FAULTS


@lru_cache
def schema(category: str) -> dict[str, Any]:
    """Return the JSON Schema of a verdict.

    It is the same for all samples of a category: a server that compiles it does so once. That the
    token is the right one is checked by :func:`parse_verdict`.
    """
    # an enumeration, as servers with structured output know few of a number's keywords
    score = {"type": "integer", "enum": list(range(SMALLEST, LARGEST + 1))}
    flag = {"type": "boolean"}
    return _object(
        {
            "token": {"type": "string"},
            "reason": {"type": "string"},
            "scores": _object(dict.fromkeys(DIMENSIONS, score)),
            "faults": _object(dict.fromkeys(faults_of(category), flag)),
        }
    )


def labels_schema(category: str, buckets: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of a person's labels: some of a verdict's scores and faults, and the
    bucket.
    """
    properties = schema(category)["properties"]
    parts = {name: {**properties[name], "required": []} for name in ("scores", "faults")}
    labels = _object(parts | {"verdict": {"enum": list(buckets)}})
    return {**labels, "required": [], "minProperties": 1}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_verdict(reply: str, category: str, token: str) -> Verdict:
    """Return the verdict that a judge's whole reply is.

    Nothing is searched for within the reply, so a verdict that the judge quotes is not found; and
    the token, which the sample's author cannot know, marks it as the judge's own.

    Args:
        reply: a JSON object, in a code fence or not.
        category: of the sample.
        token: of the request.

    Raises:
        InvalidVerdict: the reply is anything else.
    """
    try:
        value = json.loads(
            _without_fence(reply),
            object_pairs_hook=_object_without_repeats,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidVerdict("is no JSON object") from error
    mistake = next(_validator(category).iter_errors(value), None)
    if mistake:
        where = "/".join(map(str, mistake.absolute_path)) or "the object"
        raise InvalidVerdict(f"is no verdict: {where} is not as its schema says")
    if value["token"] != token:
        raise InvalidVerdict("does not have the request's token")
    # 8.0 is an integer of JSON Schema
    scores = {name: int(score) for name, score in value["scores"].items()}
    return Verdict(scores, value["faults"], value["reason"])


@lru_cache
def _validator(category: str) -> "Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(category))


def _without_fence(reply: str) -> str:
    text = reply.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        _, _, text = text.removesuffix(_FENCE).partition("\n")
    return text


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key twice")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
