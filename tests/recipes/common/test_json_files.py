"""JSON files: what is written is read back; damage is named with its file and key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipes.common.errors import UserError
from recipes.common.json_files import (
    parse_record,
    read_json,
    read_json_lines,
    read_json_or_none,
    read_record,
    write_json,
    write_record,
)


@dataclass(frozen=True)
class Leaf:
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Record:
    leaves: dict[str, Leaf]
    sizes: tuple[int, ...]
    notes: list[str] = field(default_factory=list)


RECORD = Record({"ä": Leaf("one", 0.5), "b": Leaf("two")}, (1, 2), ["x"])


def test_a_record_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path / "file.json", RECORD)
    assert read_record(Record, tmp_path / "file.json", "do it again") == RECORD
    assert "ä" in (tmp_path / "file.json").read_text(encoding="utf-8")


def test_other_keys_are_ignored_and_defaults_fill_in() -> None:
    value = {"leaves": {}, "sizes": [], "newer": 3}
    assert parse_record(Record, value, "file", "") == Record({}, ())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"sizes": []}, "file: has no key 'leaves'; do it again"),
        ({"leaves": {}, "sizes": 5}, "file: key 'sizes' holds 5 (int); do it again"),
        ({"leaves": {}, "sizes": ["x"]}, "file: key 'sizes' holds"),
        ({"leaves": {}, "sizes": [], "notes": {}}, "file: key 'notes' holds {} (dict)"),
        ({"leaves": {"a": {"name": 5}}, "sizes": []}, "file: key 'leaves"),
        ({"leaves": {"a": {}}, "sizes": []}, "file: has no key 'leaves"),
        ({"leaves": {"a": 3}, "sizes": []}, "file: "),
        ({"leaves": [], "sizes": []}, "file: "),
    ],
)
def test_a_damaged_record_is_one_sentence(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_record(Record, value, "file", "do it again")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; do it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
        (b"[]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, "do it again")
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith("; do it again")
    assert read_json_or_none(path) is None


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: no such file; do it"):
        read_json(tmp_path / "none.json", "do it")
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be read"):
        read_json(tmp_path, "do it")
    assert read_json_or_none(tmp_path / "none.json") is None


def test_a_value_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    assert read_json_or_none(tmp_path / "file.json") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_last_line_may_be_half_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in read_json_lines(path)] == [1, 2]


def test_damaged_lines_are_counted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n[]\n\xff\n{"step": 2}\n')
    damaged: list[int] = []
    assert [line["step"] for line in read_json_lines(path, damaged)] == [1, 2]
    assert damaged == [2, 3]
    with pytest.raises(UserError, match=r"lines\.jsonl: line 2 holds no JSON object"):
        list(read_json_lines(path))
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        list(read_json_lines(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("share", [10**400, -1e200])
def test_a_number_beyond_all_bounds_is_refused(share: float) -> None:
    value = {"leaves": {"a": {"name": "x", "share": share}}, "sizes": []}
    with pytest.raises(UserError, match=r"file: key 'leaves.a.share' holds a number beyond all"):
        parse_record(Record, value, "file", "")


def test_a_score_may_be_infinite() -> None:
    value = {"leaves": {"a": {"name": "x", "share": float("inf")}}, "sizes": []}
    assert parse_record(Record, value, "file", "").leaves["a"].share == float("inf")
