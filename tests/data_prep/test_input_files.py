"""Files of a folder: links, what is passed over and why; what tells a changed file."""

import gzip
import logging
import os
from pathlib import Path

import pytest

from data_prep import input_files
from recipes.common.errors import UserError

LINE = '{"text": "a"}\n'


def names(folder: Path, found: input_files.Found) -> list[str]:
    return [str(Path(name).relative_to(folder)) for name in found.names]


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(LINE)


def test_every_kind_of_a_folder_is_read_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "data_prep")
    folder = tmp_path / "in"
    read = ["b.jsonl.bz2", "c/e.JSONL", "c/shard-00001.json", "d.jsonl.xz", "f.Txt.GZ"]
    make(folder, *read, "a.csv", "z.csv", "c/x.csv", "y.csv", ".cache/x.jsonl", ".hidden.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    found = input_files.find([str(folder)])
    assert names(folder, found) == read
    assert found.bytes == len(read) * len(LINE)
    assert input_files.counts(found.passed_over) == {
        "hidden": 2,
        "unknown kind of file": 4,
        "no regular file": 1,
    }
    assert caplog.record_tuples[0] == (
        "data_prep.input_files",
        logging.WARNING,
        f"passed over 4 files, unknown kind of file: {folder}/a.csv, {folder}/c/x.csv, "
        f"{folder}/y.csv and 1 more",
    )


def test_records_of_our_own_are_passed_over_next_to_a_plan_only(tmp_path: Path) -> None:
    own = ["plan.json", "manifest.json", "shard-00000.json", "shard-00000.removed.jsonl"]
    make(tmp_path / "ours", *own, "shard-00000.jsonl")
    make(tmp_path / "theirs", *own[1:], "shard-00000.jsonl")
    found = input_files.find([str(tmp_path / "ours"), str(tmp_path / "theirs")])
    assert names(tmp_path, found) == [
        "ours/shard-00000.jsonl",
        "theirs/manifest.json",
        "theirs/shard-00000.json",
        "theirs/shard-00000.jsonl",
        "theirs/shard-00000.removed.jsonl",
    ]
    assert input_files.counts(found.passed_over) == {"records of granite41 data": 4}


def test_links_are_followed_and_nothing_is_read_twice(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make(folder, "a/one.jsonl", "b.jsonl")
    make(tmp_path, "elsewhere/two.jsonl", "three.jsonl")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "d.jsonl").symlink_to("../three.jsonl")
    # again what was read, and two circles
    (folder / "e").symlink_to(tmp_path / "elsewhere")
    (folder / "f.jsonl").symlink_to("b.jsonl")
    (folder / "a/up").symlink_to("..")
    (tmp_path / "elsewhere/self").symlink_to(".")
    found = input_files.find([str(folder)])
    assert names(folder, found) == ["a/one.jsonl", "b.jsonl", "c/two.jsonl", "d.jsonl"]
    assert found.passed_over == {
        "read under another name": [
            f"{folder}/a/up",
            f"{folder}/c/self",
            f"{folder}/e",
            f"{folder}/f.jsonl",
        ]
    }


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    (tmp_path / os.fsdecode(b"gr\xf6sse.csv")).touch()
    found = input_files.find([str(tmp_path)])
    assert found.passed_over == {"unknown kind of file": [f"{tmp_path}/gr\\udcf6sse.csv"]}
    (tmp_path / os.fsdecode(b"gr\xf6sse.txt")).touch()
    with pytest.raises(UserError, match=r"gr\\udcf6sse\.txt: has a name that is not in UTF-8"):
        input_files.find([str(tmp_path)])


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    for target in ("gone.jsonl", "circle.jsonl"):
        link = tmp_path / "circle.jsonl"
        link.symlink_to(target)
        with pytest.raises(UserError, match=rf"circle\.jsonl: is a link to {target}, which cannot"):
            input_files.find([str(tmp_path)])
        link.unlink()


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl", "sub/b.jsonl")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"sub: cannot be read \(Permission denied\)"):
        input_files.find([str(tmp_path)])


def test_a_folder_without_documents_says_what_it_has(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    with pytest.raises(
        UserError,
        match=r"holds no file that can be read \(passed over 1 file, unknown kind of file: .*csv\)",
    ):
        input_files.find([str(tmp_path)])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.md.gz"])
def test_another_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    data = LINE.encode(encoding)
    if name.endswith(".gz"):
        data = gzip.compress(data)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"is text in {encoding.upper()}, expected UTF-8; convert"):
        input_files.check_start(tmp_path / name)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \n"])
def test_an_array_is_called_one(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(start + b'[{"text": "a"},\n{"text": "b"}]')
    with pytest.raises(UserError, match=r"a\.json: is an array of JSON, expected JSON lines"):
        input_files.check_start(file)
    # a text may begin like one
    file.rename(tmp_path / "a.md")
    input_files.check_start(tmp_path / "a.md")


def test_a_changed_file_has_another_identity(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    data = bytearray(os.urandom(1_000_000))
    file.write_bytes(data)
    first = input_files.identify(str(file))
    assert first.bytes == len(data)
    assert first.modified_ns == file.stat().st_mtime_ns
    os.utime(file, (1, 1))
    later = input_files.identify(str(file))
    assert later.modified_ns == 10**9
    assert later.sample_sha256 == first.sample_sha256
    # at the start, in the middle and at the end; the time is set back
    for position in (0, 500_000, 999_999):
        changed = data.copy()
        changed[position] ^= 1
        file.write_bytes(changed)
        os.utime(file, (1, 1))
        assert input_files.identify(str(file)).sample_sha256 != first.sample_sha256
    # of a small file every byte counts
    for position in range(0, 190_000, 9973):
        small = data[:190_000]
        file.write_bytes(small)
        before = input_files.identify(str(file))
        small[position] ^= 1
        file.write_bytes(small)
        assert input_files.identify(str(file)).sample_sha256 != before.sample_sha256


def test_a_folder_is_identified_by_its_files(tmp_path: Path) -> None:
    make(tmp_path, "a.py", "sub/b.py", ".git/HEAD")
    first = input_files.identify(str(tmp_path))
    assert first.bytes == 2 * len(LINE)
    make(tmp_path, ".git/HEAD", ".git/index")
    assert input_files.identify(str(tmp_path)) == first
    (tmp_path / "sub/b.py").write_text(LINE.replace("a", "b"))
    second = input_files.identify(str(tmp_path))
    assert second.sample_sha256 != first.sample_sha256
    (tmp_path / "sub/b.py").rename(tmp_path / "sub/c.py")
    assert input_files.identify(str(tmp_path)).sample_sha256 != second.sample_sha256


def test_a_data_set_of_the_hub_is_identified_by_its_name(tmp_path: Path) -> None:
    name = "hf:owner/name@abc::train"
    assert input_files.identify(name) == input_files.InputFile(name, 0, 0, "")
    # one on this machine has no commit
    make(tmp_path, "a.jsonl")
    first = input_files.identify(f"hf:{tmp_path}::train")
    make(tmp_path, "b.jsonl")
    assert input_files.identify(f"hf:{tmp_path}::train") != first
