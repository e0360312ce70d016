import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep import tokenizer
from recipes.common import tokenizer_files
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

TEXTS = [
    "It's one text, größer: 日本語 123456 🙂\r\n\r\n  x = f(y)  # why ?\n" * 4,
    "another text about other things. " * 9,
]


def test_exact_size_and_special_tokens(tmp_path: Path) -> None:
    tokenizer.train(TEXTS, 300, tmp_path / "t")
    loaded = tokenizer_files.load(tmp_path / "t")
    assert tokenizer_files.TokenizerFolder(tmp_path / "t").vocab_size == 300
    assert sorted(loaded.get_vocab().values()) == list(range(300))
    assert loaded.token_to_id("<|end_of_text|>") == 0
    assert loaded.token_to_id("<|pad|>") == 1


def test_auto_tokenizer_agrees_and_gives_back_the_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.train(TEXTS, 300, tmp_path / "t")
    auto = AutoTokenizer.from_pretrained(tmp_path / "t")
    ids = auto(tokenizer_files.FINGERPRINT_TEXT, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer_files.TokenizerFolder(tmp_path / "t").text_ids
    assert auto.decode(ids) == tokenizer_files.FINGERPRINT_TEXT
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (0, 0, 1)
    assert len(auto) == 300


def test_training_twice_gives_the_same_file_and_other_text_another_fingerprint(
    tmp_path: Path,
) -> None:
    for name, texts in {"one": TEXTS, "two": TEXTS, "other": TEXTS[1:]}.items():
        tokenizer.train(texts, 270, tmp_path / name)
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (
        tmp_path / "two/tokenizer.json"
    ).read_bytes()
    one, two, other = (
        tokenizer_files.TokenizerFolder(tmp_path / name).fingerprint
        for name in ("one", "two", "other")
    )
    assert one == two != other


def test_fingerprint_tells_the_two_published_split_expressions_apart(tmp_path: Path) -> None:
    texts = [tokenizer_files.FINGERPRINT_TEXT * 5]
    tokenizer.train(texts, 400, tmp_path / "t")
    state = json.loads((tmp_path / "t/tokenizer.json").read_text())
    state["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (tmp_path / "gpt2").mkdir()
    Tokenizer.from_str(json.dumps(state)).save(str(tmp_path / "gpt2/tokenizer.json"))
    published = tokenizer_files.TokenizerFolder(tmp_path / "t")
    assert not published.has_fingerprint(
        tokenizer_files.TokenizerFolder(tmp_path / "gpt2").fingerprint
    )


def test_fingerprint_of_known_ids() -> None:
    # printf 1,20,3 | sha256sum
    assert (
        tokenizer_files.fingerprint_ids([1, 20, 3])
        == "12a265de6e83cdcab0e9ef518a17f860666fbe8cfa9c7d2925f1a145f813eb23"
    )


def test_vocab_size_too_small(tmp_path: Path) -> None:
    tokenizer.train(TEXTS, 260, tmp_path / "least")
    with pytest.raises(UserError, match="259 is too small, expected at least 260"):
        tokenizer.train(TEXTS, 259, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_vocab_size_too_large_for_the_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"yields only \d+ of 5000 tokenizer entries"):
        tokenizer.train(TEXTS, 5000, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        tokenizer_files.TokenizerFolder(tmp_path)
