"""Shards: cut evenly, done once, whole or not at all, and never by two processes at a time."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data_prep import shards
from data_prep.documents import Part
from data_prep.shards import Plan
from recipes.common.errors import LockedError, UserError

pytestmark = pytest.mark.slow

PLAN = Plan([[Part(f"input {n}", 0, 1, 10)] for n in range(5)])


def write_name(parts: list[Part], folder: Path, name: str) -> dict:
    (folder / f"{name}.txt").write_text(parts[0].input)
    return {"documents": 1, "notes": [f"noticed {name}"]}


def run(output: Path, work=write_name, **options) -> None:
    plan = options.pop("plan", PLAN)
    settings = options.pop("settings", {"a": 1})
    shards.run(output, plan, settings, work, **options)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "data_prep")
    return caplog


def contents(output: Path) -> dict[str, str]:
    return {
        path.name: path.read_text()
        for path in sorted(output.iterdir())
        if not path.name.startswith(".")
    }


@pytest.mark.parametrize(
    ("sizes", "max_shards", "lengths"),
    [
        ([10] * 6, 3, [2, 2, 2]),
        ([10] * 2, 5, [1, 1]),
        ([100, 1, 1, 1, 1, 96], 2, [1, 5]),
        ([0] * 4, 2, [2, 2]),
        ([7], 1, [1]),
    ],
)
def test_cut(sizes: list[int], max_shards: int, lengths: list[int]) -> None:
    parts = [Part(str(number), 0, 1, size) for number, size in enumerate(sizes)]
    groups = shards.cut(parts, max_shards)
    assert [len(group) for group in groups] == lengths
    assert [part for group in groups for part in group] == parts


def test_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "0123456789"}\n' * 1000)
    size = lines.stat().st_size
    (tmp_path / "set").mkdir()
    for name in "abc":
        (tmp_path / f"set/{name}.jsonl").write_text('{"text": "x"}\n')
    assert len(shards.make_plan([str(lines)]).shards) == 1
    assert [
        [part.bytes for part in group] for group in shards.make_plan([str(lines)], 4).shards
    ] == [[size // 4]] * 4
    assert len(shards.make_plan([f"hf:{tmp_path / 'set'}"]).shards) == 3
    assert len(shards.make_plan([f"hf:{tmp_path / 'set'}"], 2).shards) == 2
    monkeypatch.setattr(shards, "SHARD_BYTES", 5)
    assert len(shards.make_plan([str(lines)]).shards) == 1000


def test_a_run_writes_every_shard_and_its_manifest_and_says_so(tmp_path: Path, log) -> None:
    run(tmp_path / "out", label="pass one: ")
    assert len(log.messages) == 10
    assert ("data_prep.shards", logging.WARNING, "noticed shard-00000") in log.record_tuples
    assert "pass one: shard-00004, 5/5: 1 documents" in log.messages[-1]
    manifests = shards.manifests(tmp_path / "out") or []
    assert [manifest["index"] for manifest in manifests] == [0, 1, 2, 3, 4]
    assert (tmp_path / "out/shard-00003.txt").read_text() == "input 3"
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_shards_one_by_one_as_in_a_job_array_give_the_same(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    for index in (3, 0, 4, 1):
        run(tmp_path / "array", only=index)
    assert shards.manifests(tmp_path / "array") is None
    run(tmp_path / "array", only=2)
    assert contents(tmp_path / "array") == contents(tmp_path / "whole")
    with pytest.raises(UserError, match="shard 5: there are 5, expected 0 to 4"):
        run(tmp_path / "array", only=5)


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def fail_at_three(parts: list[Part], folder: Path, name: str) -> dict:
    write_name(parts, folder, name)
    if parts[0].input == "input 3":
        raise UserError("no more")
    return {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_keeps_finished_shards_and_leaves_no_torn_one(
    tmp_path: Path, log, workers: int
) -> None:
    with pytest.raises(UserError, match="no more"):
        run(tmp_path / "out", fail_at_three, workers=workers)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
    assert {"shard-00000.txt", "shard-00000.json"} <= set(kept)
    assert not [name for name in kept if "00003" in name]
    assert not list((tmp_path / "out").glob(".*.partial"))
    run(tmp_path / "out")
    assert log.messages[-2 * (5 - len(kept) // 2) - 1] == (
        f"{len(kept) // 2} of 5 shards are finished already"
    )
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
    assert files.items() >= kept.items()
    assert len(shards.manifests(tmp_path / "out") or []) == 5


def fill_the_disk(parts: list[Part], folder: Path, name: str) -> dict:
    write_name(parts, folder, name)
    if parts[0].input == "input 2":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return {}


def test_a_full_disk_keeps_finished_shards(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"out: no space left on the device, finished shards are kept; free some"
    ):
        run(tmp_path / "out", fill_the_disk)
    assert sorted(contents(tmp_path / "out")) == [
        *(
            "plan.json",
            "shard-00000.json",
            "shard-00000.txt",
            "shard-00001.json",
            "shard-00001.txt",
        ),
    ]


def die(parts: list[Part], folder: Path, name: str) -> dict:
    if parts[0].input == "input 4":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return write_name(parts, folder, name)


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"out: a worker process died, .*; finished shards are kept"
    ):
        run(tmp_path / "out", die, workers=2)
    run(tmp_path / "out")
    assert len(shards.manifests(tmp_path / "out") or []) == 5


def test_a_killed_run_is_resumed(tmp_path: Path, log) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent("""\
            import sys, time
            from pathlib import Path
            from data_prep import shards
            from data_prep.documents import Part
            from data_prep.shards import Plan
            def work(parts, folder, name):
                (folder / f"{name}.txt").write_text(parts[0].input)
                time.sleep(60 if name.endswith("2") else 0)
                return {"documents": 1, "notes": [f"noticed {name}"]}
            plan = Plan([[Part(f"input {n}", 0, 1, 10)] for n in range(5)])
            shards.run(Path(sys.argv[1]), plan, {"a": 1}, work)
            """)
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")], stdout=subprocess.DEVNULL
    )
    while not list((tmp_path / "out").glob(".shard-00002.*/*.txt")):
        assert process.poll() is None
        time.sleep(0.02)
    refused = rf"out: process {process.pid} on .* is writing here; wait until it has ended, or stop"
    with pytest.raises(LockedError, match=refused):
        run(tmp_path / "out")
    with pytest.raises(LockedError, match=refused):
        run(tmp_path / "out", only=4)
    process.kill()
    process.wait()
    first = (tmp_path / "out/shard-00001.txt").stat().st_mtime_ns
    run(tmp_path / "out")
    assert log.messages[0] == "2 of 5 shards are finished already"
    assert (tmp_path / "out/shard-00001.txt").stat().st_mtime_ns == first
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_array_tasks_run_beside_each_other_but_not_on_the_same_shard(tmp_path: Path) -> None:
    def nested(parts: list[Part], folder: Path, name: str) -> dict:
        run(tmp_path / "out", only=1)
        with pytest.raises(LockedError, match=rf"out: process {os.getpid()} on .* is writing here"):
            run(tmp_path / "out", only=0)
        with pytest.raises(LockedError, match="out: another process is writing here"):
            run(tmp_path / "out")
        return write_name(parts, folder, name)

    run(tmp_path / "out", nested, only=0)
    assert {"shard-00000.txt", "shard-00001.txt"} <= set(contents(tmp_path / "out"))


def test_a_shard_whose_file_is_gone_or_torn_is_done_again(tmp_path: Path, log) -> None:
    run(tmp_path / "out")
    (tmp_path / "out/shard-00001.txt").unlink()
    (tmp_path / "out/shard-00002.txt").write_text("inp")
    (tmp_path / "out/shard-00004.json").write_text('{"index": 4, ')
    log.clear()
    run(tmp_path / "out")
    assert log.messages[0] == "2 of 5 shards are finished already"
    assert (tmp_path / "out/shard-00002.txt").read_text() == "input 2"
    assert json.loads((tmp_path / "out/shard-00004.json").read_text())["index"] == 4


def test_another_plan_or_other_files_are_not_mixed_in(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        UserError,
        match=r"out: was started with other a than now, and shards of both would be mixed",
    ):
        run(tmp_path / "out", settings={"a": 2})
    with pytest.raises(UserError, match=r"out: was started with other shards than now"):
        run(tmp_path / "out", plan=Plan(PLAN.shards[:4]))
    assert contents(tmp_path / "out") == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("a letter")
    with pytest.raises(UserError, match=r"full: holds other files, expected a folder that is new"):
        run(tmp_path / "full")
    with pytest.raises(UserError, match=r"letter.txt: is a file, expected a folder"):
        run(tmp_path / "full/letter.txt")


def make_inputs(folder: Path) -> list[str]:
    inputs = [str(folder / name) for name in ("a.jsonl", "b.jsonl")]
    for name in inputs:
        Path(name).write_text('{"text": "12345"}\n')
    return inputs


def test_a_changed_input_is_named_and_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    run(tmp_path / "out", plan=shards.make_plan(inputs, 2), only=0)
    before = contents(tmp_path / "out")
    # of the same size, and at the same time as before
    state = Path(inputs[1]).stat()
    for text in ('{"text": "54321"}\n', '{"text": "1234567890"}\n'):
        Path(inputs[1]).write_text(text)
        os.utime(inputs[1], ns=(state.st_atime_ns, state.st_mtime_ns))
        for only in (0, 1, None):
            with pytest.raises(UserError, match=r"^\S*b\.jsonl: has changed since .*out was star"):
                run(tmp_path / "out", plan=shards.make_plan(inputs, 2), only=only)
    assert contents(tmp_path / "out") == before


def test_an_input_that_changes_while_it_is_read(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)

    def change(parts: list[Part], folder: Path, name: str) -> dict:
        Path(inputs[1]).write_text('{"text": "54321"}\n')
        return write_name(parts, folder, name)

    with pytest.raises(UserError, match=r"^\S*b\.jsonl: has changed since .*out was started"):
        run(tmp_path / "out", change, plan=shards.make_plan(inputs, 2))
    # the one before was read as it is
    assert set(contents(tmp_path / "out")) == {"plan.json", "shard-00000.json", "shard-00000.txt"}


def test_an_input_that_only_has_another_time_is_the_same(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    run(tmp_path / "out", plan=shards.make_plan(inputs, 2), only=0)
    os.utime(inputs[1], (1, 1))
    run(tmp_path / "out", plan=shards.make_plan(inputs, 2))
    assert len(shards.manifests(tmp_path / "out") or []) == 2


def test_an_input_that_came_or_went_is_named_and_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    run(tmp_path / "out", plan=shards.make_plan([str(tmp_path)]), only=0)
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(UserError, match=r"^\S*c\.jsonl: was no input when .*out was started"):
        run(tmp_path / "out", plan=shards.make_plan([*inputs, str(tmp_path / "c.jsonl")]))
    with pytest.raises(UserError, match=r"^\S*b\.jsonl: is an input of .*out and is not given now"):
        run(tmp_path / "out", plan=shards.make_plan(inputs[:1]))


def test_a_plan_of_a_former_version_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "out")
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    former = {"settings": plan["settings"], "shards": plan["plan"]["shards"]}
    (tmp_path / "out/plan.json").write_text(json.dumps(former))
    with pytest.raises(
        UserError, match=r"plan\.json: has no key 'plan'; name another --output, or remove the fol"
    ):
        run(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("plan.json", b'{"settings"', "plan.json: is not valid JSON"),
        ("plan.json", b'"\xff"', "plan.json: is not UTF-8 text"),
        ("plan.json", b"[]", "plan.json: holds a JSON list, expected an object"),
        ("plan.json", b'{"settings": {}}', "plan.json: has no key 'plan'"),
        (
            "plan.json",
            b'{"settings": {}, "plan": {"shards": 5}}',
            "plan.json: key 'plan.shards' holds 5",
        ),
        (
            "shard-00003.json",
            b'{"index": 3, "file_bytes": [1]}',
            "shard-00003.json: key 'file_bytes' holds",
        ),
        ("shard-00003.json", b'{"index": "3"}', "shard-00003.json: key 'index' holds '3'"),
    ],
)
def test_a_damaged_plan_or_manifest_is_named(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    run(tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        run(tmp_path / "out")
    assert "\n" not in str(caught.value)
