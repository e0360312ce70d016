"""Whole curations: every conversation has one outcome, and nothing is paid for twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.conversations.curate.curation import curate
from data_prep.conversations.curate.rules import RuleSettings
from data_prep.conversations.curate.selection import Judging
from data_prep.conversations.judge.client import Budget, Endpoint
from data_prep.conversations.judge.rubric import load_rubric
from recipes.common.errors import UserError
from recipes.runs.curated_folder import CurationManifest
from tests.bad_inputs.edits import edited_json_lines
from tests.helpers.conversations import conversations
from tests.helpers.judge_server import HANG, answers, by_the_reply, entries, judge_server

pytestmark = pytest.mark.slow

SUITE = "In which year did the last of the great auks die upon the rocks of Eldey?"


def record(number: int, reply: str) -> dict[str, Any]:
    user = {"role": "user", "content": f"question {number}"}
    return {"messages": [user, {"role": "assistant", "content": reply}], "id": number}


def write(file: Path, records: list[Any]) -> str:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


def run(inputs: list[str] | str, output: Path, **options: Any) -> CurationManifest:
    rules = options.pop("rules", RuleSettings())
    names = [inputs] if isinstance(inputs, str) else inputs
    manifest = curate(names, output, rules, **options)
    assert manifest is not None
    assert manifest.read == manifest.kept + manifest.dropped + manifest.undecided
    assert manifest.read == len(read(output, "audit."))
    assert manifest.kept == len(read(output))
    assert manifest.undecided == len(read(output, "undecided."))
    assert manifest.dropped == sum(manifest.dropped_by.values())
    return manifest


def judging(url: str, budget: Budget | None = None, **options: Any) -> Judging:
    endpoint = Endpoint(url, "judge", 4, first_wait=0.01)
    return Judging(load_rubric(), endpoint, budget or Budget(), **options)


def read(output: Path, kind: str = "") -> list[dict[str, Any]]:
    found = []
    for file in sorted(output.glob(f"shard-?????.{kind}jsonl")):
        found += [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    return found


def test_each_conversation_has_one_outcome_and_the_audit_says_why(tmp_path: Path) -> None:
    (tmp_path / "suite.txt").write_text(SUITE)
    good = record(1, "a reply")
    records = [
        good,
        "nonsense",
        {"text": "no conversation"},
        record(2, "```\ncut"),
        {**good, "id": 7},
        record(3, f"You ask: {SUITE}"),
        {"messages": [*record(4, "fine")["messages"], {"role": "user", "content": "a\u0301?"}]},
        f'{{"messages": {"[" * 1010}{"]" * 1010}}}',
    ]
    file = write(tmp_path / "a.jsonl", records)
    rules = RuleSettings(decontaminate=(str(tmp_path / "suite.txt"),))
    manifest = run(file, tmp_path / "out", rules=rules)

    assert (manifest.read, manifest.kept, manifest.dropped) == (8, 2, 6)
    expected = {"record": 2, "form": 1, "lengths": 1, "contamination": 1, "duplicates": 1}
    assert manifest.dropped_by == expected
    assert manifest.changed_by == {"repair": 1}
    assert manifest.categories["unreadable"] == {"kept": 0, "dropped": 3, "undecided": 0}
    audit = read(tmp_path / "out", "audit.")
    assert [line["record"] for line in audit] == list(range(1, 9))
    assert audit[4]["steps"]["duplicates"] == f"dropped: equals {file}, record 1"
    assert audit[6]["steps"]["repair"].startswith("changed: messages after number 2")
    assert [line["outcome"] for line in audit] == ["kept", *["dropped"] * 5, "kept", "dropped"]
    (example,) = manifest.examples["lengths"]
    assert (example.record, example.prompt, example.reply) == (4, "question 2", "```\ncut")
    assert manifest.rows()[-1] == ("duplicates", 0, 1, 2)


def test_workers_and_shards_change_nothing(tmp_path: Path, monkeypatch) -> None:
    records = list(conversations(120))
    # duplicates in other shards
    files = [
        write(tmp_path / "a.jsonl", records[:60]),
        write(tmp_path / "b.jsonl", [*records[60:], *records[:30]]),
    ]
    alone = run(files, tmp_path / "alone", max_shards=1)
    several = run(files, tmp_path / "several", max_shards=5, workers=2)
    assert len(list((tmp_path / "several").glob("shard-*.audit.jsonl"))) == 5
    assert several == alone
    assert alone.dropped_by["duplicates"] > 0
    for kind in ("", "audit."):
        assert read(tmp_path / "several", kind) == read(tmp_path / "alone", kind)


def test_passes_of_single_shards_give_the_same(tmp_path: Path) -> None:
    records = list(conversations(60))
    files = [write(tmp_path / f"{number}.jsonl", records[number::2]) for number in range(2)]
    whole = run(files, tmp_path / "whole", max_shards=2)
    output = tmp_path / "parts"
    options = {"max_shards": 2}
    for number in (1, 0):
        assert None is curate(files, output, RuleSettings(), only="rules", shard=number, **options)
    with pytest.raises(UserError, match="duplicates have not been looked for"):
        curate(files, output, RuleSettings(), only="selection", shard=0, **options)
    assert curate(files, output, RuleSettings(), only="duplicates", **options) is None
    for number in (1, 0):
        last = curate(files, output, RuleSettings(), only="selection", shard=number, **options)
    assert last == whole
    assert read(output, "audit.") == read(tmp_path / "whole", "audit.")


def test_the_output_is_an_input_of_its_own(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", list(conversations(50)))
    first = run(file, tmp_path / "first")
    (tmp_path / "first/curation.md").write_text("a report")
    second = run(str(tmp_path / "first"), tmp_path / "second")
    assert (second.read, second.kept, second.changed_by) == (first.kept, first.kept, {})
    assert read(tmp_path / "second") == read(tmp_path / "first")


def test_parquet_and_a_data_set_are_curated_as_json_lines_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [record(1, "a reply"), record(2, "another")]
    records[0]["language"] = "de"
    records[0]["documents"] = [{"text": "a document"}]
    file = write(tmp_path / "a.jsonl", records)
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records), folder / "train.parquet")
    run(file, tmp_path / "json")
    for number, name in enumerate((f"{folder}/train.parquet", f"hf:{folder}")):
        output = tmp_path / str(number)
        manifest = run(name, output)
        assert read(output) == read(tmp_path / "json")
        assert manifest.categories["rag"]["kept"] == 1


def test_what_json_cannot_hold_is_dropped(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**record(1, "a"), "image": b"\xff"}]), "a.parquet")
    manifest = run("a.parquet", tmp_path / "out")
    assert manifest.dropped_by == {"record": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_any_bytes_and_any_json_are_accounted_for(tmp_path: Path) -> None:
    records = list(conversations(4))
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    counter = iter(range(10**6))

    @settings(max_examples=100)
    @given(st.one_of(edited_json_lines(lines), st.binary(max_size=200)))
    def account(content: bytes) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        output = tmp_path / str(next(counter))
        try:
            run("a.jsonl", output)
        except UserError as error:
            # of the file as a whole
            assert "UTF-" in str(error) or "array of JSON" in str(error)
            assert not output.exists()

    account()


# --- The judge


def test_the_judge_decides_what_is_kept(tmp_path: Path) -> None:
    replies = ["score 9", "score 7", "score 2", "fault", "nonsense", "score 9"]
    records: list[Any] = [record(number, reply) for number, reply in enumerate(replies)]
    records.insert(2, "no JSON")
    file = write(tmp_path / "a.jsonl", records)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log) as url:
        manifest = run(file, tmp_path / "out", judging=judging(url))
        borderline = run(file, tmp_path / "more", judging=judging(url, keep_borderline=True))

    assert manifest.buckets == {"accept": 2, "borderline": 1, "reject": 2, "undecided": 1}
    assert (manifest.kept, manifest.dropped, manifest.undecided) == (2, 4, 1)
    assert manifest.dropped_by == {"record": 1, "judge": 3}
    assert manifest.faults == {"hallucination": 1}
    assert manifest.dimensions["correctness"] == {
        "kept": [0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
        "dropped": [0, 1, 0, 0, 0, 0, 1, 0, 0, 1],
    }
    outcomes = [line["outcome"] for line in read(tmp_path / "out", "audit.")]
    assert outcomes == [*("kept", "dropped", "dropped", "dropped", "dropped", "undecided", "kept")]
    steps = read(tmp_path / "out", "audit.")[4]["steps"]
    assert steps["judge"] == "dropped: reject, 10.00, hallucination: scripted"
    assert [found["id"] for found in read(tmp_path / "out", "undecided.")] == [4]
    assert (borderline.kept, [found["id"] for found in read(tmp_path / "more")]) == (3, [0, 1, 5])


def test_a_duplicate_is_not_judged(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [record(1, "score 9"), record(1, "score 9")] * 5)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log) as url:
        run(file, tmp_path / "out", judging=judging(url), max_shards=3)
    assert list(answers(log).values()) == [1]


def test_a_spent_budget_loses_nothing_and_a_second_run_asks_for_nothing(tmp_path: Path) -> None:
    records = [record(number, "score 9") for number in range(20)]
    file = write(tmp_path / "a.jsonl", records)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log) as url:
        with pytest.raises(UserError, match="--max-requests 9: the budget is spent"):
            run(file, tmp_path / "out", judging=judging(url, Budget(max_requests=9)))
        manifest = run(file, tmp_path / "out", judging=judging(url))
        assert set(answers(log).values()) == {1}
    # no server any more
    assert run(file, tmp_path / "out", judging=judging(url)) == manifest
    assert manifest.kept == 20


def test_a_killed_run_pays_for_nothing_twice(tmp_path: Path) -> None:
    records = [record(number, f"score {1 + number % 10}") for number in range(24)]
    file = write(tmp_path / "a.jsonl", records)
    output = tmp_path / "out"
    log = tmp_path / "log"
    answered = 14

    def stall(number: int) -> str | None:
        return HANG if number > answered else None

    with judge_server(reply=by_the_reply, fault=stall, log=log) as url:
        command = [sys.executable, "-m", "recipes.cli", "data", "curate", "--input", file]
        command += ["--output", str(output), "--judge", url, "--model", "judge", "--shards", "3"]
        process = subprocess.Popen([*command, "--in-flight", "4", "--workers", "1"])
        end = time.monotonic() + 120
        while sum(answers(log).values()) < answered and time.monotonic() < end:
            time.sleep(0.05)
        # the last answer has been kept when the next one is asked for
        while len(asked_samples(log)) <= answered and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (output / "manifest.json").exists()

    with judge_server(reply=by_the_reply, log=log) as url:
        manifest = run(file, output, judging=judging(url), max_shards=3)
    paid = answers(log)
    assert len(paid) == len(records)
    assert set(paid.values()) == {1}
    assert manifest.read == len(records)
    with judge_server(reply=by_the_reply) as url:
        assert run(file, tmp_path / "alone", judging=judging(url)) == manifest


def asked_samples(log: Path) -> list[Any]:
    return [entry for entry in entries(log, "asked") if entry["sample"]]


def test_another_judge_or_rule_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [record(1, "score 9")])
    run(file, tmp_path / "out")
    with pytest.raises(UserError, match="was started with other rules"):
        run(file, tmp_path / "out", rules=RuleSettings(min_reply_characters=9))
    with (
        judge_server(reply=by_the_reply) as url,
        pytest.raises(UserError, match="was started with other judge"),
    ):
        run(file, tmp_path / "out", judging=judging(url))


def test_files_that_changed_between_the_passes_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [record(1, "a"), record(2, "b")])
    output = tmp_path / "out"
    for name in ("rules", "duplicates"):
        curate([file], output, RuleSettings(), only=name)
    audit = output / ".passes/rules" / f"{shards.shard_name(0)}.audit.jsonl"
    audit.write_text(audit.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="do not add up to them"):
        curate([file], output, RuleSettings(), only="selection")
    assert not (output / "manifest.json").exists()
