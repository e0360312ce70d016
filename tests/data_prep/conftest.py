from pathlib import Path

import pytest

PARAGRAPH = (
    "It's a small text, n°{n}: größer, naïve, 日本語 and 🙂 are kept byte by byte.\n"
    "def f_{n}(x):\n    return x ** {n}  # trailing space \n\n"
    + "The quick brown fox jumps over the lazy dog. "
    * 3
)


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """Six documents of the user's own, of all four kinds, and files that are left out."""
    folder = tmp_path / "text"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.txt", "b.md", "c.rst", "d.py", "sub/e.txt", "sub/f.TXT"]):
        (folder / name).write_bytes(PARAGRAPH.format(n=number).encode())
    (folder / "duplicate.txt").write_bytes((folder / "a.txt").read_bytes())
    (folder / "latin.txt").write_bytes("größer ".encode("latin-1") * 100)
    (folder / "short.txt").write_text("too short")
    (folder / "table.csv").write_text("not,text\n" * 100)
    return folder
