"""Made-up conversations: right replies, flaws, what is held out, and the judge that knows it."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.conversations.conversation import BadConversation, parse
from data_prep.conversations.judge.scripted_server import Asked
from data_prep.conversations.judge.verdict import parse_verdict
from data_prep.conversations.made_up.flaws import FLAWS
from data_prep.conversations.made_up.generation import held_out_records, training_records, write
from data_prep.conversations.made_up.judging import judge_by_rule
from data_prep.conversations.made_up.questions import questions
from data_prep.conversations.made_up.tasks import TASKS
from data_prep.conversations.template import ChatTemplate
from data_prep.tokenizer import CHAT_TEMPLATE
from evaluation.suites import OWN_TASKS, get_suite
from recipes.common.errors import UserError

pytestmark = pytest.mark.fast

COUNT = 880
TRAINING = list(training_records(COUNT, seed=1234))
HELD_OUT = list(held_out_records())


def asked_for(record: dict[str, Any]) -> Iterator[str]:
    """Yield every question with what it is about."""
    for message in record["messages"]:
        if message["role"] == "user":
            question, _, _ = message["content"].partition(" Answer:")
            yield f"{question} {record.get('documents')}"


def content_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without its names."""
    return {key: value for key, value in record.items() if key not in ("id", "flaw")}


def by_hand(record: dict[str, Any], number: int) -> str:
    """Return the text that has to follow a message, without the project's own rules."""
    message = record["messages"][number]
    question = message["content"]
    if message["role"] == "tool":
        return question
    if record["kind"] == "arithmetic":
        return str(sum(map(int, re.findall(r"\d", question))))
    if record["kind"] == "string":
        letters = question.removesuffix("?").split()[-3:]
        return letters[0 if "first" in question else 2]
    if record["kind"] == "look_up":
        words = record["documents"][0]["text"].split()
        return words[3] if "balls" in question else words[-1].removesuffix(".")
    return ""


def test_every_reply_without_a_flaw_is_right() -> None:
    checked = Counter[str]()
    for record in [*TRAINING, *HELD_OUT]:
        if "flaw" in record:
            continue
        for number, message in enumerate(record["messages"][1:]):
            if message["role"] == "assistant":
                assert message["content"] == by_hand(record, number), record
                checked[record["kind"]] += 1
            for call in message.get("tool_calls", ()):
                item = record["messages"][number]["content"].split()[3]
                assert call["function"] == {"name": "price", "arguments": {"item": item}}
        parse(record)
    assert checked.keys() == TASKS.keys()
    assert min(checked.values()) > 150


def test_what_is_held_out_is_asked_in_no_conversation_to_train_on() -> None:
    trained = {question for record in TRAINING for question in asked_for(record)}
    held_out = [question for record in HELD_OUT for question in asked_for(record)]
    assert len(held_out) == len(set(held_out)) == 16 * len(TASKS)
    assert trained.isdisjoint(held_out)
    # the hundred sums that there are
    sums = {question for question in trained if "+" in question}
    assert 70 < len(sums) < 90


def test_conversations_have_one_turn_or_several() -> None:
    lengths = defaultdict(set)
    for record in TRAINING:
        lengths[record["kind"]].add(sum(m["role"] == "user" for m in record["messages"]))
    assert {kind: max(found) for kind, found in lengths.items()} == {
        kind: task.most_turns for kind, task in TASKS.items()
    }
    assert all(min(found) == 1 for found in lengths.values())


def test_every_kind_gets_every_flaw() -> None:
    flawed = [record for record in TRAINING if "flaw" in record]
    assert len(flawed) == COUNT // 11
    found = {(record["flaw"], record["kind"]) for record in flawed}
    assert {flaw for flaw, _ in found} == set(FLAWS)
    assert {pair for pair in found if pair[0] != "duplicate"} == {
        (flaw, kind) for flaw in FLAWS if flaw != "duplicate" for kind in TASKS
    }
    good = [content_of(record) for record in TRAINING if "flaw" not in record]
    for record in flawed:
        assert (content_of(record) in good) == (record["flaw"] == "duplicate")
        if record["flaw"] in ("unknown role", "undeclared tool"):
            with pytest.raises(BadConversation):
                parse(record)


def test_the_judge_rejects_what_is_wrong_and_nothing_else() -> None:
    for record in TRAINING:
        if record.get("flaw") in ("unknown role", "undeclared tool", "answer in the prompt"):
            continue
        is_rag = "documents" in record
        line = json.dumps(record)
        asked = Asked(1, record, line, "token", "ungrounded" if is_rag else "")
        category = "rag" if is_rag else "multi_turn"
        verdict = parse_verdict(judge_by_rule(asked), category, "token")
        is_wrong = record.get("flaw") == "wrong answer"
        assert any(verdict.faults.values()) == is_wrong, record
        assert verdict.faults.get("ungrounded", False) == (is_wrong and is_rag)


def test_files_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    summary = write(tmp_path / "a", 50, seed=1)
    write(tmp_path / "b", 50, seed=1)
    write(tmp_path / "c", 50, seed=2)
    (a, b, c) = ((tmp_path / name / "training.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    assert summary.conversations == len(a.splitlines()) == sum(summary.kinds.values()) == 50
    assert sum(summary.flaws.values()) == 4
    held_out = {(tmp_path / name / "held_out.jsonl").read_bytes() for name in "abc"}
    assert [len(content.splitlines()) for content in held_out] == [summary.held_out]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="exists"):
        write(tmp_path, 50, seed=1)


# --- The suite of the held-out questions


@pytest.mark.parametrize("kind", TASKS)
def test_the_suite_has_the_questions_that_are_held_out(kind: str) -> None:
    assert f"chat_{kind}" in get_suite("chat", "tiny").tasks
    lines = (OWN_TASKS / "smoke" / f"chat_{kind}.jsonl").read_text().splitlines()
    # `python -m data_prep.conversations.made_up.questions` writes the files anew
    assert list(map(json.loads, lines)) == list(questions(kind))


@pytest.mark.parametrize("kind", TASKS)
def test_the_system_turn_of_a_question_is_the_templates_own(kind: str) -> None:
    template = ChatTemplate(CHAT_TEMPLATE.read_text(), "t", {"eos_token": "<|end_of_text|>"})
    records = [record for record in HELD_OUT if record["kind"] == kind]
    for record, question in zip(records, questions(kind), strict=True):
        messages = [
            {"role": "user", "content": question["question"]},
            {"role": "assistant", "content": question["answer"]},
        ]
        if question["system"]:
            messages.insert(0, {"role": "system", "content": question["system"]})
        expected = template.render(parse(record | {"messages": record["messages"][:2]})).text
        assert template.render(parse({"messages": messages})).text == expected
        assert record["messages"][1]["content"] in question["answer"]
