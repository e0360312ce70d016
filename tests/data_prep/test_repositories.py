"""Repositories packed into long documents: nothing lost, in order, never over the limit."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep import repositories, shards, tokenizer
from data_prep.documents import Part
from data_prep.packing import order, pack
from data_prep.repositories import FieldNames, prepare
from data_prep.tokenization import tokenize
from recipes.cli.data import data_app
from recipes.common import tokenizer_files
from recipes.common.encoder import Encoder, EncoderMismatch
from recipes.common.errors import UserError
from tests.data_prep.conftest import PARAGRAPH

pytestmark = pytest.mark.slow

MAX_TOKENS = 400


@pytest.fixture(scope="module")
def folder_of_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    tokenizer.train([PARAGRAPH.format(n=number) for number in range(50)], 400, folder)
    return folder


def _repositories() -> dict[str, dict[str, str]]:
    """Seven repositories, path -> text: many small files, a long one, one with a long line."""
    found = {
        f"owner/project-{number}": {
            f"src/part{file}/module_{file % 4}.py": PARAGRAPH.format(n=100 * number + file)
            * (1 + file % 3)
            for file in range(9)
        }
        | {"README.md": f"# project {number}\nno line end"}
        for number in range(5)
    }
    found["owner/long"] = {
        "a.py": "x = 1\n",
        "data.txt": "".join(f"line {number}: größer 日本語 🙂\n" for number in range(200)),
        "z.py": "y = 2\n",
    }
    found["owner/line"] = {"bundle.js": "🙂;" * 1000}
    return found


def _records(found: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    records = [
        {"repo": repo, "path": path, "text": text}
        for repo, files in found.items()
        for path, text in files.items()
    ]
    random.Random(0).shuffle(records)
    return records


def _json_lines(file: Path, records: list[dict]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(file)


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """The records of all repositories, shuffled, in two files of JSON lines and one of parquet."""
    records = _records(_repositories())
    pq.write_table(pa.Table.from_pylist(records[40:]), tmp_path / "c.parquet", row_group_size=5)
    return [
        _json_lines(tmp_path / "a.jsonl", records[:25]),
        _json_lines(tmp_path / "b.jsonl", records[25:40]),
        str(tmp_path / "c.parquet"),
    ]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)


def _documents(output: Path) -> dict[str, list[dict]]:
    """Repository -> its documents, in order of their parts; each repository must be in one file."""
    found = defaultdict[str, list[dict]](list)
    homes = defaultdict[str, set[str]](set)
    for file in sorted(output.glob("shard-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            document = json.loads(line)
            found[document["repository"]].append(document)
            homes[document["repository"]].add(file.name)
    assert all(len(files) == 1 for files in homes.values())
    for documents in found.values():
        assert [document["part"] for document in documents] == list(range(1, len(documents) + 1))
    return found


def _whole(files: dict[str, str]) -> str:
    """What the documents of a repository hold together."""
    texts = [f"#{path}\n{files[path]}" for path in sorted(files, key=order)]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def _files_of(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir() if file.suffix == ".jsonl"}


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_tokenization_keeps_what_was_packed(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path
) -> None:
    prepare(tmp_path / "packed", folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
    tokenize(
        [str(tmp_path / "packed")],
        tmp_path / "tokens",
        folder_of_tokenizer,
    )
    assert (
        json.loads((tmp_path / "tokens/manifest.json").read_text())["packed_tokens"] == MAX_TOKENS
    )


@pytest.mark.usefixtures("small_shards")
def test_nothing_is_lost_and_no_document_is_too_long(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path
) -> None:
    output = tmp_path / "output"
    manifest = prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)

    expected, found = _repositories(), _documents(output)
    assert {
        repo: "".join(document["text"] for document in documents)
        for repo, documents in found.items()
    } == {repo: _whole(files) for repo, files in expected.items()}
    reference = tokenizer_files.load(folder_of_tokenizer)
    documents = [document for documents in found.values() for document in documents]
    tokens = [
        len(reference.encode(document["text"], add_special_tokens=False).ids) + 1
        for document in documents
    ]
    assert tokens == [document["tokens"] for document in documents]
    assert max(tokens) <= MAX_TOKENS
    assert max(tokens) > 0.9 * MAX_TOKENS
    assert len(manifest["shards"]) > 1
    assert manifest == json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest | {"settings": None, "shards": None} == {
        "repositories": 7,
        "files": sum(map(len, expected.values())),
        "cut_files": 2,
        "documents": len(documents),
        "long_documents": sum(2 * count >= MAX_TOKENS for count in tokens),
        "tokens": sum(tokens),
        "bytes": sum(len(document["text"].encode()) for document in documents),
        "left_out": {},
        "passed_over": {},
        "settings": None,
        "shards": None,
    }
    assert sum(shard["tokens"] for shard in manifest["shards"]) == sum(tokens)
    # the next file begins a document only because it did not fit
    for repo in (name for name in found if name.startswith("owner/project")):
        for before, after in zip(found[repo], found[repo][1:], strict=False):
            first = after["text"].split("\n#")[0]
            both = reference.encode(before["text"] + first, add_special_tokens=False).ids
            assert len(both) + 1 > 0.98 * MAX_TOKENS


@pytest.mark.usefixtures("small_shards")
def test_two_workers_write_what_one_does(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path
) -> None:
    made = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS, workers=workers)
        made.append(_files_of(output))
    assert made[0] == made[1]


def test_a_repository_that_fits_is_one_document(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path
) -> None:
    output = tmp_path / "output"
    manifest = prepare(output, folder_of_tokenizer, inputs, max_tokens=100_000)
    expected, found = _repositories(), _documents(output)
    assert {
        repo: [document["text"] for document in documents] for repo, documents in found.items()
    } == {repo: [_whole(files)] for repo, files in expected.items()}
    assert all(documents[0]["files"] == len(expected[repo]) for repo, documents in found.items())
    assert manifest["cut_files"] == 0


def test_records_that_are_whole_repositories(
    tmp_path: Path,
    inputs: list[str],
    folder_of_tokenizer: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        {
            "repo_path": repo,
            "files": [{"file_path": path, "content": text} for path, text in files.items()],
        }
        for repo, files in _repositories().items()
    ]
    odd = [{"content": "no path"}, {"file_path": "a.py", "content": None}]
    rows += [{"repo_path": "owner/none", "files": None}, {"repo_path": "owner/odd", "files": odd}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    fields = FieldNames("repo_path", "file_path", "content", "files")
    rows_output = tmp_path / "from_rows"
    output = tmp_path / "from_files"
    file = str(tmp_path / "rows.parquet")
    manifest = prepare(
        rows_output, folder_of_tokenizer, [file], max_tokens=MAX_TOKENS, fields=fields
    )
    prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
    assert _documents(rows_output) == _documents(output)
    assert manifest["left_out"] == {"damaged or without text": 2, "without repository or path": 1}
    assert _warnings(caplog) == [
        f"{file}, record 8: field 'files' holds no list of objects; "
        f"name the one that lists the files (left out)"
    ]


def test_files_of_a_folder_stay_together_and_numbers_sort_by_value() -> None:
    paths = [
        "b/z.py",
        "a/c/x.py",
        "page10",
        "a/d.py",
        "page2",
        "a/b.py",
        "page02",
        "2.txt",
        "1a/x",
        "10.txt",
        "a.py",
    ]
    random.Random(1).shuffle(paths)
    assert sorted(paths, key=order) == [
        *("2.txt", "10.txt", "a.py", "page02", "page2", "page10"),
        *("1a/x", "a/b.py", "a/d.py", "a/c/x.py", "b/z.py"),
    ]


def test_a_file_is_cut_at_line_ends_and_a_long_line_within(folder_of_tokenizer: Path) -> None:
    encoder = Encoder(folder_of_tokenizer)
    files = _repositories()["owner/long"]
    documents = list(pack(files.items(), MAX_TOKENS, encoder))
    assert [document.cut for document in documents] == [False, True] + [False] * (
        len(documents) - 2
    )
    assert len(documents) > 5
    assert all(document.text.endswith("\n") for document in documents)
    # the file's last piece is followed by the next file
    assert documents[-1].files == 2
    assert documents[-1].text.endswith("🙂\n#z.py\ny = 2\n")
    assert all(document.tokens > 0.9 * MAX_TOKENS for document in documents[1:-1])

    documents = list(pack(_repositories()["owner/line"].items(), MAX_TOKENS, encoder))
    assert all(document.tokens > 0.9 * MAX_TOKENS for document in documents[:-1])
    assert "".join(document.text for document in documents) == "#bundle.js\n" + "🙂;" * 1000 + "\n"


class _Squares:
    """An encoder to which the whole is more than its parts: a text of n lines has n x n tokens."""

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(0), np.array([text.count("\n") ** 2 for text in texts])


def test_a_document_that_is_too_long_as_a_whole_is_split_again() -> None:
    files = [(f"file{number}", "text\n") for number in range(5)]
    documents = list(pack(files, 17, _Squares()))  # type: ignore[arg-type]
    assert [(document.files, document.tokens) for document in documents] == [
        (2, 17),
        (2, 17),
        (1, 5),
    ]
    assert "".join(document.text for document in documents) == _whole(dict(files))


def test_pages_of_a_book_follow_each_other_without_headers(
    tmp_path: Path, folder_of_tokenizer: Path
) -> None:
    pages = [
        {"book": 7, "page": page, "content": f"Page {page} of the book."} for page in (10, 2, 1, 11)
    ]
    file = _json_lines(tmp_path / "books.jsonl", pages)
    fields = FieldNames("book", "page", "content")
    prepare(
        tmp_path / "output",
        folder_of_tokenizer,
        [file],
        max_tokens=MAX_TOKENS,
        fields=fields,
    )
    (document,) = _documents(tmp_path / "output")["7"]
    assert document["text"] == "".join(f"Page {page} of the book.\n" for page in (1, 2, 10, 11))


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_run_resumes(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "output"
    manifest = prepare(whole, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
    calls = Counter[str]()

    def failing_once(function: str, name_of_failure: str) -> None:
        original = getattr(repositories, function)

        def work(parts: list[Part], folder: Path, name: str, **settings: object) -> dict:
            calls[f"{function} {name}"] += 1
            if name == name_of_failure and calls[f"{function} {name}"] == 1:
                raise OSError("the machine went away")
            return original(parts, folder, name, **settings)

        monkeypatch.setattr(repositories, function, work)

    failing_once("distribute", "shard-00002")
    failing_once("pack_shard", "shard-00001")
    for _ in range(2):
        with pytest.raises(OSError, match="went away"):
            prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
        assert not (output / "manifest.json").exists()
    assert prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS) == manifest
    assert _files_of(output) == _files_of(whole)
    assert {name for name, count in calls.items() if count > 1} == {
        "distribute shard-00002",
        "pack_shard shard-00001",
    }
    assert not list(output.glob(".partition"))

    # finished: nothing is done again, and other settings are refused before anything is read
    before = calls.copy()
    assert prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS) == manifest
    with pytest.raises(UserError, match="was made with other max_tokens"):
        prepare(output, folder_of_tokenizer, inputs, max_tokens=500)
    with pytest.raises(UserError, match="was made with other text_field"):
        fields = FieldNames(text="content")
        prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS, fields=fields)
    assert calls == before


def test_an_input_that_changed_is_refused_in_every_pass_and_after_the_last(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: object, **options: object) -> None:
        raise OSError("the machine went away")

    file = Path(inputs[0])
    data = file.read_bytes()
    for function in ("distribute", "pack_shard", None):
        output = tmp_path / f"output-{function}"
        if function:
            with monkeypatch.context() as patch:
                patch.setattr(repositories, function, dies)
                with pytest.raises(OSError, match="went away"):
                    prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
        else:
            prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
        file.write_bytes(data.replace(b"small", b"large", 1))
        with pytest.raises(UserError, match=r"a\.jsonl: has changed since .*output-"):
            prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
        # written again as it was, at another time
        file.write_bytes(data)
        prepare(output, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)


def test_a_changed_folder_of_repositories_is_refused(
    tmp_path: Path, folder_of_tokenizer: Path
) -> None:
    (tmp_path / "in/repo/src").mkdir(parents=True)
    (tmp_path / "in/repo/src/a.py").write_text("x = 1\n")
    arguments = {"folder": tmp_path / "in", "max_tokens": MAX_TOKENS}
    prepare(tmp_path / "out", folder_of_tokenizer, **arguments)
    prepare(tmp_path / "out", folder_of_tokenizer, **arguments)
    (tmp_path / "in/repo/src/a.py").write_text("x = 2\n")
    with pytest.raises(UserError, match=r"in/repo: has changed since .*out was started"):
        prepare(tmp_path / "out", folder_of_tokenizer, **arguments)


def test_files_with_a_byte_order_mark_or_in_utf16(
    tmp_path: Path, folder_of_tokenizer: Path
) -> None:
    folder = tmp_path / "in/repo"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n", encoding="utf-8-sig")
    (folder / "b.rc").write_text("x = 1\n", encoding="utf-16")
    (tmp_path / "in/notes.txt").write_text("not in a repository")
    (tmp_path / "in/same").symlink_to("repo")
    arguments = {"folder": tmp_path / "in", "max_tokens": MAX_TOKENS}
    manifest = prepare(tmp_path / "out", folder_of_tokenizer, **arguments)
    [[document]] = _documents(tmp_path / "out").values()
    assert document["text"] == "#a.py\nx = 1\n"
    assert manifest["left_out"] == {"not UTF-8": 1}
    assert manifest["passed_over"] == {"not in a repository": 1, "read under another name": 1}
    (tmp_path / "in/gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="in/gone: is a link to nowhere"):
        prepare(tmp_path / "other", folder_of_tokenizer, **arguments)


@pytest.mark.parametrize("files_field", [None, "files"])
def test_a_text_out_of_turns(
    tmp_path: Path, folder_of_tokenizer: Path, files_field: str | None
) -> None:
    row = {"path": "a", "turns": [{"content": "Why?"}, {"content": "So."}]}
    record = {"repo": "r", **row}
    if files_field:
        record = {"repo": "r", "files": [row]}
    file = _json_lines(tmp_path / "a.jsonl", [record])
    fields = FieldNames(text="turns[]", files=files_field)
    prepare(tmp_path / "out", folder_of_tokenizer, [file], max_tokens=MAX_TOKENS, fields=fields)
    [[document]] = _documents(tmp_path / "out").values()
    assert document["text"] == "#a\nWhy?\n\nSo.\n"


def test_tokens_are_counted_by_the_reference_where_the_fast_encoder_differs(
    tmp_path: Path,
    inputs: list[str],
    folder_of_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = tmp_path / "right"
    prepare(right, folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)

    class Differing(Encoder):
        def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
            if not self.reference_only:
                raise EncoderMismatch(1)
            return super().encode(texts)

    monkeypatch.setattr(repositories, "Encoder", Differing)
    prepare(tmp_path / "output", folder_of_tokenizer, inputs, max_tokens=MAX_TOKENS)
    assert _files_of(tmp_path / "output") == _files_of(right)
    [warning] = _warnings(caplog)
    assert "gigatoken gave other ids" in warning


def test_a_folder_of_repositories(tmp_path: Path, folder_of_tokenizer: Path) -> None:
    root, expected = tmp_path / "checked_out", {}
    for repo, files in _repositories().items():
        expected[Path(repo).name] = files
        for path, text in files.items():
            file = root / Path(repo).name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    odd = root / "long"
    (odd / ".git").mkdir()
    (odd / ".git" / "config").write_text("[core]\n")
    (odd / "image.png").write_bytes(b"\x89PNG\0\0")
    (odd / "latin.txt").write_bytes("größer".encode("latin-1"))
    (odd / "late.bin").write_bytes(b"x" * 10_000 + b"\0")
    (odd / "empty.py").touch()
    (odd / "link.py").symlink_to("a.py")
    (odd / "folder").symlink_to(root / "project-0")
    (root / "nothing").mkdir()
    (root / "file.txt").write_text("not in a repository\n")

    output = tmp_path / "output"
    manifest = prepare(output, folder_of_tokenizer, folder=root, max_tokens=MAX_TOKENS)
    assert {
        repo: "".join(document["text"] for document in documents)
        for repo, documents in _documents(output).items()
    } == {repo: _whole(files) for repo, files in expected.items()}
    assert manifest["left_out"] == {
        "binary": 2,
        "empty": 1,
        "links and special files": 2,
        "not UTF-8": 1,
        "repositories without text": 1,
    }


def test_bad_records_are_left_out_named_and_counted(
    tmp_path: Path, folder_of_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"repo": "owner/a", "path": "x.py", "text": "x = 1\n"}
    bad = [
        good | {"repo": None},
        good | {"path": ""},
        good | {"text": ""},
        good | {"text": None},
        {"repo": "owner/a"},
    ]
    file = _json_lines(tmp_path / "a.jsonl", [*bad, good])
    manifest = prepare(tmp_path / "output", folder_of_tokenizer, [file], max_tokens=MAX_TOKENS)
    assert manifest["left_out"] == {
        "damaged or without text": 2,
        "empty": 1,
        "without repository or path": 2,
    }
    assert manifest["files"] == 1
    named = [warning.partition(":")[0] for warning in _warnings(caplog)]
    assert named == [f"{file}, record 4", f"{file}, record 5"]


def test_bad_inputs_are_refused_before_anything_is_written(
    tmp_path: Path, folder_of_tokenizer: Path
) -> None:
    file = _json_lines(
        tmp_path / "a.jsonl", [{"repo": "owner/a", "path": "x.py", "text": "x = 1\n"}]
    )
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "notes.txt").touch()
    output = tmp_path / "output"
    cases = [
        ({}, "either --input or --folder"),
        ({"inputs": [file], "folder": tmp_path}, "either --input or --folder"),
        ({"inputs": [file], "max_tokens": 15}, "15 is too small, expected at least 16"),
        ({"inputs": [str(tmp_path / "absent.jsonl")]}, "no such file"),
        ({"folder": tmp_path / "absent"}, "no such folder"),
        ({"folder": empty}, "has no sub-folder"),
        (
            {"inputs": [file], "tokenizer_folder": empty},
            "no such file; name the folder of a Hugging Face tokenizer",
        ),
        ({"inputs": [file], "output": full}, "holds other files"),
    ]
    for arguments, message in cases:
        settings = {
            "output": output,
            "tokenizer_folder": folder_of_tokenizer,
            "max_tokens": MAX_TOKENS,
        } | arguments
        with pytest.raises(UserError, match=message):
            prepare(**settings)
        assert not output.exists()
    assert [item.name for item in full.iterdir()] == ["notes.txt"]
    with pytest.raises(
        UserError, match=r"no record has text in 'text', a repository in 'repository'"
    ):
        prepare(
            output,
            folder_of_tokenizer,
            [file],
            max_tokens=100,
            fields=FieldNames(repository="repository"),
        )
    (empty / "repository").mkdir()
    with pytest.raises(UserError, match="holds no file of UTF-8 text"):
        prepare(tmp_path / "other", folder_of_tokenizer, folder=empty, max_tokens=100)


def test_the_command_takes_several_inputs_after_one_flag(
    tmp_path: Path, inputs: list[str], folder_of_tokenizer: Path
) -> None:
    output = tmp_path / "output"
    arguments = [
        "repositories",
        "--input",
        *inputs,
        "--tokenizer",
        str(folder_of_tokenizer),
        "--output",
        str(output),
    ]
    result = CliRunner().invoke(data_app, [*arguments, "--workers", "1"])
    assert result.exit_code == 0, result.output
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["repositories"] == manifest["documents"] == 7
    assert manifest["settings"]["max_tokens"] == 524_288
