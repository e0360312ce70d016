"""Edits of a tokenizer's folder, for tests of what is read from it."""

import json
from pathlib import Path
from typing import Any

HOLE = 70_000
ADDED = {
    "id": HOLE,
    "content": "<x>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}
SHORTENED = {
    "truncation": {
        "max_length": 5,
        "stride": 0,
        "strategy": "LongestFirst",
        "direction": "Right",
    },
    "padding": {
        "strategy": {"Fixed": 12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<|pad|>",
    },
}


def change(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a file."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def add_token(folder: Path, **settings: Any) -> None:
    """Add the token ``<x>`` with an id far beyond the others."""
    content = json.loads((folder / "tokenizer.json").read_text())
    added = [*content["added_tokens"], ADDED | settings]
    change(folder, "tokenizer.json", added_tokens=added)


def swap(folder: Path, one: str, two: str) -> None:
    """Give two entries of the model each other's id."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocab = model["vocab"]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    change(folder, "tokenizer.json", model=model)
