"""Text inputs: encodings, arrays, links, kinds of files, in every command that reads documents."""

import gzip
import os
from pathlib import Path

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

LINE = '{"text": "a", "repo": "r", "path": "p"}\n'
COMMANDS = {
    "tokenize": "data tokenize --tokenizer tokenizer --output out --input {}",
    "filter": "data filter --normalize --output out --input {}",
    "repositories": "data repositories --tokenizer tokenizer --output out --input {}",
    "pack": "data pack --tokenizer tokenizer --output out --input {}",
    "decontaminate": "data filter --output out --input a.jsonl --decontaminate {}",
}


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")


def _dangling_link(folder: Path) -> None:
    (folder / "texts").mkdir()
    (folder / "texts/b.jsonl").symlink_to("gone")


def _name_in_latin_1(folder: Path) -> None:
    (folder / "texts").mkdir()
    (folder / "texts" / os.fsdecode(b"gr\xf6sse.txt")).touch()


# input, what writes it, and what the sentence has
_CASES = {
    "UTF-16 with a mark": (
        "b.jsonl",
        inputs.text("b.jsonl", LINE.encode("utf-16")),
        ["b.jsonl: is text in UTF-16, expected UTF-8", "iconv"],
    ),
    "UTF-16 without a mark, compressed": (
        "b.txt.gz",
        inputs.text("b.txt.gz", gzip.compress(LINE.encode("utf-16-le"))),
        ["b.txt.gz: is text in UTF-16-LE, expected UTF-8"],
    ),
    "an array of JSON": (
        "b.json",
        inputs.text("b.json", '[{"text": "a"},\n{"text": "b"}]\n'),
        ["b.json: is an array of JSON, expected JSON lines", "jq"],
    ),
    "a link that leads nowhere": (
        "texts",
        _dangling_link,
        ["texts/b.jsonl: is a link to gone", "remove the link"],
    ),
    "links in a circle": (
        "b.jsonl",
        inputs.link("b.jsonl", "b.jsonl"),
        ["b.jsonl: no such file"],
    ),
    "a folder of other files": (
        "texts",
        inputs.text("texts/b.pdf", b"%PDF"),
        ["texts: holds no file that can be read (passed over 1 file, unknown kind of file: "],
    ),
    "a name that is not in UTF-8": (
        "texts",
        _name_in_latin_1,
        ["texts/gr\\udcf6sse.txt: has a name that is not in UTF-8; rename it"],
    ),
    "an unknown suffix": (
        "b.csv",
        inputs.text("b.csv", "text\na\n"),
        ["b.csv: unknown kind of file, expected .jsonl"],
    ),
    "a pipe": ("pipe.jsonl", _pipe, ["pipe.jsonl: is no regular file"]),
    "parquet that is none": (
        "b.parquet",
        inputs.text("b.parquet", LINE),
        ["b.parquet: is truncated or damaged"],
    ),
    "gzip that is none": (
        "b.jsonl.gz",
        inputs.text("b.jsonl.gz", LINE),
        ["b.jsonl.gz: is truncated or damaged"],
    ),
    "bzip2 that is none": (
        "b.jsonl.bz2",
        inputs.text("b.jsonl.bz2", LINE),
        ["b.jsonl.bz2: is truncated or damaged"],
    ),
    "xz that is none": (
        "b.jsonl.xz",
        inputs.text("b.jsonl.xz", LINE),
        ["b.jsonl.xz: is damaged"],
    ),
}


def _rows() -> list[Row]:
    rows = []
    for command, words in COMMANDS.items():
        for name, (path, write, says) in _CASES.items():
            row = Row(
                f"{command}: {name}",
                words.format(path),
                input=[inputs.tokenizer, inputs.text("a.jsonl", LINE), write],
                says=says,
            )
            rows.append(row)
    return rows


ROWS = _rows()
