"""Runs over files: every sample is paid once, and is in one bucket."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from data_prep.conversations.judge.cache import FILE, open_cache
from data_prep.conversations.judge.client import Budget, Endpoint
from data_prep.conversations.judge.files import Summary, judge_files
from data_prep.conversations.judge.rubric import BUCKETS, load_rubric
from recipes.common.errors import LockedError, UserError
from tests.helpers.judge_server import HANG, Asked, answers, entries, judge_server

pytestmark = pytest.mark.slow

SAMPLES = 30
IN_FLIGHT = 4


def write(folder: Path, replies: list[str]) -> Path:
    file = folder / "a.jsonl"
    with file.open("w") as stream:
        for number, reply in enumerate(replies):
            user = {"role": "user", "content": f"question {number}"}
            assistant = {"role": "assistant", "content": reply}
            stream.write(json.dumps({"messages": [user, assistant]}) + "\n")
    return file


def judge(file: Path, output: Path, url: str, budget: Budget | None = None, **more) -> Summary:
    endpoint = Endpoint(url, "judge", more.pop("in_flight", IN_FLIGHT), first_wait=0.01)
    rubric = load_rubric(more.pop("rubric", None))
    return asyncio.run(judge_files([str(file)], output, rubric, endpoint, budget or Budget()))


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "verdicts.jsonl").read_text().splitlines()]


def by_the_reply(asked: Asked) -> str:
    """Do what the sample's reply says."""
    word, _, number = asked.reply.partition(" ")
    if word == "score":
        return json.dumps(asked.verdict(int(number)))
    if word == "fault":
        return json.dumps(asked.verdict(10, hallucination=True))
    if word == "half":
        return json.dumps(asked.verdict())[:-9]
    return "I would rather not."


def test_each_conversation_is_in_one_bucket(tmp_path: Path) -> None:
    replies = ["score 9", "score 7", "score 2", "fault", "half", "nonsense", "score 10"]
    file = write(tmp_path, replies)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log) as url:
        summary = judge(file, tmp_path / "out", url)

    assert summary.buckets == {"accept": 2, "borderline": 1, "reject": 2, "undecided": 2}
    assert summary.conversations == sum(summary.buckets.values()) == len(replies)
    assert summary.faults["hallucination"] == sum(summary.faults.values()) == 1
    found = lines(tmp_path / "out")
    assert [line["bucket"] for line in found] == [
        *("accept", "borderline", "reject", "reject", "undecided", "undecided", "accept")
    ]
    assert [line["record"] for line in found] == [f"{file}, record {n}" for n in range(1, 8)]
    assert found[3]["score"] == 10
    assert "is no JSON object" in found[4]["reason"]
    # the probe, five verdicts, and three tries for each of the undecided
    assert summary.requests == len(entries(log, "asked")) == 1 + 5 + 2 * 3
    assert json.loads((tmp_path / "out/summary.json").read_text())["buckets"] == summary.buckets


def test_bad_records_are_counted_and_the_others_judged(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9", "score 2"])
    first, second = file.read_text().splitlines()
    file.write_text("\n".join(["null and void", first, '{"text": "a"}', "{", second, "7"]) + "\n")
    with judge_server(reply=by_the_reply) as url:
        summary = judge(file, tmp_path / "out", url)
    assert (summary.conversations, summary.bad_records) == (2, 4)
    found = lines(tmp_path / "out")
    assert [line["record"] for line in found] == [f"{file}, record {n}" for n in range(1, 7)]
    bad = "bad_record"
    assert [line["bucket"] for line in found] == [bad, "accept", bad, bad, "reject", bad]
    assert found[2]["reason"].startswith("field 'messages' holds null")


def test_parquet_is_judged_as_json_lines_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = write(tmp_path, ["score 9", "score 2"])
    records = [json.loads(line) for line in file.read_text().splitlines()]
    # a column that one record has
    records[0]["documents"] = [{"text": "a document"}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(records), parquet)

    with judge_server(reply=by_the_reply) as url:
        first = judge(file, tmp_path / "out", url)
        second = judge(parquet, tmp_path / "out", url)
    assert (first.buckets, second.requests) == (second.buckets, 0)
    assert first.categories["rag"]["accept"] == 1


def test_a_second_run_asks_for_nothing_and_thresholds_change_for_free(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 7", "nonsense"])
    with judge_server(reply=by_the_reply) as url:
        first = judge(file, tmp_path / "out", url)
    rubric = load_rubric_text().replace("value: 8.0", "value: 6.5")
    (tmp_path / "mine.yaml").write_text(rubric)

    # no server any more
    second = judge(file, tmp_path / "out", url, rubric=tmp_path / "mine.yaml")
    assert (first.buckets["borderline"], second.buckets["accept"]) == (1, 1)
    assert (second.buckets["undecided"], second.requests) == (1, 0)


def load_rubric_text() -> str:
    from data_prep.conversations.judge.rubric import SHIPPED

    return SHIPPED.read_text()


def test_equal_conversations_are_asked_for_once(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9"])
    file.write_text(file.read_text() * 10)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log, seconds=0.1) as url:
        summary = judge(file, tmp_path / "out", url)
    assert summary.buckets["accept"] == 10
    assert list(answers(log).values()) == [1]


def test_a_killed_run_pays_for_no_sample_twice(tmp_path: Path) -> None:
    file = write(tmp_path, [f"score {1 + number % 10}" for number in range(SAMPLES)])
    output = tmp_path / "out"
    log = tmp_path / "log"
    answered = 11

    def stall(number: int) -> str | None:
        return HANG if number > answered else None

    with judge_server(reply=by_the_reply, fault=stall, log=log) as url:
        command = [sys.executable, "-m", "recipes.cli", "data", "judge", "--input", str(file)]
        command += ["--output", str(output), "--endpoint", url, "--model", "judge"]
        process = subprocess.Popen([*command, "--in-flight", str(IN_FLIGHT)])
        # all that were answered have been kept when as many as may be in flight wait for an answer
        wanted = 1 + answered + IN_FLIGHT
        end = time.monotonic() + 120
        while len(entries(log, "asked")) < wanted and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert sum(answers(log).values()) == answered
    assert not (output / "verdicts.jsonl").exists()

    with judge_server(reply=by_the_reply, log=log) as url:
        summary = judge(file, output, url)
    paid = answers(log)
    assert len(paid) == SAMPLES
    assert set(paid.values()) == {1}
    assert summary.requests == 1 + SAMPLES - answered
    assert Counter(line["bucket"] for line in lines(output)) == {
        name: count for name, count in summary.buckets.items() if count
    }


def test_a_spent_budget_loses_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9"] * SAMPLES)
    log = tmp_path / "log"
    with judge_server(reply=by_the_reply, log=log, seconds=0.02) as url:
        with pytest.raises(UserError, match="--max-requests 12: the budget is spent"):
            judge(file, tmp_path / "out", url, Budget(max_requests=12))
        assert sum(answers(log).values()) == 11
        assert not (tmp_path / "out/verdicts.jsonl").exists()
        summary = judge(file, tmp_path / "out", url)
    assert set(answers(log).values()) == {1}
    assert summary.buckets["accept"] == SAMPLES


def test_a_sample_that_the_server_refuses_is_undecided_and_not_kept(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9"])
    too_long = (400, {}, {"error": {"message": "This model's maximum context length is 9"}})
    with judge_server(reply=by_the_reply, fault=lambda number: too_long) as url:
        summary = judge(file, tmp_path / "out", url)
        assert summary.buckets["undecided"] == 1
        assert "maximum context length" in lines(tmp_path / "out")[0]["reason"]
    with judge_server(reply=by_the_reply) as url:
        assert judge(file, tmp_path / "out", url).buckets["accept"] == 1


def test_any_words_of_the_judge_are_written(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9"])
    words = "half of a pair \ud83d, a line\u2028and <|im_end|>"

    def reply(asked: Asked) -> str:
        return json.dumps(asked.verdict() | {"reason": words})

    with judge_server(reply=reply) as url:
        judge(file, tmp_path / "out", url)
    (line,) = (tmp_path / "out/verdicts.jsonl").read_text().split("\n")[:-1]
    assert json.loads(line)["verdict"]["reason"] == words


def test_the_summary_has_all_buckets(tmp_path: Path) -> None:
    file = write(tmp_path, ["score 9"])
    with judge_server(reply=by_the_reply) as url:
        summary = judge(file, tmp_path / "out", url)
    assert tuple(summary.buckets) == BUCKETS


def test_two_processes_do_not_judge_in_one_folder(tmp_path: Path) -> None:
    with (
        open_cache(tmp_path) as cache,
        pytest.raises(LockedError, match="another process works"),
    ):
        cache.put("key", {"undecided": ""})
        with open_cache(tmp_path):
            pass
    with open_cache(tmp_path) as cache:
        assert cache.get("key") == {"undecided": ""}


def test_a_cache_without_an_answer_leaves_nothing(tmp_path: Path) -> None:
    with open_cache(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"no database at all, but text" * 99, b"SQLite format 3\0"])
def test_a_damaged_cache_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=f"{FILE}: cannot be used"), open_cache(tmp_path):
        pass
    assert (tmp_path / FILE).read_bytes() == content


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(UserError, match="is of another version"), open_cache(tmp_path):
        pass
