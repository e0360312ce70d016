"""Prompts for reinforcement learning: ``data prompts``."""

import json

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

PROMPTS = "data prompts --output out --source"
GOOD = {
    "messages": [{"role": "user", "content": "2 + 2?"}],
    "domain": "math",
    "reward": "math",
    "gold": {"answer": "4"},
}


def _lines(*records: object) -> inputs.Input:
    return inputs.text("a.jsonl", "".join(json.dumps(record) + "\n" for record in records))


ROWS = [
    Row(
        "a source of prompts that is misspelled",
        f"{PROMPTS} arithmetc=9",
        ["--source arithmetc: is no generator, public set or file (did you mean 'arithmetic'?)"],
    ),
    Row(
        "a generator of prompts without a count",
        f"{PROMPTS} logic",
        ["--source logic: makes up any number; say how many, as logic=500"],
    ),
    Row(
        "a count of prompts that is no number",
        f"{PROMPTS} logic=many",
        ["--source logic=many: expected NAME or NAME=COUNT"],
    ),
    Row(
        "no prompt of a generator",
        f"{PROMPTS} logic=0",
        ["--source logic=0: expected NAME or NAME=COUNT"],
    ),
    Row(
        "more easy prompts than there are",
        f"{PROMPTS} arithmetic=101 --easy",
        ["--source arithmetic=101: there are no more than"],
    ),
    Row(
        "a source of prompts that is named twice",
        f"{PROMPTS} logic=2 logic=3",
        ["--source logic: is named 2 times"],
    ),
    Row(
        "prompts of a file that is not there",
        f"{PROMPTS} a.jsonl",
        ["a.jsonl: no such file"],
    ),
    Row(
        "prompts with an unknown reward",
        f"{PROMPTS} a.jsonl",
        ["a.jsonl: unknown reward 'maths' (did you mean 'math'?)"],
        [_lines(GOOD | {"reward": "maths"})],
    ),
    Row(
        "prompts whose gold answers cannot be read",
        f"{PROMPTS} a.jsonl",
        ["out: no prompt is left (1 its gold answer cannot be used)"],
        [_lines(GOOD | {"gold": {"answer": ""}})],
    ),
    Row(
        "prompts that are none",
        f"{PROMPTS} a.jsonl",
        ["out: no prompt is left (3 no prompt)"],
        [_lines({"text": "a"}, GOOD | {"messages": []}, GOOD | {"gold": 4})],
    ),
    Row(
        "prompts in an empty file",
        f"{PROMPTS} a.jsonl",
        ["out: no prompt is left (there is none)"],
        [inputs.text("a.jsonl", "")],
    ),
    Row(
        "prompts into a folder that has some",
        f"{PROMPTS} logic=2",
        ["out: holds prompts already"],
        [inputs.text("out/manifest.json", "{}")],
    ),
    Row(
        "a trial of prompts without a model's name",
        f"{PROMPTS} logic=2 --endpoint http://127.0.0.1:9/v1/chat/completions",
        ["--endpoint: needs --model"],
    ),
    Row(
        "a trial of prompts by another address",
        f"{PROMPTS} logic=2 --model a --endpoint http://127.0.0.1:9/v1/completions",
        ["expected the address of chat completions"],
    ),
    Row(
        "a trial of prompts by a server that is not there",
        f"{PROMPTS} logic=2 --model a --endpoint http://127.0.0.1:9/v1/chat/completions",
        ["gives no answer"],
    ),
    Row(
        "evaluation texts for prompts that are not there",
        f"{PROMPTS} logic=2 --decontaminate suite.jsonl",
        ["suite.jsonl: no such file"],
    ),
]
