"""`granite41 data tiny`: files that Megatron reads back to the text, and a manifest of them."""

import errno
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from data_prep import indexed, machine_text, tiny, tokenizer
from recipes.common import tokenizer_files
from recipes.common.errors import UserError
from recipes.runs.data_folder import DataManifest, DataTokenizer, read_data_manifest
from recipes.runs.unigram_entropy import blend_entropy

pytestmark = pytest.mark.slow


def prepare(output: Path, text: Path | None, vocab_size: int = 300) -> DataManifest:
    return tiny.prepare(output, vocab_size=vocab_size, text=text)


def read_back(prefix: Path) -> list[np.ndarray]:
    """The documents' tokens, copied: Megatron's arrays are views of a file that is closed."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(prefix))
    assert list(dataset.document_indices) == list(range(len(dataset) + 1))
    return [np.array(ids) for ids in dataset]


def test_files_read_back_with_megatron_to_the_exact_text(text_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    part = prepare(output, text_folder).components["text"]
    encoded = read_back(output / part.shards[0].prefix)
    loaded = tokenizer_files.load(output / "tokenizer")
    documents = machine_text.collect_folder(text_folder).components["text"]
    assert len(encoded) == part.documents == len(documents) == 6
    for document, ids in zip(documents, encoded, strict=True):
        assert ids.dtype == np.uint16
        assert ids[-1] == 0
        assert 0 not in ids[:-1]
        assert loaded.decode(ids[:-1].tolist(), skip_special_tokens=False) == document.text


def test_manifest_agrees_with_the_files(text_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    manifest = prepare(output, text_folder)
    assert manifest == read_data_manifest(output)
    part = manifest.components["text"]
    ids = np.concatenate(read_back(output / "text"))
    counts = json.loads((output / "unigram_counts.json").read_text())
    assert counts == {"text": np.bincount(ids, minlength=300).tolist()}
    assert part.tokens == len(ids)
    assert part.bytes == sum(
        (text_folder / name).stat().st_size for name in ("a.txt", "b.md", "c.rst", "d.py")
    ) + sum(file.stat().st_size for file in (text_folder / "sub").iterdir())
    assert part.unigram_entropy == pytest.approx(blend_entropy(counts, {"text": 1}))
    (shard,) = part.shards
    totals = (part.documents, part.tokens, part.bytes)
    assert (shard.documents, shard.tokens, shard.bytes) == totals
    assert shard.bin_sha256 == hashlib.sha256((output / "text.bin").read_bytes()).hexdigest()
    assert shard.idx_sha256 == hashlib.sha256((output / "text.idx").read_bytes()).hexdigest()
    assert part.licenses == {"the user's own text": 6}
    assert part.left_out == {
        "exact duplicate": 1,
        "not UTF-8": 1,
        "under 200 characters": 1,
        "unknown kind of file": 1,
    }
    fingerprint = tokenizer_files.TokenizerFolder(output / "tokenizer").fingerprint
    assert manifest.tokenizer == DataTokenizer("tokenizer", 300, fingerprint)
    assert "| text | the user's own text | text | 6 |" in (output / "LICENSES.md").read_text()
    assert str(tmp_path) not in (output / "manifest.json").read_text()


def test_end_of_text_spelled_out_in_a_text_does_not_end_it(
    text_folder: Path, tmp_path: Path
) -> None:
    text = "The token <|end_of_text|> is written here and <|pad|> too. " * 5
    (text_folder / "0.txt").write_text(text)
    prepare(tmp_path / "out", text_folder)
    ids = read_back(tmp_path / "out/text")[0]
    assert list(np.flatnonzero(ids <= 1)) == [len(ids) - 1]
    assert (
        tokenizer_files.load(tmp_path / "out/tokenizer").decode(
            ids[:-1].tolist(), skip_special_tokens=False
        )
        == text
    )


def test_large_vocabulary_takes_wider_tokens(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(1, 70_000)}
    wide = Tokenizer(models.WordLevel({tokenizer.END_OF_TEXT: 0, **words}, unk_token="w1"))
    indexed.write(tmp_path / "wide", ["w69999"], wide)
    (ids,) = read_back(tmp_path / "wide")
    assert ids.dtype == np.int32
    assert ids.tolist() == [69_999, 0]


def test_second_run_returns_the_manifest_at_once(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(tmp_path / "out", text_folder)
    monkeypatch.setattr(tokenizer, "train", None)
    assert prepare(tmp_path / "out", text_folder) == first
    (text_folder / "table.csv").write_text("a file that is not read")
    assert prepare(tmp_path / "out", text_folder) == first


@pytest.mark.parametrize(
    "change", ["text", "vocab_size", "lost file", "foreign manifest", "broken manifest"]
)
def test_other_contents_are_not_taken_nor_overwritten(
    text_folder: Path, tmp_path: Path, change: str
) -> None:
    output = tmp_path / "out"
    prepare(output, text_folder)
    if change == "text":
        (text_folder / "a.txt").write_text("other text " * 100)
    elif change == "lost file":
        (output / "text.idx").unlink()
    elif change == "foreign manifest":
        (output / "manifest.json").write_text('{"stage": "phase1"}')
    elif change == "broken manifest":
        (output / "manifest.json").write_text("{")
    before = sorted(output.rglob("*"))
    with pytest.raises(UserError, match="out: exists already"):
        prepare(output, text_folder, vocab_size=299 if change == "vocab_size" else 300)
    assert sorted(output.rglob("*")) == before


def test_two_preparations_of_the_same_text_are_equal(text_folder: Path, tmp_path: Path) -> None:
    assert prepare(tmp_path / "one", text_folder) == prepare(tmp_path / "two", text_folder)


def test_bad_vocab_size_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size: 257 is too small"):
        prepare(tmp_path / "out", None, vocab_size=257)
    assert list(tmp_path.iterdir()) == []


def test_output_inside_the_text_is_refused(text_folder: Path) -> None:
    with pytest.raises(UserError, match="lies in the text folder"):
        prepare(text_folder / "out", text_folder)
    assert not (text_folder / "out").exists()


def test_missing_text_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        prepare(tmp_path / "out", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")]
)
def test_interrupted_or_full_disk_leaves_nothing(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = indexed.write

    def fail(prefix: Path, texts: Sequence[str], trained: object) -> NoReturn:
        write(prefix, texts, trained)
        assert prefix.with_suffix(".bin").exists()
        raise error

    monkeypatch.setattr(indexed, "write", fail)
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="no space left" if expected is UserError else None):
        prepare(tmp_path / "out", text_folder)
    assert list(tmp_path.iterdir()) == [text_folder]


def test_progress_has_one_line_a_step(
    text_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "data_prep")
    (text_folder / "table.csv").unlink()
    prepare(tmp_path / "out", text_folder)
    steps = [message.split(":")[0] for message in caplog.messages]
    assert steps == ["collect", "train the tokenizer", "encode text"]
    assert caplog.messages[0].startswith("collect: 6 documents of text (")


def test_real_text_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caps = {"code": 300_000, "documentation": 300_000}
    monkeypatch.setattr(machine_text, "BYTE_CAPS", caps)
    output = tmp_path / "out"
    manifest = prepare(output, None, vocab_size=512)
    assert list(manifest.components) == ["code", "documentation"]
    table = (output / "LICENSES.md").read_text()
    for name, part in manifest.components.items():
        assert 100_000 < part.bytes <= caps[name]
        assert part.left_out[f"beyond {caps[name]} bytes"] > 0
        assert sum(part.licenses.values()) == part.documents
        assert all(f"| {license} | {name} |" in table for license in part.licenses)
        assert 4 < part.unigram_entropy < np.log(512)
        ids = read_back(output / name)[0][:-1].tolist()
        text = tokenizer_files.load(output / "tokenizer").decode(ids, skip_special_tokens=False)
        assert len(text) >= machine_text.MIN_CHARACTERS
        assert (
            tokenizer_files.load(output / "tokenizer").encode(text, add_special_tokens=False).ids
            == ids
        )
    code = manifest.components["code"]
    assert code.licenses == {"PSF-2.0": code.documents}
    assert len(manifest.components["documentation"].licenses) > 3
    assert prepare(output, None, vocab_size=512) == manifest
