"""A tokenizer through transformers has the ids that its files state."""

from pathlib import Path

import pytest

from data_prep import tokenizer
from recipes.common.tokenizer_files import FINGERPRINT_TEXT, SPECIAL_ROLES, TokenizerFolder
from recipes.model.transformers_model import load_tokenizer
from tests.helpers.tokenizer_folders import SHORTENED, change

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer.train([FINGERPRINT_TEXT], 260, tmp_path / "t")
    return tmp_path / "t"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"eos_token": {"__type": "AddedToken", "content": "<|pad|>"}},
        {"eos_token": "<|pad|>", "added_tokens_decoder": {}},
    ],
)
def test_the_special_ids_are_those_of_transformers(folder: Path, values: dict) -> None:
    if "added_tokens_decoder" not in values:
        (folder / "special_tokens_map.json").unlink()
    change(folder, "tokenizer_config.json", **values)
    files = TokenizerFolder(folder)
    loaded = load_tokenizer(files)
    for role in SPECIAL_ROLES:
        assert getattr(loaded, f"{role}_id") == files.special_ids[role], role


def test_truncation_and_padding_of_the_file_change_nothing(folder: Path) -> None:
    change(folder, "tokenizer.json", **SHORTENED)
    loaded = load_tokenizer(TokenizerFolder(folder))
    assert [len(loaded(text)["input_ids"]) for text in ("a" * 100, "b")] == [100, 1]
