"""Whatever a file of documents holds: it is read or refused, and nothing is half-written."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings

from data_prep import documents, indexed, repositories, tokenization
from data_prep.lengths import measure
from data_prep.quality import filter
from tests.bad_inputs import inputs
from tests.bad_inputs.edits import edited_bytes, edited_json, edited_json_lines, read_or_refuse

RECORDS = [
    {"text": "a first text", "id": 2**70, "score": 0.5, "repo": "r", "path": "a.py"},
    {"text": "größer, 日本語 and 🙂", "id": None, "tags": ["x"], "repo": "r", "path": "b.py"},
    {"text": "", "turns": [{"role": "user", "content": "why?"}], "repo": "s", "path": "c.md"},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
PLAIN = "A first line.\r\nGrößer, 日本語 and 🙂.\n".encode()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(pa.table({"text": [record["text"] for record in RECORDS]}), content)
    return content.getvalue()


FILES = {
    "a.jsonl": edited_json_lines(LINES),
    "a.jsonl.gz": edited_bytes(gzip.compress(LINES)),
    "a.jsonl.zst": edited_bytes(zstandard.compress(LINES)),
    "a.jsonl.bz2": edited_bytes(bz2.compress(LINES)),
    "a.jsonl.xz": edited_bytes(lzma.compress(LINES)),
    "a.txt": edited_bytes(PLAIN),
    "a.txt.gz": edited_bytes(gzip.compress(PLAIN)),
    "a.parquet": edited_bytes(_parquet()),
}
slow = pytest.mark.slow


def _read(file: Path, field: str) -> None:
    for part in documents.split_inputs([str(file)], 64):
        for _ in documents.read(part, field, None):
            pass


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("a.jsonl", "text"),
        *(pytest.param(name, "text", marks=slow) for name in FILES if name != "a.jsonl"),
        *(pytest.param("a.jsonl", field, marks=slow) for field in ("turns[]", "text+id", "tags[]")),
    ],
)
def test_documents_are_read_or_refused(name: str, field: str, tmp_path: Path) -> None:
    @given(FILES[name])
    def read(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        read_or_refuse(lambda: _read(tmp_path / name, field))

    read()


@slow
def test_an_index_is_read_or_refused(tmp_path: Path) -> None:
    @given(edited_bytes(inputs.index([3, 2])))
    def read(content: bytes) -> None:
        (tmp_path / "text.idx").write_bytes(content)
        read_or_refuse(lambda: _measure(tmp_path / "text"))

    read()


def _measure(prefix: Path) -> None:
    assert min(indexed.lengths(prefix), default=0) >= 0
    measure("text", [prefix], 4096)


def _filter(folder: Path) -> None:
    steps = filter.Steps(normalize=True, exact_duplicates=True)
    filter.run([str(folder / "a.jsonl")], folder / "out", steps)


def _tokenize(folder: Path) -> None:
    tokenization.tokenize([str(folder / "a.jsonl")], folder / "out", folder / "tokenizer")


def _pack(folder: Path) -> None:
    files = [str(folder / "a.jsonl")]
    repositories.prepare(folder / "out", folder / "tokenizer", files, None, max_tokens=64)


@slow
@pytest.mark.parametrize("command", [_filter, _tokenize, _pack])
def test_a_folder_is_whole_or_unfinished(command: Callable[[Path], None]) -> None:
    @settings(max_examples=settings().max_examples // 4)
    @given(edited_json_lines(LINES))
    def write(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            inputs.tokenizer(folder)
            (folder / "a.jsonl").write_bytes(content)
            is_read = read_or_refuse(lambda: command(folder))

            # the manifest comes last
            names = {path.name for path in folder.glob("out/**/*")}
            assert ("manifest.json" in names) is is_read
            assert not [name for name in names if name.endswith(".partial")]

    write()


@slow
@pytest.mark.parametrize("name", ["plan.json", "shard-00000.json", "manifest.json"])
@pytest.mark.parametrize("command", [_filter, _tokenize, _pack])
def test_a_run_continues_from_any_record_or_refuses_it(
    command: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    inputs.tokenizer(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    command(tmp_path)
    output = tmp_path / "out"
    kept = tmp_path / "kept"
    output.rename(kept)

    @settings(max_examples=settings().max_examples // 4)
    @given(edited_json((kept / name).read_bytes()))
    def run_again(content: bytes) -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(kept, output)
        # shards are looked at where the whole is not finished
        (output / "manifest.json").unlink()
        (output / name).write_bytes(content)
        read_or_refuse(lambda: command(tmp_path))

    run_again()
