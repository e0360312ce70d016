"""Judging conversations: ``data judge`` and ``data judge-check``."""

import json

from data_prep.conversations.judge.rubric import SHIPPED
from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

# nothing listens on the port of discarded bytes
URL = "http://127.0.0.1:9/v1/chat/completions"
JUDGE = f"data judge --input a.jsonl --output out --model judge --endpoint {URL}"
CHECK = f"data judge-check --labels a.jsonl --output out --model judge --endpoint {URL}"
REPLY = {"role": "assistant", "content": "4"}
GOOD = {"messages": [{"role": "user", "content": "2 + 2?"}, REPLY], "labels": {"verdict": "accept"}}


def _lines(*records: object) -> inputs.Input:
    return inputs.text("a.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def _conversation(name: str, record: object, *says: str) -> Row:
    return Row(name, JUDGE, ["a.jsonl, record 1", *says], [_lines(record)])


def _labels(name: str, labels: object, *says: str) -> Row:
    return Row(
        name, CHECK, ["a.jsonl, record 1: labels", *says], [_lines(GOOD | {"labels": labels})]
    )


def _endpoint(name: str, url: str, *says: str) -> Row:
    command = JUDGE.replace(URL, f"'{url}'")
    return Row(f"a judge's address {name}", command, ["--endpoint http", *says], [_lines(GOOD)])


def _rubric(name: str, text: str, *says: str) -> Row:
    files = [_lines(GOOD), inputs.text("mine.yaml", text)]
    return Row(f"a rubric {name}", f"{JUDGE} --rubric mine.yaml", ["mine.yaml", *says], files)


SHIPPED_TEXT = SHIPPED.read_text(encoding="utf-8")

ROWS = [
    Row("conversations that are not there", JUDGE, ["a.jsonl: no such file"]),
    Row("no conversation at all", JUDGE, ["no conversation in it"], [inputs.text("a.jsonl", "\n")]),
    _conversation("a sample without messages", {"text": "a"}, "field 'messages' holds null"),
    _conversation(
        "a conversation without roles", {"messages": [{"content": "a"}]}, "has the role None"
    ),
    _conversation("a sample that is a number", 7, "holds int, expected an object"),
    _conversation(
        "a conversation without a reply",
        {"messages": [{"role": "user", "content": "a"}]},
        "its last message is of the role user",
    ),
    Row(
        "a conversation that is cut off",
        JUDGE,
        ["a.jsonl: no conversation in it", "a.jsonl, record 1: is not JSON"],
        [_lines(GOOD), inputs.damaged("a.jsonl", inputs.cut)],
    ),
    _endpoint("of completions", "http://h/v1/completions", "expected the address of chat comp"),
    _endpoint(
        "with a password",
        "http://me:secret@h/v1/chat/completions",
        "leave the password out of it",
    ),
    Row("a judge that is not there", JUDGE, ["gives no answer (Client"], [_lines(GOOD)]),
    Row("a judge that is not there to check", CHECK, ["gives no answer"], [_lines(GOOD)]),
    Row(
        "a judge's key with quotation marks",
        JUDGE,
        ["OPENAI_API_KEY: holds characters that no key has"],
        [_lines(GOOD)],
        {"OPENAI_API_KEY": "“sk-1”"},
    ),
    Row("a budget of nothing", f"{JUDGE} --max-requests 0", ["Invalid value for '--max-requests'"]),
    Row("a rubric that is not there", f"{JUDGE} --rubric b", ["b: no such file"], [_lines(GOOD)]),
    _rubric("that is cut off", SHIPPED_TEXT[:-700], "has no key"),
    _rubric("that is no YAML", "[", "is not a readable YAML file"),
    _rubric(
        "with other weights",
        SHIPPED_TEXT.replace("weight: 0.30", "weight: 0.40"),
        "the weights add up to 1.1, expected 1",
    ),
    _rubric(
        "with a dimension that is misspelled",
        SHIPPED_TEXT.replace("correctness:", "corectness:"),
        "unknown dimension 'corectness' (did you mean 'correctness'?)",
    ),
    Row("labels that are not there", CHECK, ["a.jsonl: no such file"]),
    _labels("a sample without labels", None, "None is not of type 'object'"),
    _labels("a label of a dimension that is none", {"scores": {"tone": 9}}, "'tone'"),
    _labels("a label above ten", {"scores": {"correctness": 11}}, "11 is not one of"),
    _labels("a label of a verdict that is none", {"verdict": "good"}, "'good' is not one of"),
    Row(
        "a cache that is damaged",
        JUDGE,
        ["out/judge.sqlite: cannot be used"],
        [_lines(GOOD), inputs.text("out/judge.sqlite", "no database at all" * 99)],
    ),
]
