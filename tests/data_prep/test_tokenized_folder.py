"""The manifest of a tokenized folder: read back, or refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenized_folder import (
    TokenizedManifest,
    TokenizedShard,
    TokenizerIdentity,
    read_manifest,
)
from recipes.common.errors import UserError

pytestmark = pytest.mark.fast

MANIFEST = TokenizedManifest(
    documents=2,
    tokens=30,
    bytes=100,
    left_out={"empty documents": 1},
    licenses={"CC0-1.0": 2},
    sources={"a.jsonl": 2},
    tokenizer=TokenizerIdentity("f" * 64, 300, 0),
    shards=[TokenizedShard("shard-00000", 2, 30, 100, "b" * 64, "1" * 64)],
)


def change(folder: Path, **values: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert "packed_tokens" not in json.loads((tmp_path / "manifest.json").read_text())
    assert read_manifest(tmp_path) == MANIFEST


def test_a_folder_from_before_the_key_was_renamed_is_read(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"licenses"', '"licences"'))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tokens": "30"}, "key 'tokens' holds '30'"),
        ({"shards": {}}, "key 'shards' holds {}"),
        ({"shards": [{"prefix": "shard-00000"}]}, "has no key 'shards.documents'"),
        ({"tokenizer": {"fingerprint": 1}}, "key 'tokenizer.fingerprint' holds 1"),
        ({"licenses": None}, "key 'licenses' holds None"),
        ({"sources": [1]}, "key 'sources' holds"),
    ],
)
def test_a_damaged_key_is_named(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    MANIFEST.write(tmp_path)
    change(tmp_path, **values)
    with pytest.raises(UserError, match=r"manifest\.json: .*; finish the folder with") as caught:
        read_manifest(tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        (b'{"documents": 2, ', "is not valid JSON"),
        (b'{"documents": "\xff"}', "is not UTF-8 text"),
        (b"[]", "holds a JSON list, expected an object"),
        (b"{}", "has no key"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=f"manifest.json: {sentence}"):
        read_manifest(tmp_path)
