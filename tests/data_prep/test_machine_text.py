import os
import tomllib
from importlib.metadata import PackagePath, PathDistribution
from pathlib import Path
from typing import NoReturn

import pytest

from data_prep import machine_text
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow


def candidate(package: str, name: str, text: str = "x" * 300) -> machine_text._Candidate:
    return machine_text._Candidate(package, "MIT", name, lambda: text)


def test_folder_is_read_sorted_and_what_is_left_out_is_counted(text_folder: Path) -> None:
    collection = machine_text.collect_folder(text_folder)
    documents = collection.components["text"]
    assert [document.name for document in documents] == [
        "a.txt",
        "b.md",
        "c.rst",
        "d.py",
        "sub/e.txt",
        "sub/f.TXT",
    ]
    assert documents[0].text == (text_folder / "a.txt").read_bytes().decode()
    assert {document.license for document in documents} == {"the user's own text"}
    expected = {
        "exact duplicate": 1,
        "not UTF-8": 1,
        "under 200 characters": 1,
        "unknown kind of file": 1,
    }
    assert collection.left_out == {"text": expected}


@pytest.mark.parametrize("make", ["empty", "short", "missing", "file"])
def test_folders_without_text(tmp_path: Path, make: str) -> None:
    folder = tmp_path / make
    if make == "file":
        folder.write_text("text " * 100)
    elif make != "missing":
        folder.mkdir()
        if make == "short":
            (folder / "a.txt").write_text("short")
    expected = {"missing": "no such folder", "file": "is not a folder"}.get(make, "holds no text")
    with pytest.raises(UserError, match=expected):
        machine_text.collect_folder(folder)


def test_unreadable_folder(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"text/sub: cannot be read \(Permission denied\)"):
        machine_text.collect_folder(text_folder)


def test_unreadable_file(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"text/a\.txt: cannot be read \(Permission denied\)"):
        machine_text.collect_folder(text_folder)


def test_a_folder_of_text_is_read_like_every_input(text_folder: Path, tmp_path: Path) -> None:
    first = (text_folder / "a.txt").read_text(encoding="utf-8")
    (text_folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + first.encode())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/g.txt").write_text("somewhere else " * 20)
    (text_folder / "linked").symlink_to(tmp_path / "elsewhere")
    (text_folder / "lines.jsonl").write_text('{"text": "no plain text"}')
    collection = machine_text.collect_folder(text_folder)
    documents = {document.name: document.text for document in collection.components["text"]}
    assert documents["a.txt"] == first
    assert documents["linked/g.txt"].startswith("somewhere else")
    assert collection.left_out["text"]["no plain text"] == 1
    (text_folder / "a.txt").write_text(first, encoding="utf-16")
    with pytest.raises(UserError, match=r"a\.txt: is text in UTF-16, expected UTF-8"):
        machine_text.collect_folder(text_folder)


def test_packages_take_turns_whatever_the_order() -> None:
    candidates = [candidate("large", f"file {number}") for number in range(9)]
    candidates += [candidate("small", f"file {number}") for number in range(2)]
    spread = machine_text._spread(candidates)
    assert (
        sorted(c.package for c in spread[:2])
        == sorted(c.package for c in spread[2:4])
        == ["large", "small"]
    )
    assert [c.name for c in spread] == [c.name for c in machine_text._spread(reversed(candidates))]


def test_selection_ends_at_the_byte_cap_and_leaves_out_giants() -> None:
    candidates = [candidate("p", f"{number}", f"{number}" * 300) for number in range(5)]
    candidates.insert(1, candidate("p", "giant", "g" * 900))
    collection = machine_text.Collection()
    machine_text._select(collection, "c", candidates, set(), max_characters=800, byte_cap=700)
    assert [document.name for document in collection.components["c"]] == ["0", "1"]
    assert collection.left_out == {"c": {"beyond 700 bytes": 3, "over 800 characters": 1}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["License-Expression: MIT", "License: BSD"], "MIT"),
        (
            ["License: Apache 2.0", "Classifier: License :: OSI Approved :: MIT License"],
            "Apache 2.0",
        ),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], "MIT License"),
        (
            [
                "Classifier: License :: OSI Approved :: B",
                "Classifier: License :: OSI Approved :: A",
            ],
            "A AND B",
        ),
        (
            [
                "License: Title",
                "        ",
                "        The text",
                "Classifier: License :: OSI Approved",
            ],
            "Title",
        ),
        (["License: UNKNOWN", "Classifier: Topic :: Text"], "unknown"),
        ([], "unknown"),
    ],
)
def test_read_license_metadata(tmp_path: Path, fields: list[str], expected: str) -> None:
    (tmp_path / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: p", *fields, ""]))
    assert machine_text.read_license(PathDistribution(tmp_path).metadata) == expected


def test_own_distribution_is_the_project_and_is_left_out() -> None:
    pyproject = tomllib.loads(
        (Path(machine_text.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert pyproject["project"]["name"] == machine_text.OWN_DISTRIBUTION
    packages = [package.split()[0] for package, _, _ in machine_text._distributions()]
    assert "numpy" in packages
    assert machine_text.OWN_DISTRIBUTION not in packages


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("p/README.md", True),
        ("p/doc/usage.txt", True),
        ("p/CHANGES.txt", True),
        ("p/dict.txt", False),
        ("p/LICENSE.rst", False),
        ("p/tests/README.md", False),
        ("p-1.dist-info/notes.md", False),
        ("../../share/doc/p.md", False),
        ("p/doc/requirements.txt", False),
        ("p/doc/picture.png", False),
    ],
)
def test_which_files_are_documents(file: str, expected: bool) -> None:
    assert machine_text._is_document(PackagePath(file)) is expected


def test_docstrings_of_a_module(tmp_path: Path) -> None:
    lines = [
        '"""Module."""',
        'x = "no"',
        "class A:",
        '    """Class.',
        "",
        "    More.",
        '    """',
        "    def f(self):",
        '        "Method."',
        "",
    ]
    (tmp_path / "m.py").write_text("\n".join(lines))
    file = PackagePath("m.py")
    file.dist = type("Dist", (), {"locate_file": staticmethod(lambda path: tmp_path / path)})()
    assert machine_text._read_docstrings(file) == "Module.\n\nClass.\n\nMore.\n\nMethod."
