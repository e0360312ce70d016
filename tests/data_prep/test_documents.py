"""Reading inputs: the same documents however they are cut; damage is named by file and record."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.documents import BadRecord, read, split_inputs, where
from data_prep.hub import HubInput
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

TEXTS = [f"document {n}: größer, 日本語 🙂\r\nline two\t" + "x" * (n * 37 % 101) for n in range(40)]
LINES = b"".join(
    json.dumps({"id": n, "text": text}).encode() + b"\n" for n, text in enumerate(TEXTS)
)


MARK = b"\xef\xbb\xbf"
# where a line ends, so that two files with a mark each can be joined there
HALF = LINES.index(b"\n", 2000) + 1


def read_texts(path: Path | str, piece_bytes: int = 1 << 20, **options) -> list[str]:
    return [
        document.text
        for part in split_inputs([str(path)], piece_bytes)
        for document in read(part, **options)
    ]


def parquet(path: Path, texts: list, column: str = "text", kind: pa.DataType | None = None) -> Path:
    pq.write_table(
        pa.table({column: pa.array(texts, kind), "id": range(len(texts))}), path, row_group_size=7
    )
    return path


def many_frames(data: bytes) -> bytes:
    return b"".join(
        zstandard.compress(data[start : start + 999]) for start in range(0, len(data), 999)
    )


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "plain.jsonl": LINES,
        "no_newline_at_the_end.json": LINES.rstrip(b"\n"),
        "blank.jsonl": LINES.replace(b"\n", b"\n\n  \n"),
        "a.jsonl.gz": gzip.compress(LINES),
        "two_members.jsonl.gz": gzip.compress(LINES[:2000]) + gzip.compress(LINES[2000:]),
        "a.jsonl.zst": zstandard.compress(LINES),
        "frames.jsonl.zst": many_frames(LINES),
        "a.jsonl.xz": lzma.compress(LINES),
        "two_streams.jsonl.bz2": bz2.compress(LINES[:2000]) + bz2.compress(LINES[2000:]),
        "mark.jsonl": MARK + LINES,
        "mark.JSONL.GZ": gzip.compress(MARK + LINES),
        "two_marks.ndjson": MARK + LINES[:HALF] + MARK + LINES[HALF:],
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    parquet(tmp_path / "a.parquet", TEXTS)
    return {name: tmp_path / name for name in [*contents, "a.parquet"]}


def test_every_kind_gives_the_same_documents_however_it_is_cut(inputs: dict[str, Path]) -> None:
    for name, path in inputs.items():
        for piece_bytes in (1 << 30, 1000, 100, 10, 1):
            assert read_texts(path, piece_bytes) == TEXTS, (name, piece_bytes)


def test_cutting(inputs: dict[str, Path]) -> None:
    parts = split_inputs([str(inputs["plain.jsonl"])], 500)
    assert len(parts) == round(len(LINES) / 500)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert sum(part.bytes for part in parts) == len(LINES)
    assert len(split_inputs([str(inputs["a.parquet"])], 500)) == 6
    assert len(split_inputs([str(inputs["a.jsonl.gz"])], 500)) == 1


def test_other_fields(inputs: dict[str, Path]) -> None:
    for name in ("plain.jsonl", "a.parquet"):
        part = split_inputs([str(inputs[name])], 1 << 30)[0]
        found = [document.fields for document in read(part, others=("id", "absent"))]
        assert found[:2] == [{"id": 0, "absent": None}, {"id": 1, "absent": None}], name


ROWS = [
    {"problem": "1+1?", "solution": "2", "empty": None, "a+b": "plus"},
    {"problem": "2+2?", "solution": "4", "empty": None, "a+b": "plus"},
]
RULES = {
    "problem+solution": "1+1?\n\n2",
    "problem+empty+solution": "1+1?\n\n2",
    "a+b": "plus",
    "files[].content": "x = 1\n\ny = 2",
    "turns[]": "Why?\n\nBecause.",
    "said[]": "Hello\n\nWorld",
    "problem+turns[]": "1+1?\n\nWhy?\n\nBecause.",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_text_out_of_several_fields(tmp_path: Path, rule: str, kind: str) -> None:
    lists = {
        "files": [{"path": "a", "content": "x = 1"}, {"path": "b", "content": "y = 2"}],
        "turns": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
        "said": [{"from": "a", "value": "Hello"}, {"from": "b", "value": "World"}],
    }
    rows, path = [row | lists for row in ROWS], tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_texts(path, field=rule)[0] == RULES[rule]
    with pytest.raises(BadRecord, match=r"record 1: no field 'absent' among a\+b, empty, files"):
        read_texts(path, field="problem+absent")
    with pytest.raises(BadRecord, match=r"record 1: field 'empty' holds NoneType, expected text"):
        read_texts(path, field="empty")
    with pytest.raises(BadRecord, match=r"record 1: field 'problem' holds str, expected a list"):
        read_texts(path, field="problem[]")


def test_plain_text_is_one_document_a_file_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/second.txt").write_text("two\nlines\n")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"third\r\n"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name in (
        "plan.json",
        "manifest.json",
        "shard-00000.json",
        "shard-00000.removed.jsonl",
        ".hidden.txt",
    ):
        (tmp_path / f"b/{name}").write_text('{"text": "no document"}')
    assert read_texts(tmp_path) == ["first", "two\nlines\n", "third\r\n"]


def test_hub_data_sets_stream_through_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        parquet(folder / f"train-{number}.parquet", TEXTS[number * 10 : number * 10 + 10])
    parts = split_inputs([f"hf:{folder}"], 1)
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 2), (2, 3)]
    assert read_texts(f"hf:{folder}::train") == TEXTS[:30]
    with pytest.raises(
        UserError, match=r"shard 1, record 1: no field 'content' among id, text; name the field"
    ):
        list(read(parts[1], "content"))


def test_files_of_a_repository_by_a_pattern() -> None:
    name = HubInput.parse("hf:LLM360/TxT360/data/freelaw/**/*.jsonl@abc")
    assert (name.repository, name.glob, name.revision) == (
        "LLM360/TxT360",
        "data/freelaw/**/*.jsonl",
        "abc",
    )
    assert HubInput.parse(str(name)) == name


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:a:b:c:d", "hf:owner/name/data/*.jsonl", "hf:{}/no/such/data_set", "hf:{}::test"],
)
def test_a_data_set_that_cannot_be_reached(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parquet(tmp_path / "train.parquet", TEXTS)
    with pytest.raises(
        UserError, match=r"hf:.*(expected hf:NAME|cannot be read from the Hub).*"
    ) as caught:
        split_inputs([name.format(tmp_path)], 1)
    assert "\n" not in str(caught.value)


BAD_LINES = {
    b'{"text": "gr\xf6ssen"}': "is not valid UTF-8",
    rb'{"text": "\ud800"}': "is not valid UTF-8",
    b'{"text": "cut of': r"is not JSON",
    b"[1, 2]": "holds list, expected an object with the field 'text'",
    b'{"content": "x", "id": 1}': "no field 'text' among content, id; name the field",
    b'{"text": null}': "field 'text' holds NoneType, expected text",
    b'{"text": ["a"]}': "field 'text' holds list, expected text",
}


@pytest.mark.parametrize("bad", BAD_LINES)
@pytest.mark.parametrize("piece_bytes", [1 << 30, 200])
def test_a_bad_line_is_named_with_its_number_in_the_file(
    tmp_path: Path, bad: bytes, piece_bytes: int
) -> None:
    lines = LINES.split(b"\n")
    lines[30] = bad
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadRecord, match=rf"a\.jsonl, record 31: {BAD_LINES[bad]}") as caught:
        read_texts(path, piece_bytes)
    assert "\n" not in str(caught.value)
    left_out: list[BadRecord] = []
    assert read_texts(path, piece_bytes, on_bad=left_out.append) == TEXTS[:30] + TEXTS[31:]
    assert len(left_out) == 1


def test_a_bad_row_of_parquet_is_named_with_its_number_in_the_file(tmp_path: Path) -> None:
    broken = pa.array([text.encode() for text in TEXTS[:16]] + [b"\xff\xfe"] + [b"y"] * 5).cast(
        pa.binary()
    )
    # as a careless writer leaves it: bytes declared as text
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), len(broken), broken.buffers())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    with pytest.raises(BadRecord, match=r"a\.parquet, record 17: is not valid UTF-8"):
        read_texts(tmp_path / "a.parquet")
    left_out: list[BadRecord] = []
    assert read_texts(tmp_path / "a.parquet", on_bad=left_out.append) == TEXTS[:16] + ["y"] * 5
    with pytest.raises(BadRecord, match=r"record 1: no field 'body' among text"):
        read_texts(tmp_path / "a.parquet", field="body")
    with pytest.raises(BadRecord, match=r"record 3: field 'text' holds NoneType"):
        read_texts(parquet(tmp_path / "null.parquet", ["a", "b", None]))


def test_plain_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"gr\xf6ssen")
    with pytest.raises(BadRecord, match=r"a\.txt, record 1: is not valid UTF-8"):
        read_texts(tmp_path / "a.txt")
    left_out: list[BadRecord] = []
    assert read_texts(tmp_path / "a.txt", on_bad=left_out.append) == []
    assert len(left_out) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.rst.gz", "a.txt.xz"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, name: str) -> None:
    data = MARK + b"text" + MARK
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(data))
    assert read_texts(tmp_path / name) == ["text\ufeff"]


@pytest.mark.parametrize("columns", [["text"], ["other"]])
def test_parquet_without_row_groups_holds_no_document(tmp_path: Path, columns: list[str]) -> None:
    file = tmp_path / "a.parquet"
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.ParquetWriter(file, schema).close()
    assert pq.ParquetFile(file).metadata.num_row_groups == 0
    assert len(split_inputs([str(file)], 1000)) == 1
    assert read_texts(file) == []


def test_numbers_of_kept_fields_are_exact(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "id": 18446744073709551617, "n": NaN}\n')
    [part] = split_inputs([str(file)], 1000)
    for others in (None, ("id",)):
        [document] = read(part, others=others)
        assert document.fields["id"] == 18446744073709551617
    assert [document.text for document in read(part)] == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl.gz",
        "two_members.jsonl.gz",
        "a.jsonl.zst",
        "frames.jsonl.zst",
        "a.jsonl.xz",
        "two_streams.jsonl.bz2",
        "a.parquet",
    ],
)
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.995])
def test_a_truncated_file(inputs: dict[str, Path], name: str, kept: float) -> None:
    data = inputs[name].read_bytes()
    inputs[name].write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match=rf"{name}: is truncated") as caught:
        read_texts(inputs[name], on_bad=lambda error: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz", "two_streams.jsonl.bz2", "a.parquet"]
)
def test_a_damaged_file(inputs: dict[str, Path], name: str) -> None:
    data = bytearray(inputs[name].read_bytes())
    data[10:60] = bytes(50)
    data[-60:-10] = bytes(50)
    inputs[name].write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}: is (truncated or )?damaged"):
        read_texts(inputs[name])


def test_inputs_that_are_not_there_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "x.parquet.gz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "no.jsonl": "no such file",
        "a.csv": "unknown kind of file",
        "x.parquet.gz": "unknown kind of file",
        "empty": "holds no file that can be read",
    }.items():
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            split_inputs([str(tmp_path / name)], 1)


def test_where_counts_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES.replace(b"\n", b"\n\n"))
    for part in split_inputs([str(path)], 300):
        for document in read(part, others=("id",)):
            assert where(part, document.record).endswith(f"record {2 * document.fields['id'] + 1}")
