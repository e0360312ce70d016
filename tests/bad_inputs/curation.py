"""Curating conversations: ``data curate``."""

from tests.bad_inputs import inputs
from tests.bad_inputs.judge import GOOD, SHIPPED_TEXT, URL
from tests.bad_inputs.row import Row

CURATE = "data curate --input a.jsonl --output out"
JUDGED = f"{CURATE} --model judge --judge {URL}"
_GOOD = inputs.json_file("a.jsonl", GOOD)

ROWS = [
    Row("conversations to curate that are not there", CURATE, ["a.jsonl: no such file"]),
    Row(
        "conversations to curate in an array of JSON",
        CURATE,
        ["a.jsonl: is an array of JSON, expected JSON lines"],
        [inputs.text("a.jsonl", "[{}]")],
    ),
    Row(
        "curation into a folder that holds something",
        CURATE,
        ["out: holds other files"],
        [_GOOD, inputs.text("out/cat.jpg", "")],
    ),
    Row(
        "curation with an evaluation that is not there",
        f"{CURATE} --decontaminate b.txt",
        ["b.txt: no such file"],
        [_GOOD],
    ),
    Row(
        "curation with a judge without a name",
        f"{CURATE} --judge {URL}",
        ["--judge and --model: expected both or none"],
        [_GOOD],
    ),
    Row(
        "curation by a judge that is not there",
        JUDGED,
        [f"--judge {URL}: gives no answer (Client"],
        [_GOOD],
    ),
    Row(
        "curation by a judge's address of completions",
        JUDGED.replace("/chat", ""),
        ["--judge http", "expected the address of chat comp"],
        [_GOOD],
    ),
    Row(
        "curation by a rubric with other weights",
        f"{JUDGED} --rubric mine.yaml",
        ["mine.yaml: the weights add up to 1.1"],
        [_GOOD, inputs.text("mine.yaml", SHIPPED_TEXT.replace("weight: 0.30", "weight: 0.40"))],
    ),
    Row(
        "a pass of a curation that is none",
        f"{CURATE} --only judge",
        ["--only judge: expected rules, duplicates, selection"],
        [_GOOD],
    ),
    Row(
        "a shard of all passes of a curation",
        f"{CURATE} --shard 0",
        ["--shard 0: expected --only rules or --only selection with it"],
        [_GOOD],
    ),
    Row(
        "a curation with two judges",
        f"{JUDGED} --serve some/judge",
        ["--judge, --judge-file and --serve: expected one of them"],
        [_GOOD],
    ),
    Row(
        "a judge that is served here",
        f"{CURATE} --serve some/judge",
        ["--serve some/judge: a judge is served by a job of a cluster"],
        [_GOOD],
    ),
    Row(
        "the file of a judge's server that has failed",
        f"{CURATE} --model judge --judge-file judge.json",
        ["judge.json: the judge's server has failed (no GPU)"],
        [
            _GOOD,
            inputs.json_file(
                "judge.json", {"url": "", "model": "judge", "key": "", "failure": "no GPU"}
            ),
        ],
    ),
    Row(
        "the file of a judge's server that is cut off",
        f"{CURATE} --model judge --judge-file judge.json",
        ["judge.json: is not valid JSON"],
        [_GOOD, inputs.text("judge.json", '{"url": ')],
    ),
    Row(
        "a judge's server without a model",
        "data judge-server --output out --file judge.json",
        ["Missing option '--model'"],
    ),
    Row(
        "a pass of a curation on a cluster",
        f"{CURATE} --on cpu --only rules",
        ["--only and --shard: --on cpu does every pass and shard"],
        [_GOOD],
    ),
    Row(
        "a selection before the rules",
        f"{CURATE} --only selection",
        ["out: shards are missing", "--only rules first"],
        [_GOOD],
    ),
]
