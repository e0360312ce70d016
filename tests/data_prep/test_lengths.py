"""The report on document lengths, against exact numbers of .idx files made by hand here."""

import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_prep.lengths import measure, prefixes, report
from recipes.cli.data import data_app
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow


def _index(prefix: Path, lengths: list[int], marks: list[int] | None = None) -> Path:
    """Write an .idx of uint16 tokens; ``marks`` are where documents start, and the end."""
    marks = list(range(len(lengths) + 1)) if marks is None else marks
    pointers = 2 * (np.cumsum([0, *lengths])[:-1])
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, len(lengths), len(marks))
        + np.array(lengths, np.int32).tobytes()
        + pointers.astype(np.int64).tobytes()
        + np.array(marks, np.int64).tobytes()
    )
    return prefix


def _data_folder(folder: Path, components: dict[str, list[list[int]]]) -> Path:
    """A data folder: component -> lengths of the documents of each shard."""
    manifest: dict = {"components": {}}
    for name, shards in components.items():
        found = [f"{name}/shard-{number:05d}" for number in range(len(shards))]
        for prefix, lengths in zip(found, shards, strict=True):
            _index(folder / prefix, lengths)
        manifest["components"][name] = {"shards": [{"prefix": prefix} for prefix in found]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_exact_numbers(tmp_path: Path) -> None:
    # documents of 1024, 512, 256, 128, 32, 31 and 17 tokens; the 1024 are two sequences, in a shard
    # of its own
    shards = [
        _index(tmp_path / "a", [512, 256, 128, 32, 31, 17]),
        _index(tmp_path / "b", [1000, 24], [0, 2]),
    ]
    found = measure("web", shards, 1024)
    assert (found.documents, found.tokens) == (7, 2000)
    assert found.percentiles == {"10": 17, "50": 128, "90": 1024, "99": 1024, "max": 1024}
    assert found.at_least == {"1": 0.512, "1/2": 0.768, "1/4": 0.896, "1/8": 0.96}
    assert found.below == {"1/32": 0.024}
    assert found.histogram == {
        16: 0.024,
        32: 0.016,
        64: 0,
        128: 0.064,
        256: 0.128,
        512: 0.256,
        1024: 0.512,
    }
    assert found.long_enough


def test_half_of_the_tokens_in_long_documents_is_enough(tmp_path: Path) -> None:
    assert measure("web", [_index(tmp_path / "a", [128, 64, 64])], 1024).long_enough
    assert not measure("web", [_index(tmp_path / "b", [128, 64, 65])], 1024).long_enough
    # an eighth of 1,028 is 128.5
    assert not measure("web", [tmp_path / "a"], 1028).long_enough


def test_a_data_folder_a_tokenized_folder_and_a_prefix(tmp_path: Path) -> None:
    data = _data_folder(tmp_path / "data", {"books": [[5], [7]], "code": [[9]]})
    assert prefixes(data) == {
        "books": [data / "books/shard-00000", data / "books/shard-00001"],
        "code": [data / "code/shard-00000"],
    }
    tokenized = data / "books"
    (tokenized / "manifest.json").write_text(
        json.dumps({"shards": [{"prefix": "shard-00001", "documents": 1}]})
    )
    assert prefixes(tokenized) == {"books": [tokenized / "shard-00001"]}
    prefix = tokenized / "shard-00000"
    assert prefixes(prefix) == prefixes(Path(f"{prefix}.idx")) == {"shard-00000": [prefix]}


def test_the_command_warns_of_short_documents_and_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _data_folder(
        tmp_path / "data", {"books": [[65_536, 400_000]], "web": [[97] * 1000, [100_000 - 97_000]]}
    )
    with caplog.at_level(logging.INFO):
        result = CliRunner().invoke(data_app, ["lengths", "--data", str(data)])
    assert result.exit_code == 0
    assert "lce_512k of 8b: sequences of 524,288 tokens" in result.stdout
    assert (
        "books: 100% of tokens are in documents of at least 65,536; long enough for the stage"
        in result.stdout
    )
    bars = [line.split() for line in result.stdout.splitlines() if "#" in line]
    assert bars == [
        ["65,536", "to", "131,071", "14.1%", "#" * 6],
        ["262,144", "to", "524,287", "85.9%", "#" * 34],
        ["64", "to", "127", "97.0%", "#" * 39],
        ["2,048", "to", "4,095", "3.0%", "#"],
    ]
    assert caplog.messages == [
        "web: 100% of tokens are in documents shorter than 65,536, so the stage would mostly see "
        "sequences of many unrelated documents; pack or choose longer ones"
    ]


def test_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = _data_folder(tmp_path / "data", {"web": [[3000, 1000]]})
    report(data, "phase1", "8b", as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "stage": "phase1",
        "size": "8b",
        "sequence_length": 4096,
        "components": {
            "web": {
                "documents": 2,
                "tokens": 4000,
                "percentiles": {"10": 1000, "50": 1000, "90": 3000, "99": 3000, "max": 3000},
                "at_least": {"1": 0.0, "1/2": 0.75, "1/4": 0.75, "1/8": 1.0},
                "below": {"1/32": 0.0},
                "histogram": {"512": 0.25, "1024": 0.0, "2048": 0.75},
                "long_enough": True,
            }
        },
    }
    assert caplog.messages == []


def test_bad_data_is_refused_in_one_sentence(tmp_path: Path) -> None:
    data = _data_folder(tmp_path / "data", {"web": [[300] * 50]})
    index = data / "web/shard-00000.idx"
    whole = index.read_bytes()
    for damaged, message in (
        (whole[:-1], "is truncated"),
        (whole[:20], "is truncated"),
        (b"x" * len(whole), "is not Megatron's index"),
        (_index(tmp_path / "none", []).with_suffix(".idx").read_bytes(), "web: holds no token"),
        (None, "shard-00000.idx: no such file"),
    ):
        index.unlink()
        if damaged is not None:
            index.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            report(data, "lce_512k", "8b")
        index.touch()
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "holds a JSON list, expected an object"),
        ('{"components": {"web": {}}}', "names no shards"),
        ('{"components": {"web": {"shards": [3]}}}', "names no shards"),
        ("{}", "names no shards"),
    ):
        (data / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=message):
            report(data, "lce_512k", "8b")
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        report(tmp_path / "absent", "lce_512k", "8b")
    with pytest.raises(UserError, match=r"unknown stage 'lce_512' \(did you mean 'lce_512k'\?\)"):
        report(data, "lce_512", "8b")
    with pytest.raises(UserError, match="is no stage of pre-training"):
        report(data, "sft", "8b")
