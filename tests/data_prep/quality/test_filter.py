import errno
import fcntl
import gzip
import json
import logging
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from data_prep import documents, shards
from data_prep.quality import filter as quality
from data_prep.quality.filter import Steps
from recipes.cli.data import data_app
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

ALL = Steps(
    normalize=True,
    min_characters=20,
    max_characters=50_000,
    exact_duplicates=True,
    near_duplicates=0.8,
)  # and, in `everything`, decontaminate
SUITE = "In which year did the last of the great auks die upon the rocks of Eldey island"


def _text(seed: int, words: int = 200) -> str:
    generator = random.Random(seed)
    return " ".join(f"word{generator.randrange(5000)}" for _ in range(words))


def _near(text: str, changed: int) -> str:
    """``text`` with its last words changed: of w 5-grams, about ``changed`` differ."""
    words = text.split()
    return " ".join(words[:-changed] + [f"new{number}" for number in range(changed)])


def _write(file: Path, texts: list[str]) -> Path:
    rows = [
        {"id": number, "text": text, "meta": {"n": number}} for number, text in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)


@pytest.fixture
def texts() -> list[str]:
    """What every step removes something of: 60 texts and, after them, copies of some."""
    base = [_text(seed) for seed in range(60)]
    return [
        *base,
        "",
        " \n",
        "short",
        "x" * 60_000,
        base[3],
        base[3].replace(
            " ", "\r\n", 1
        ),  # equal to nothing before normalisation, near base[3] before and after
        base[50],
        _near(base[5], 8),  # of 196 5-grams 188 are shared: Jaccard similarity 188/204 = 0.92
        _near(base[6], 70),  # 126/266 = 0.47
        f"He asked: {SUITE.lower()}? {base[8][:100]}",
        "e\u0301" + base[9][::-1],
    ]


@pytest.fixture
def source(tmp_path: Path, texts: list[str]) -> Path:
    return _write(tmp_path / "in.jsonl", texts)


@pytest.fixture
def everything(tmp_path: Path) -> Steps:
    (tmp_path / "suite.txt").write_text(SUITE)
    return Steps(**{**ALL.__dict__, "decontaminate": (str(tmp_path / "suite.txt"),)})


def _run(source: Path | list[str], output: Path, wanted: Steps, **options: Any) -> dict[str, Any]:
    inputs = source if isinstance(source, list) else [str(source)]
    return quality.run(inputs, output, wanted, **options)


def _read(output: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(output.glob("*.jsonl.zst")):
        for part in documents.split_inputs([str(file)], 10**9):
            for document in documents.read(part, others=None):
                yield {"text": document.text, **document.fields}


def _removed(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted(output.glob("*.removed.jsonl"))
        for line in file.read_text().splitlines()
    ]


def test_every_step_removes_what_it_should_and_all_documents_are_accounted_for(
    source: Path, tmp_path: Path, everything: Steps, texts: list[str], small_shards: None
) -> None:
    output = tmp_path / "out"
    manifest = _run(source, output, everything)
    removed = {
        "empty": 2,
        "min_characters": 1,
        "max_characters": 1,
        "exact_duplicates": 2,
        "near_duplicates": 2,
        "decontaminate": 1,
    }
    assert manifest["removed"] == removed and list(manifest["removed"]) == list(removed)
    assert manifest["changed"] == 2
    assert manifest["documents_in"] == len(texts) == manifest["documents"] + sum(removed.values())
    assert manifest["bytes_in"] == sum(len(text.encode()) for text in texts)
    kept = list(_read(output))
    assert len(kept) == manifest["documents"] == 62
    assert manifest["bytes"] == sum(len(row["text"].encode()) for row in kept)
    assert [row["id"] for row in kept] == [*range(60), 68, 70]
    assert kept[4] == {"text": texts[4], "id": 4, "meta": {"n": 4}}
    assert kept[-1]["text"].startswith("é")
    assert len(list(output.glob("shard-*.zst"))) > 3
    assert not (output / ".passes").exists()


def test_the_audit_names_what_was_removed_and_why(
    source: Path, tmp_path: Path, everything: Steps, small_shards: None
) -> None:
    _run(source, tmp_path / "out", everything)
    audit = {line["record"]: line for line in _removed(tmp_path / "out")}
    assert sorted(audit) == [61, 62, 63, 64, 65, 66, 67, 68, 70]
    assert {line.pop("input") for line in audit.values()} == {str(source)}
    assert audit[61] == {"record": 61, "step": "empty", "reason": "no text"}
    assert audit[63] == {"record": 63, "step": "min_characters", "reason": "5 characters"}
    kept = {"input": str(source), "record": 4}
    assert audit[65] == {
        "record": 65,
        "step": "exact_duplicates",
        "reason": "equal text",
        "duplicates": kept,
    }
    assert audit[67]["duplicates"]["record"] == 51
    assert audit[66]["step"] == "near_duplicates" and audit[66]["duplicates"] == kept
    assert audit[68]["duplicates"]["record"] == 6 and 0.8 <= audit[68]["similarity"] < 1
    ngram = " ".join(SUITE.lower().split()[:13])
    assert audit[70]["ngram"] == ngram and audit[70]["suite"].endswith("suite.txt")


def test_nothing_is_done_that_was_not_asked_for(
    source: Path, tmp_path: Path, texts: list[str]
) -> None:
    manifest = _run(source, tmp_path / "out", Steps(min_characters=1))
    assert manifest["removed"] == {"empty": 2, "min_characters": 0} and manifest["changed"] == 0
    assert [row["text"] for row in _read(tmp_path / "out")] == [
        text for text in texts if text.strip()
    ]
    assert not list((tmp_path / "out").glob(".passes"))


def test_workers_and_shards_change_nothing(
    source: Path, tmp_path: Path, everything: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, (size, workers) in enumerate([(10**6, 1), (30_000, 1), (60_000, 1), (60_000, 2)]):
        monkeypatch.setattr(shards, "SHARD_BYTES", size)
        manifest = _run(source, tmp_path / str(number), everything, workers=workers)
        found.append(
            (list(_read(tmp_path / str(number))), _removed(tmp_path / str(number)), manifest)
        )
    assert all(item == found[0] for item in found[1:])
    for file in (tmp_path / "2").glob("shard-*"):
        assert file.read_bytes() == (tmp_path / "3" / file.name).read_bytes()


def test_near_duplicates_above_and_below_the_threshold(tmp_path: Path) -> None:
    texts = [_text(seed) for seed in range(100)]
    close = [_near(text, 6) for text in texts]  # 190/202 = 0.94
    far = [_near(text, 70) for text in texts]  # 0.47
    source = _write(tmp_path / "in.jsonl", texts + close + far)
    manifest = _run(source, tmp_path / "out", Steps(near_duplicates=0.8))
    assert manifest["removed"]["near_duplicates"] == 100
    assert [row["id"] for row in _read(tmp_path / "out")] == [*range(100), *range(200, 300)]
    assert (
        _run(source, tmp_path / "strict", Steps(near_duplicates=1.0))["removed"]["near_duplicates"]
        == 0
    )


def test_nothing_goes_for_resembling_what_is_gone(tmp_path: Path) -> None:
    first = _text(1)
    second = _near(first, 12)  # 0.89 to the first
    third = " ".join(
        [f"begin{number}" for number in range(14)] + second.split()[14:]
    )  # 0.87 to the second, 0.77 to it
    source = _write(tmp_path / "in.jsonl", [first, second, third])
    _run(source, tmp_path / "out", Steps(near_duplicates=0.8))
    assert [row["id"] for row in _read(tmp_path / "out")] == [0, 2]
    source = _write(tmp_path / "other.jsonl", [second, third])
    assert _run(source, tmp_path / "pair", Steps(near_duplicates=0.8))["documents"] == 1


def test_inputs_without_documents_give_none(tmp_path: Path, everything: Steps) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert _run(tmp_path / "empty.jsonl", tmp_path / "out", everything)["documents_in"] == 0
    _write(tmp_path / "blank.jsonl", ["", " "])
    assert _run(tmp_path / "blank.jsonl", tmp_path / "blank", everything)["removed"]["empty"] == 2


def test_short_texts_and_texts_without_words_are_no_near_duplicates(tmp_path: Path) -> None:
    source = _write(tmp_path / "in.jsonl", ["one two", "One, two!", "one three", "---", "!!!"])
    _run(source, tmp_path / "out", Steps(near_duplicates=0.8))
    assert [row["id"] for row in _read(tmp_path / "out")] == [0, 2, 3, 4]


@pytest.mark.parametrize("work", ["sign_shard", "filter_shard"])
def test_a_run_that_fails_in_a_pass_resumes_there(
    work: str,
    source: Path,
    tmp_path: Path,
    everything: Steps,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _run(source, tmp_path / "whole", everything)
    output = tmp_path / "out"
    real = getattr(quality, work)

    def fails(parts: Any, folder: Path, name: str, **options: Any) -> Any:
        if name == "shard-00002":
            raise RuntimeError("killed")
        return real(parts, folder, name, **options)

    monkeypatch.setattr(quality, work, fails)
    with pytest.raises(RuntimeError, match="killed"):
        _run(source, output, everything)
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    assert not (output / "manifest.json").exists()
    done = {file: file.stat().st_mtime_ns for file in output.rglob("shard-0000[01].*")}
    assert done
    with caplog.at_level(logging.INFO):
        _run(source, output, everything)
    assert any("2 of" in line and "finished already" in line for line in caplog.messages)
    for file, time in done.items():
        if ".passes" not in file.parts:
            assert file.stat().st_mtime_ns == time
    files = sorted(file.name for file in output.glob("shard-*"))
    assert files == sorted(file.name for file in (tmp_path / "whole").glob("shard-*"))
    for name in [*files, "manifest.json"]:
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_output_is_left_as_it_is(
    source: Path, tmp_path: Path, everything: Steps
) -> None:
    first = _run(source, tmp_path / "out", everything)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("shard-*")}
    assert _run(source, tmp_path / "out", everything) == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("shard-*")} == times
    next((tmp_path / "out").glob("*.zst")).unlink()
    with pytest.raises(UserError, match="a finished shard is gone or damaged"):
        _run(source, tmp_path / "out", everything)


def test_other_steps_do_not_go_on_in_the_same_folder(
    source: Path, tmp_path: Path, everything: Steps
) -> None:
    _run(source, tmp_path / "out", everything)
    with pytest.raises(UserError, match="was started with other min_characters"):
        _run(source, tmp_path / "out", Steps(**{**everything.__dict__, "min_characters": 21}))
    (tmp_path / "suite.txt").write_text(SUITE + " then")
    with pytest.raises(UserError, match="was started with other evaluation_sha256"):
        _run(source, tmp_path / "out", everything)


def test_a_second_process_is_refused_in_every_pass(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with (output / ".filter.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing here"):
            _run(source, output, Steps(exact_duplicates=True))
    _run(source, output, Steps(exact_duplicates=True))


@pytest.mark.parametrize("place", ["sign_shard", "filter_shard", "decide"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    place: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(quality.duplicates if place == "decide" else quality, place, full)
        with pytest.raises(UserError, match="no space left on the device"):
            _run(source, tmp_path / "out", Steps(exact_duplicates=True))
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert (
        _run(source, tmp_path / "out", Steps(exact_duplicates=True))["removed"]["exact_duplicates"]
        == 2
    )


def test_a_change_of_the_input_between_two_passes_removes_nothing_wrongly(
    source: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = quality.duplicates.decide

    def changes(*arguments: Any, **options: Any) -> None:
        decide(*arguments, **options)
        swapped = texts.copy()
        swapped[64], swapped[63] = swapped[63], swapped[64]
        _write(source, swapped)

    monkeypatch.setattr(quality.duplicates, "decide", changes)
    with pytest.raises(UserError, match="was changed while it was being filtered"):
        _run(source, tmp_path / "out", Steps(exact_duplicates=True))


def test_an_input_that_changed_after_a_killed_run_is_refused(
    source: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(quality.duplicates, "decide", dies)
        with pytest.raises(RuntimeError, match="killed"):
            _run(source, tmp_path / "out", Steps(exact_duplicates=True))
    data = source.read_bytes()
    source.write_bytes(data.replace(b"word1", b"word2", 1))
    with pytest.raises(UserError, match=r"in\.jsonl: has changed since .*out was started"):
        _run(source, tmp_path / "out", Steps(exact_duplicates=True))
    source.write_bytes(data)
    assert _run(source, tmp_path / "out", Steps(exact_duplicates=True))["documents"] > 0


def test_other_fields_are_written_as_they_came(tmp_path: Path) -> None:
    line = b'{"text":"a text","id":18446744073709551617,"score":NaN,"tags":["x",-Infinity]}\n'
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    table = pa.table({"text": ["b"], "score": [float("nan")], "day": [date(2025, 1, 31)]})
    pq.write_table(table, tmp_path / "in.parquet")
    _run([str(tmp_path / "in.jsonl")], tmp_path / "lines", Steps(normalize=True))
    _run([str(tmp_path / "in.parquet")], tmp_path / "rows", Steps(normalize=True))

    def written(folder: Path) -> bytes:
        with zstandard.open(folder / "shard-00000.jsonl.zst") as stream:
            return stream.read()

    assert written(tmp_path / "lines") == line
    assert written(tmp_path / "rows") == b'{"text":"b","score":NaN,"day":"2025-01-31"}\n'
    # and is read again
    assert [row["text"] for row in _read(tmp_path / "lines")] == ["a text"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_conversation_is_read_again_from_where_it_was_written(tmp_path: Path, kind: str) -> None:
    rows = [{"turns": [{"role": "user", "content": "Why?\r\n"}, {"role": "a", "content": "So."}]}]
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows[0]) + "\n")
    _run(file, tmp_path / "out", Steps(normalize=True), text_field="turns[]")
    [part] = documents.split_inputs([str(tmp_path / "out")], 10**9)
    [document] = documents.read(part, "turns[]", others=None)
    assert document.text == "Why?\n\n\nSo."
    assert document.fields == rows[0]


def test_files_that_are_passed_over_are_counted(source: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("text\n")
    manifest = _run([str(source.parent)], tmp_path.parent / "out", Steps(normalize=True))
    assert manifest["passed_over"] == {"unknown kind of file": 1}


def test_bad_inputs_end_in_one_sentence(source: Path, tmp_path: Path) -> None:
    wanted, data = Steps(normalize=True), gzip.compress(source.read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "bad.jsonl.gz").write_bytes(data[:300] + b"\xff" * 40 + data[340:])
    (tmp_path / "not.jsonl").write_text('{"text": "a"}\n{"text": \n')
    for name, expected in [
        ("gone.jsonl", "gone.jsonl: no such file"),
        ("cut.jsonl.gz", "cut.jsonl.gz: is truncated"),
        ("bad.jsonl.gz", "bad.jsonl.gz: is damaged"),
        ("not.jsonl", "not.jsonl, record 2: is not JSON"),
    ]:
        with pytest.raises(UserError, match=expected) as caught:
            _run(tmp_path / name, tmp_path / f"out-{name}", wanted)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no field 'body' among id, meta, text"):
        _run(source, tmp_path / "out", wanted, text_field="body")
    with pytest.raises(UserError, match="no step is asked for"):
        _run(source, tmp_path / "none", Steps())
    with pytest.raises(UserError, match="no text passes"):
        _run(source, tmp_path / "none", Steps(min_characters=3, max_characters=2))


def test_parquet_and_text_files_in_one_run(tmp_path: Path) -> None:
    table = pa.table(
        {"url": ["a", "b", "c"], "text": [_text(1), _text(2), _text(1)], "score": [0.5, None, 1.0]}
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    (tmp_path / "a.txt").write_text(_text(2))
    _run(
        [str(tmp_path / "in.parquet"), str(tmp_path / "a.txt")],
        tmp_path / "out",
        Steps(exact_duplicates=True),
    )
    assert list(_read(tmp_path / "out")) == [
        {"text": _text(1), "url": "a", "score": 0.5},
        {"text": _text(2), "url": "b", "score": None},
    ]
    assert [
        (line["record"], line["duplicates"]["record"]) for line in _removed(tmp_path / "out")
    ] == [(3, 1), (1, 2)]
    pq.write_table(pa.table({"text": ["abc"], "raw": [b"\xff"]}), tmp_path / "bytes.parquet")
    with pytest.raises(UserError, match="record 1: a field cannot be written as JSON"):
        _run(tmp_path / "bytes.parquet", tmp_path / "bytes", Steps(exact_duplicates=True))


def test_command(source: Path, tmp_path: Path, everything: Steps) -> None:
    arguments = [
        "filter",
        "--input",
        str(source),
        str(tmp_path / "suite.txt"),
        "--output",
        str(tmp_path / "out"),
    ]
    arguments += [
        "--workers",
        "1",
        "--normalize",
        "--min-characters",
        "20",
        "--max-characters",
        "50000",
    ]
    arguments += ["--exact-duplicates", "--near-duplicates", "--jaccard", "0.8", "--decontaminate"]
    result = CliRunner().invoke(
        data_app, [*arguments, str(tmp_path / "suite.txt")], catch_exceptions=False
    )
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines()]
    assert ["normalize", "0", "2", "72"] in rows and ["near_duplicates", "2", "64"] in rows
    assert ["decontaminate", "2", "62"] in rows
