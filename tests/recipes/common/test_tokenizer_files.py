"""A tokenizer's folder: truncation and padding, ids with holes, special tokens, fingerprints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import tokenization, tokenizer
from recipes.common.encoder import Encoder
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import (
    FINGERPRINT_TEXT,
    TokenizerFolder,
    fingerprint_ids,
    load,
)
from tests.helpers.tokenizer_folders import HOLE, SHORTENED, add_token, change, swap


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer.train([FINGERPRINT_TEXT], 260, tmp_path / "t")
    return tmp_path / "t"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same tokenizer a second time."""
    tokenizer.train([FINGERPRINT_TEXT], 260, tmp_path / "other")
    return tmp_path / "other"


def test_truncation_and_padding_are_ignored(folder: Path, tmp_path: Path) -> None:
    expected = TokenizerFolder(folder)
    change(folder, "tokenizer.json", **SHORTENED)
    assert TokenizerFolder(folder).fingerprint == expected.fingerprint
    texts = ["a" * 100, "b"]
    for encoder in (Encoder(folder), Encoder(folder, reference_only=True)):
        assert encoder.encode(texts)[1].tolist() == [100, 1]

    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenization.tokenize([str(source)], tmp_path / "out", folder)
    manifest = json.loads((tmp_path / "out/shard-00000.json").read_text())
    assert manifest["tokens"] == 103
    assert manifest["encoder"]["differing_documents"] == 0


def test_ids_are_those_of_the_file_and_may_have_holes(folder: Path, tmp_path: Path) -> None:
    add_token(folder)
    files = TokenizerFolder(folder)
    assert files.vocab_size == HOLE + 1
    assert len(files.entries) == 261
    assert files.tokenizer.decode([HOLE]) == "<x>"
    for encoder in (Encoder(folder), Encoder(folder, reference_only=True)):
        assert encoder.encode(["<x>a<x>"])[0].tolist() == [
            HOLE,
            load(folder).token_to_id("a"),
            HOLE,
        ]

    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "<x><x>"}\n')
    tokenization.tokenize([str(source)], tmp_path / "out", folder)
    assert np.fromfile(tmp_path / "out/shard-00000.bin", np.int32).tolist() == [HOLE, HOLE, 0]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["tokenizer"] == {
        "fingerprint": files.fingerprint,
        "vocab_size": HOLE + 1,
        "end_of_text": 0,
    }


def test_ids_that_transformers_does_not_give(folder: Path) -> None:
    TokenizerFolder(folder).check_library_ids()
    add_token(folder)
    with pytest.raises(UserError, match=r"states id 70000 for .* but transformers gives it 260"):
        TokenizerFolder(folder).check_library_ids()


def test_ids_that_contradict_each_other(folder: Path) -> None:
    add_token(folder, id=5)
    with pytest.raises(UserError, match=r"tokenizer\.json: states id 5 for the added token '<x>'"):
        load(folder)


def test_a_model_without_holes_has_no_room_for_one(folder: Path) -> None:
    add_token(folder)
    model = {"type": "Unigram", "vocab": [["<|end_of_text|>", 0.0], ["a", -1.0]], "unk_id": 1}
    change(folder, "tokenizer.json", model=model)
    with pytest.raises(UserError, match=r"do not continue the ids of model\.vocab"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("tokenizer.json", {"model": []}, "key 'model': data did not match"),
        ("tokenizer.json", {"added_tokens": 5}, "key 'added_tokens': invalid type"),
        ("tokenizer.json", {"truncation": 5}, "key 'truncation': invalid type"),
        ("tokenizer_config.json", {"eos_token": 5}, "key 'eos_token' holds 5, expected a token"),
        (
            "tokenizer_config.json",
            {"pad_token": {"lstrip": False}},
            "key 'pad_token' holds {'lstrip': False}, expected a token",
        ),
    ],
)
def test_another_type_is_named_with_its_key(
    folder: Path, file: str, values: dict[str, Any], sentence: str
) -> None:
    change(folder, file, **values)
    with pytest.raises(UserError) as refusal:
        TokenizerFolder(folder)
    assert f"{folder / file}: " in str(refusal.value)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[]", b"null"])
def test_a_damaged_file_is_named(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: (is not|holds a JSON)"):
        TokenizerFolder(folder)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"eos_token": None}, "names no eos_token"),
        ({"eos_token": {"lstrip": True}}, "key 'eos_token' holds {'lstrip': True}"),
        ({"eos_token": "<y>"}, "eos_token '<y>' is no entry of tokenizer.json"),
        ({"eos_token": {"content": "<y>"}}, "eos_token '<y>' is no entry of tokenizer.json"),
    ],
)
def test_an_end_of_text_that_is_none(folder: Path, values: dict[str, Any], sentence: str) -> None:
    change(folder, "tokenizer_config.json", **values)
    with pytest.raises(UserError) as refusal:
        TokenizerFolder(folder).identity  # noqa: B018
    assert sentence in str(refusal.value)


def test_special_tokens_map_adds_what_the_config_lacks(folder: Path) -> None:
    change(folder, "tokenizer_config.json", eos_token="<|pad|>", pad_token=None)
    assert TokenizerFolder(folder).special_ids == {"bos_token": 0, "eos_token": 1}
    (folder / "tokenizer_config.json").write_text("{}")
    assert TokenizerFolder(folder).special_ids == {"bos_token": 0, "eos_token": 0, "pad_token": 1}
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
    assert TokenizerFolder(folder).special_ids == {}


@pytest.mark.parametrize(
    ("edit", "difference"),
    [
        (lambda folder: change(folder, "tokenizer_config.json", tokenizer_class="Other"), None),
        (lambda folder: change(folder, "tokenizer.json", **SHORTENED), None),
        (
            lambda folder: change(folder, "tokenizer_config.json", eos_token="<|pad|>"),
            "its eos_token is '<|pad|>' (1) in place of '<|end_of_text|>' (0)",
        ),
        (
            lambda folder: change(folder, "tokenizer_config.json", pad_token=None),
            "its pad_token is not named in place of '<|pad|>' (1)",
        ),
        # of characters that the text does not have
        (
            lambda folder: swap(folder, "Q", "Ā"),
            "2 of its tokens have other ids, such as 'Q' with ",
        ),
        (
            lambda folder: add_token(folder, id=260),
            "1 of its tokens have other ids, such as '<x>' with 260 in place of None",
        ),
        (
            lambda folder: change(folder, "tokenizer.json", normalizer={"type": "Lowercase"}),
            "it splits text into other tokens",
        ),
    ],
)
def test_the_fingerprint_covers_ids_and_special_tokens(
    folder: Path, other: Path, edit: Callable[[Path], None], difference: str | None
) -> None:
    edit(other)
    first = TokenizerFolder(folder)
    second = TokenizerFolder(other)
    assert (first.fingerprint == second.fingerprint) == (difference is None)
    found = first.difference(second)
    assert found == difference or (found and difference and found.startswith(difference))


def test_a_fingerprint_of_a_former_version_is_known(folder: Path, other: Path) -> None:
    files = TokenizerFolder(folder)
    former = fingerprint_ids(files.text_ids)
    assert former != files.fingerprint
    assert files.has_fingerprint(former)
    change(other, "tokenizer.json", normalizer={"type": "Lowercase"})
    assert not TokenizerFolder(other).has_fingerprint(former)
