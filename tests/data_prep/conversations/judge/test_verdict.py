"""Verdicts are read from a judge's whole reply, by schema and token, and from nothing else."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep.conversations.judge.check import INJECTIONS, inject, perfect_verdict
from data_prep.conversations.judge.prompts import (
    CATEGORIES,
    build_messages,
    build_prompt,
    read_sample,
)
from data_prep.conversations.judge.rubric import load_rubric
from data_prep.conversations.judge.verdict import (
    DIMENSIONS,
    FAULTS,
    InvalidVerdict,
    parse_verdict,
    schema,
)

FACTS = Path(__file__).parents[4] / "recipes/facts.yaml"
TOKEN = "f00dfeedf00dfeed"
CONTENT = yaml.safe_load(INJECTIONS.read_text(encoding="utf-8"))


def changed(**parts: object) -> str:
    return json.dumps({**perfect_verdict("multi_turn", TOKEN), **parts})


def scores(**parts: object) -> str:
    return changed(scores={**dict.fromkeys(DIMENSIONS, 8), **parts})


GOOD = changed()


def test_dimensions_faults_and_prompts_are_the_published_ones() -> None:
    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))["sft"]["curation"]["judge"]
    assert [name.replace("_", " ") for name in DIMENSIONS] == facts["dimensions"]
    assert [name.replace("_", " ") for name in FAULTS] == facts["hard_reject"]
    words = ("multi-turn", "RAG", "tool call", "multilingual")
    assert len(CATEGORIES) == len(facts["prompts_by_type"])
    for word, published in zip(words, facts["prompts_by_type"], strict=True):
        assert word in published


@pytest.mark.parametrize("reply", [GOOD, f"\n {GOOD}\n", f"```json\n{GOOD}\n```"])
def test_a_verdict(reply: str) -> None:
    verdict = parse_verdict(reply, "multi_turn", TOKEN)
    assert verdict.scores == dict.fromkeys(DIMENSIONS, 10)
    assert not any(verdict.faults.values())


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "10",
        "null",
        "[]",
        GOOD[:-20],
        f"Here it is: {GOOD}",
        f"{GOOD} I hope this helps.",
        GOOD + GOOD,
        f"[{GOOD}]",
        f"```json\n{GOOD}",
        changed(token="0123456789abcdef"),
        changed(token=None),
        changed(reason=None),
        changed(extra=1),
        changed(scores={}),
        changed(faults={}),
        changed(faults={**dict.fromkeys(FAULTS, False), "ungrounded": False}),
        changed(faults=dict.fromkeys(FAULTS, 0)),
        scores(tone=8),
        scores(correctness=0),
        scores(correctness=11),
        scores(correctness=8.5),
        scores(correctness=True),
        scores(correctness="8"),
        scores(correctness=float("nan")),
        scores(correctness=10**400),
        GOOD.replace('"reason"', '"token": "x", "reason"'),
        "[" * 100_000,
    ],
)
def test_what_is_no_verdict(reply: str) -> None:
    with pytest.raises(InvalidVerdict):
        parse_verdict(reply, "multi_turn", TOKEN)


@given(st.text())
def test_no_text_is_a_verdict(text: str) -> None:
    with pytest.raises(InvalidVerdict):
        parse_verdict(text, "rag", TOKEN)


def test_a_verdict_on_a_reply_from_documents_says_whether_it_is_grounded() -> None:
    with pytest.raises(InvalidVerdict):
        parse_verdict(GOOD, "rag", TOKEN)
    assert "ungrounded" in schema("rag")["properties"]["faults"]["required"]


@pytest.mark.parametrize("entry", CONTENT["conversations"], ids=lambda entry: entry["category"])
@pytest.mark.parametrize("name", CONTENT["texts"])
def test_no_verdict_is_read_from_a_sample(name: str, entry: dict) -> None:
    category = entry["category"]
    injected = inject(entry["conversation"], CONTENT["texts"][name])
    prompt = build_prompt(category, load_rubric())
    request = build_messages(prompt, read_sample(injected), TOKEN)[1]["content"]
    _, line, _ = request.split("\n", 2)
    reply = injected["messages"][-1]["content"]

    # whatever part of its request a judge repeats
    verdict = json.dumps(perfect_verdict(category, "0123456789abcdef"))
    for repeated in (request, line, reply, CONTENT["texts"][name], verdict, f"```\n{verdict}\n```"):
        with pytest.raises(InvalidVerdict):
            parse_verdict(repeated, category, TOKEN)
    # which is refused for the token only, or the set would test nothing
    parse_verdict(verdict, category, "0123456789abcdef")
