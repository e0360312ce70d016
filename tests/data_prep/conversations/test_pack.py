import json
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import pytest

from data_prep.conversations import pack as pack_module
from data_prep.conversations.conversation import parse
from data_prep.conversations.encoder import ChatEncoder
from data_prep.conversations.pack import Settings, pack
from recipes.common import encoder as encoder_module
from recipes.common.errors import UserError
from recipes.runs.packed_folder import PackedFolder
from recipes.runs.packed_manifest import PackedManifest
from tests.bad_inputs.row import listing, run
from tests.helpers.conversations import conversations

pytestmark = pytest.mark.slow


def write(file: Path, records: list[Any]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def packed(inputs: list[str], output: Path, settings: Settings, **options: Any) -> PackedManifest:
    manifest = pack(inputs, output, settings, **options)
    assert manifest is not None
    return manifest


def test_every_conversation_is_whole_in_one_sequence(
    tmp_path: Path, encoder: ChatEncoder, tokenizer_folder: Path
) -> None:
    records = list(conversations(40))
    files = [write(tmp_path / "a.jsonl", records[:25]), write(tmp_path / "b.jsonl", records[25:])]
    settings = Settings(tokenizer_folder, 4096)
    manifest = packed(files, tmp_path / "out", settings)

    expected = []
    for record in records:
        encoded = encoder.encode(parse(record))
        expected.append((encoded.ids.tolist(), encoded.trained.tolist()))
    fitting = [pair for pair in expected if len(pair[0]) <= 4096]

    found = []
    folder = PackedFolder(tmp_path / "out")
    for number in range(len(folder)):
        sequence = folder[number]
        assert len(sequence.ids) <= 4096
        assert sequence.cumulative_lengths[-1] == len(sequence.ids)
        numbers = sequence.conversation_numbers()
        positions = sequence.positions()
        for conversation in range(numbers.max() + 1):
            chosen = numbers == conversation
            assert positions[chosen].tolist() == list(range(chosen.sum()))
            found.append((sequence.ids[chosen].tolist(), sequence.loss_mask[chosen].tolist()))
    assert sorted(found) == sorted(fitting)

    assert manifest == folder.manifest
    assert manifest.sequences == len(folder)
    assert manifest.conversations == len(fitting)
    assert manifest.tokens == sum(len(ids) for ids, _ in fitting)
    assert manifest.trained_tokens == sum(sum(mask) for _, mask in fitting)
    assert sum(manifest.sources.values()) + sum(manifest.left_out.values()) == len(records)
    lines = (tmp_path / "out/left_out.jsonl").read_text().splitlines()
    assert len(lines) == manifest.left_out.get("longer than a sequence", 0)


def test_workers_and_parts_change_nothing(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.jsonl", list(conversations(60)))
    settings = Settings(tokenizer_folder, 4096)
    packed([file], tmp_path / "one", settings)
    monkeypatch.setattr(pack_module, "_PART_BYTES", Path(file).stat().st_size // 3)
    packed([file], tmp_path / "three", settings)
    packed([file], tmp_path / "two_workers", settings, workers=2)
    assert listing(tmp_path / "one") == listing(tmp_path / "three")
    assert listing(tmp_path / "one") == listing(tmp_path / "two_workers")


class Wrong:
    """gigatoken with one error: it takes every Japanese text for an x."""

    def __init__(self, inner: gigatoken.Tokenizer) -> None:
        self.inner = inner

    def encode(self, text: str) -> np.ndarray:
        return self.inner.encode(self.changed(text))

    def encode_batch(self, texts: list[str], parallel: bool) -> Any:
        return self.inner.encode_batch(list(map(self.changed, texts)), parallel=parallel)

    def changed(self, text: str) -> str:
        return text.replace("日本語", "x")


def test_a_difference_of_the_fast_encoder_is_mended_and_told(
    tmp_path: Path,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = write(tmp_path / "a.jsonl", list(conversations(20)))
    settings = Settings(tokenizer_folder, 4096)
    packed([file], tmp_path / "right", settings)
    real = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(
        gigatoken.Tokenizer, "from_json", staticmethod(lambda data: Wrong(real(data)))
    )
    encoder_module._load.cache_clear()
    try:
        packed([file], tmp_path / "wrong", settings)
    finally:
        encoder_module._load.cache_clear()
    assert "gigatoken gave other ids than tokenizers for 1 texts compared" in caplog.text
    assert listing(tmp_path / "wrong") == listing(tmp_path / "right")


def test_what_is_left_out_is_listed_and_counted(tmp_path: Path, tokenizer_folder: Path) -> None:
    def record(question: str, answer: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": turns}

    records = [
        record("a", "b"),
        {"text": "a document"},
        record("a", "b" * 500),
        record("<|pad|>", "b"),
        3,
    ]
    file = write(tmp_path / "a.jsonl", records)
    settings = Settings(tokenizer_folder, 100, skip_bad_records=True)
    manifest = packed([file], tmp_path / "out", settings)
    assert manifest.left_out == {
        "no conversation": 2,
        "longer than a sequence": 1,
        "special token in a text": 1,
    }
    text = (tmp_path / "out/left_out.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line.get("record") for line in lines] == [2, 3, 4, 5]
    assert "tokens" in lines[1]["detail"]

    escaping = Settings(tokenizer_folder, 100, escape=True, skip_bad_records=True)
    manifest = packed([file], tmp_path / "escaped", escaping)
    assert manifest.conversations == 2
    assert manifest.special_tokens == {"<|pad|>": 1}


def test_a_dry_run_writes_nothing(tmp_path: Path, tokenizer_folder: Path, capsys) -> None:
    file = write(tmp_path / "a.jsonl", list(conversations(2)))
    output = tmp_path / "out"
    assert pack([file], output, Settings(tokenizer_folder, 4096), dryrun=True) is None
    assert "would be packed into" in capsys.readouterr().out
    assert not output.exists()


def test_a_packed_folder_that_is_damaged(tmp_path: Path, tokenizer_folder: Path) -> None:
    file = write(tmp_path / "a.jsonl", list(conversations(2)))
    output = tmp_path / "out"
    packed([file], output, Settings(tokenizer_folder, 16384))
    bounds = np.load(output / "cumulative_lengths.npy")
    np.save(output / "cumulative_lengths.npy", bounds + np.array([0, 9000, 0]))
    with pytest.raises(UserError, match=r"cumulative_lengths\.npy: does not rise from 0 to"):
        PackedFolder(output)
    np.save(output / "cumulative_lengths.npy", bounds)
    whole = (output / "ids.npy").read_bytes()

    (output / "ids.npy").write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"ids\.npy: is no array of numpy"):
        PackedFolder(output)
    np.save(output / "ids.npy", np.zeros(3, dtype=np.int32))
    with pytest.raises(UserError, match=r"ids\.npy: holds int32 of shape \(3,\), expected int32"):
        PackedFolder(output)
    np.save(output / "ids.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"ids\.npy: is no array of numpy"):
        PackedFolder(output)
    (output / "ids.npy").unlink()
    with pytest.raises(UserError, match=r"ids\.npy: no such file; pack the conversations again"):
        PackedFolder(output)


def test_the_command_prints_counts_or_the_manifest(tmp_path: Path, tokenizer_folder: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    write(tmp_path / "a.jsonl", [{"messages": turns}] * 3 + [{}])
    command = f"data pack --input a.jsonl --tokenizer {tokenizer_folder} --skip-bad-records"
    printed = run(f"{command} --output one --workers 1", tmp_path, {})
    assert printed.status == 0
    for words in ("left out: no conversation", "trained tokens", "% of the tokens are trained"):
        assert words in printed.stdout
    assert "messages have a key 'weight', which no template reads: 3" in printed.stderr

    printed = run(f"{command} --output two --workers 1 --json", tmp_path, {})
    manifest = json.loads(printed.stdout)
    assert manifest == json.loads((tmp_path / "two/manifest.json").read_text())
    assert manifest["conversations"] == 3
    assert manifest["left_out"] == {"no conversation": 1}
