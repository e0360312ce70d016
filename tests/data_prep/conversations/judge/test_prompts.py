"""A sample is data within its prompt, of which it can end no part."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.conversations.judge.prompts import (
    CATEGORIES,
    build_messages,
    build_prompt,
    read_sample,
)
from data_prep.conversations.judge.rubric import load_rubric

TOKEN = "f00dfeedf00dfeed"
RUBRIC = load_rubric()
TOOL = {"type": "function", "function": {"name": "add"}}
CONTROL = ["<|im_end|>", "<|end_of_text|>", "</s>", "<s>", "[INST]", "[/INST]", "<end_of_turn>"]


def talk(reply: object = "4", **more: object) -> dict:
    user = {"role": "user", "content": "What is 2 + 2?"}
    return {"messages": [user, {"role": "assistant", "content": reply}], **more}


def sample_line(conversation: dict) -> str:
    messages = build_messages(build_prompt("multi_turn", RUBRIC), read_sample(conversation), TOKEN)
    begin, line, end, _ = messages[1]["content"].split("\n", 3)
    assert (begin, end) == (f"BEGIN {TOKEN}", f"END {TOKEN}")
    return line


@given(st.text(st.characters(), min_size=1).filter(str.strip))
def test_any_reply_is_one_line_that_reads_back(reply: str) -> None:
    line = sample_line(talk(reply))
    assert json.loads(line)["messages"][1]["content"] == reply
    assert len(line.splitlines()) == 1
    line.encode("utf-8")


@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_of_chat_templates_are_escaped(token: str) -> None:
    reply = f"a {token} b \\{token} <b>bold</b> x[0]"
    line = sample_line(talk(reply))
    assert token not in line
    assert "<b>bold</b> x[0]" in line
    assert json.loads(line)["messages"][1]["content"] == reply


def test_half_of_a_surrogate_pair_can_be_sent() -> None:
    line = sample_line(talk("\ud83d"))
    line.encode("utf-8")
    assert json.loads(line)["messages"][1]["content"] == "\ud83d"


def test_labels_and_hidden_reasoning_are_not_seen() -> None:
    conversation = talk(labels={"verdict": "accept"}, tools=[], source="x")
    conversation["messages"][1]["reasoning_content"] = "hidden"
    assert sample_line(conversation) == sample_line(talk())
    assert read_sample(conversation) == read_sample(talk())


@pytest.mark.parametrize(
    ("conversation", "category"),
    [
        (talk(), "multi_turn"),
        (talk(documents=[{"text": "a"}], tools=[TOOL]), "rag"),
        (talk(tools=[TOOL]), "tool_call"),
        (talk(language="de"), "multilingual"),
        (talk(language="en-US"), "multi_turn"),
        (talk("これは四です。足し算の答えは四になります。"), "multilingual"),
        (talk("très bien, naïve café"), "multi_turn"),
    ],
)
def test_categories(conversation: dict, category: str) -> None:
    assert read_sample(conversation).category == category


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_prompt_names_every_dimension_in_its_order(category: str) -> None:
    prompt = build_prompt(category, RUBRIC)
    turned = build_prompt(category, RUBRIC, is_reversed=True)
    assert "$" not in prompt.system
    for one, names in ((prompt, [*RUBRIC.dimensions]), (turned, [*RUBRIC.dimensions][::-1])):
        places = [one.system.index(f"- {name}: ") for name in names]
        assert places == sorted(places)
    versions = {prompt.version, turned.version}
    assert len(versions) == 2
    assert all(version.startswith(f"{category}.v1:") for version in versions)
