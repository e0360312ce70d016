"""What each rule drops, changes and leaves."""

from pathlib import Path
from typing import Any

import pytest

from data_prep.conversations.conversation import parse
from data_prep.conversations.curate.rules import RULES, RuleSettings, Screened, identity, screen
from data_prep.quality import contamination
from data_prep.records import BadRow
from tests.helpers.conversations import conversations

USER = {"role": "user", "content": "What is 6 times 7?"}
REPLY = {"role": "assistant", "content": "It is 42."}
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def reply(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def call(*ids: str, name: str = "add", arguments: Any = None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments or {"a": 1}}
    return {"role": "assistant", "tool_calls": [{"id": id, "function": function} for id in ids]}


def answer(id: str | None = None) -> dict[str, Any]:
    message = {"role": "tool", "content": "3"}
    return message | {"tool_call_id": id} if id else message


def screened(*messages: Any, settings: RuleSettings | None = None, **fields: Any) -> Screened:
    return screen({"messages": list(messages), **fields}, settings or RuleSettings())


def test_what_is_good_passes_unchanged() -> None:
    found = screened(USER, REPLY, id=7, language="en")
    assert found.steps == dict.fromkeys(("record", *RULES), "passed")
    assert found.record == {"messages": [USER, REPLY], "id": 7, "language": "en"}
    assert found.category == "multi_turn"


@pytest.mark.parametrize(
    ("messages", "rule", "says"),
    [
        ("text", "form", "holds str, expected a list"),
        ([], "form", "holds an empty list"),
        ([USER, 7], "form", "message 2 is int"),
        ([{"role": "critic", "content": "a"}, USER, REPLY], "form", "has the role 'critic'"),
        ([USER, reply(""), user("a"), REPLY], "form", "message 2 is an assistant's without"),
        ([USER], "roles", "its last message is of the role user"),
        ([REPLY, USER, REPLY], "roles", "message 1 is the assistant's"),
        ([USER, REPLY, REPLY], "roles", "messages 2 and 3 are both the assistant's"),
        ([USER, answer(), REPLY], "roles", "a tool's answer that no call comes before"),
        ([USER, call("x"), USER, REPLY], "roles", "message 3 comes where a tool has to answer"),
        ([USER, call("x"), answer("y"), REPLY], "roles", "message 3 answers a call that nobody"),
        ([USER, call("x"), answer(), answer(), REPLY], "roles", "message 4 answers a call"),
        ([USER, call("x", name="sub")], "tool_calls", "calls 'sub', which is no tool"),
        ([USER, call("x", arguments="{")], "tool_calls", "is no JSON"),
        ([USER, call("x", arguments={"a": "1"})], "tool_calls", "wrong arguments: a: '1' is not"),
        ([USER, reply("\x00")], "normalization", "message 2 holds nothing but control characters"),
        ([USER, reply("Here:\n```py\nx = ")], "lengths", "message 2 ends within a block of code"),
        ([user("a" * 140_000), REPLY], "lengths", "has 140,010 characters, expected at most 131"),
        ([user(f"Say: {LONG}, now."), reply(LONG)], "own_answer", "message 2 stands in what comes"),
        ([user("6 times 7? Answer: 42"), reply("42.")], "own_answer", "message 2 stands in"),
    ],
)
def test_a_rule_drops(messages: Any, rule: str, says: str) -> None:
    found = screen({"messages": messages, "tools": TOOLS}, RuleSettings())
    assert (found.dropped_by, found.record) == (rule, None)
    assert says in found.steps[rule]
    # the rules after it have not seen it
    assert list(found.steps) == ["record", *list(RULES)[: list(RULES).index(rule) + 1]]


def test_what_is_no_record_is_dropped() -> None:
    found = screen(BadRow("is not JSON"), RuleSettings())
    assert found.steps == {"record": "dropped: is not JSON"}
    assert (found.dropped_by, found.category) == ("record", "unreadable")


@pytest.mark.parametrize(
    ("messages", "rule", "change", "expected"),
    [
        (
            [{"role": "developer", "content": "Be short."}, USER, REPLY],
            "repair",
            "message 1: role developer is now system",
            [{"role": "system", "content": "Be short."}, USER, REPLY],
        ),
        (
            [{"role": "system", "content": " "}, USER, REPLY],
            "repair",
            "message 1: an empty system message is removed",
            [USER, REPLY],
        ),
        (
            [USER, REPLY, USER, reply("")],
            "repair",
            "messages after number 2, the last reply, are removed",
            [USER, REPLY],
        ),
        (
            [{**USER, "content": [{"type": "text", "text": USER["content"]}]}, REPLY],
            "form",
            "message 1: parts are now one text",
            [USER, REPLY],
        ),
        (
            [USER, {**REPLY, "reasoning": "hm"}],
            "form",
            "field 'reasoning' of messages is left out",
            [USER, REPLY],
        ),
        ([user("cafe\u0301"), REPLY], "normalization", "message 1", [user("café"), REPLY]),
    ],
)
def test_a_rule_changes(messages: Any, rule: str, change: str, expected: Any) -> None:
    found = screened(*messages)
    assert found.steps[rule] == f"changed: {change}"
    assert found.record == {"messages": expected}


def test_an_older_call_becomes_one_of_today() -> None:
    older = {"role": "assistant", "content": None}
    older["function_call"] = {"name": "add", "arguments": '{"a": 1}'}
    found = screened(USER, older, {"role": "function", "content": "1"}, REPLY, tools=TOOLS)
    assert "message 2: function_call is now tool_calls" in found.steps["repair"]
    assert found.steps["form"] == "changed: message 2: arguments are now an object"
    assert found.record is not None
    calls = found.record["messages"][1]["tool_calls"]
    assert calls[0]["function"] == {"name": "add", "arguments": {"a": 1}}


def test_machine_text_is_not_normalized() -> None:
    text = "e\u0301\x0c"
    tools = [{"name": "add", "description": text}]
    found = screened(
        USER,
        call("x", arguments={"q": text}),
        {"role": "tool", "content": text},
        REPLY,
        tools=tools,
        documents=[{"text": text}],
    )
    record = found.record
    assert record is not None
    assert record["tools"] == tools
    assert record["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"q": text}
    assert record["messages"][2]["content"] == text
    assert record["documents"] == [{"text": "é"}]


@pytest.mark.parametrize(
    "messages",
    [
        # a document or a tool may be quoted, a short answer may occur in its question
        [user("Which of 42 and 43 is even?"), reply("42")],
        [user("Answer: yes or no?"), reply("no")],
        [USER, call("x"), {"role": "tool", "content": LONG}, reply(LONG)],
        [user(LONG), reply(f"{LONG} fourteen")],
        [USER, reply(LONG), user(f"You said: {LONG}. Why?"), REPLY],
    ],
)
def test_an_answer_that_a_prompt_does_not_hold_stays(messages: Any) -> None:
    found = screened(*messages, tools=TOOLS, documents=[{"text": LONG}])
    assert found.dropped_by is None


def test_texts_of_evaluations_are_found_in_messages_and_documents(tmp_path: Path) -> None:
    suite = tmp_path / "suite.txt"
    suite.write_text("In which year did the last of the great auks die on Eldey?")
    settings = RuleSettings(decontaminate=(str(suite),))
    index, _ = contamination.build(settings.decontaminate, settings.ngram_words)
    question = "Tell me: in which year did the last of the great auks die on Eldey"
    for record in (
        {"messages": [user(question), REPLY]},
        {"messages": [USER, REPLY], "documents": [{"text": question}]},
    ):
        found = screen(record, settings, index)
        assert found.dropped_by == "contamination"
        assert str(suite) in found.steps["contamination"]
    assert screen({"messages": [USER, REPLY]}, settings, index).dropped_by is None


def test_equal_conversations_have_one_identity() -> None:
    def found(a: Any, id: str, number: int) -> bytes:
        messages = [USER, call(id, arguments=a), answer(id), REPLY]
        conversation = screened(*messages, tools=TOOLS, id=number).conversation
        assert conversation is not None
        return identity(conversation)

    assert found({"a": 1}, "x", 1) == found('{"a": 1}', "y", 2) != found({"a": 2}, "x", 1)


def test_what_is_kept_is_left_as_it_is_by_a_second_run() -> None:
    for record in conversations(300):
        first = screen(record, RuleSettings())
        if first.record is None:
            continue
        second = screen(first.record, RuleSettings())
        assert second.record == first.record
        assert {*second.steps.values()} == {"passed"}
        # data pack and data judge take it
        assert parse(first.record).messages == first.record["messages"]
