"""`granite41 data tokenize`: Megatron's bytes, manifests, fallback, warnings of odd documents."""

import bz2
import gzip
import hashlib
import json
import logging
import lzma
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import gigatoken
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep import indexed, tokenization, tokenizer
from recipes.cli import main as cli
from recipes.common import encoder, tokenizer_files
from recipes.common.errors import UserError
from tests.helpers import megatron_reference as reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference.make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "small")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return reference.write_documents(tmp_path / "small.jsonl")


def tokenize(source: Path, output: Path, tokenizer_folder: Path, **options) -> None:
    tokenization.tokenize([str(source)], output, tokenizer_folder, **options)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged as a warning: its ``messages``."""
    caplog.set_level(logging.WARNING, "data_prep")
    return caplog


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_are_those_of_megatrons_own_tool(
    small: Path, source: Path, tmp_path: Path
) -> None:
    tokenize(source, tmp_path / "out", small)
    assert {
        kind: sha256(tmp_path / f"out/shard-00000.{kind}") for kind in ("bin", "idx")
    } == reference.SHA256


def test_the_files_are_those_of_megatrons_builder(
    small: Path, source: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    words = Tokenizer(
        models.WordLevel({"<eos>": 0, **{f"w{n}": n for n in range(1, 70_000)}}, unk_token="w1")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(wide / "tokenizer.json"))
    (wide / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}'
    )
    documents = {small: reference.DOCUMENTS, wide: ["w69999 w2", "w65500", "w3 w4 w5"]}
    for folder, texts in documents.items():
        reference.with_builder(folder, tmp_path / "expected", texts)
        tokenize(
            reference.write_documents(tmp_path / "in.jsonl", texts),
            tmp_path / f"out_{folder.name}",
            folder,
        )
        for kind in ("bin", "idx"):
            found = tmp_path / f"out_{folder.name}/shard-00000.{kind}"
            assert found.read_bytes() == (tmp_path / f"expected.{kind}").read_bytes(), (
                folder.name,
                kind,
            )


def test_shards_one_after_the_other_hold_the_same_tokens(
    small: Path, source: Path, tmp_path: Path
) -> None:
    reference.write_documents(source, reference.DOCUMENTS * 3)
    tokenize(source, tmp_path / "one", small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.shards.SHARD_BYTES", 20_000)
        tokenize(source, tmp_path / "many", small, workers=2)
    manifest = json.loads((tmp_path / "many/manifest.json").read_text())
    prefixes = [tmp_path / "many" / shard["prefix"] for shard in manifest["shards"]]
    assert len(prefixes) > 3
    assert (
        b"".join(Path(f"{prefix}.bin").read_bytes() for prefix in prefixes)
        == (tmp_path / "one/shard-00000.bin").read_bytes()
    )
    assert np.concatenate([indexed.lengths(p) for p in prefixes]).tolist() == (
        indexed.lengths(tmp_path / "one/shard-00000").tolist()
    )


def test_the_manifests(small: Path, source: Path, tmp_path: Path, warnings) -> None:
    tokenize(source, tmp_path / "out", small, license="CC-BY-4.0")
    shard = json.loads((tmp_path / "out/shard-00000.json").read_text())
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    tokens = np.fromfile(tmp_path / "out/shard-00000.bin", np.uint16)
    identity = {
        "fingerprint": tokenizer_files.TokenizerFolder(small).fingerprint,
        "vocab_size": 300,
        "end_of_text": 0,
    }
    assert shard["documents"] == len(reference.DOCUMENTS)
    assert shard["tokens"] == len(tokens)
    assert shard["bytes"] == sum(len(text.encode()) for text in reference.DOCUMENTS)
    assert shard["tokenizer"] == manifest["tokenizer"] == identity
    assert shard["license"] == "CC-BY-4.0"
    assert shard["sources"] == [
        {
            "input": str(source),
            "start": 0,
            "stop": source.stat().st_size,
            "documents": len(reference.DOCUMENTS),
        }
    ]
    assert shard["encoder"]["name"].startswith("gigatoken ")
    assert shard["encoder"]["checked_documents"] > 0
    assert shard["end_of_text_within_documents"] == 1
    assert warnings.messages == [
        "shard-00000: end-of-text is spelled out 1 times within documents and ends them there"
    ]
    assert manifest == {
        "documents": shard["documents"],
        "tokens": shard["tokens"],
        "bytes": shard["bytes"],
        "left_out": {},
        "licenses": {"CC-BY-4.0": shard["documents"]},
        "sources": {str(source): shard["documents"]},
        "tokenizer": identity,
        "passed_over": {},
        "shards": [
            {
                "prefix": "shard-00000",
                **{key: shard[key] for key in ("documents", "tokens", "bytes")},
                "bin_sha256": sha256(tmp_path / "out/shard-00000.bin"),
                "idx_sha256": sha256(tmp_path / "out/shard-00000.idx"),
            }
        ],
    }
    assert int(np.count_nonzero(tokens == 0)) == shard["documents"] + 1


@pytest.mark.parametrize(
    ("manifest_of_inputs", "packed"),
    [
        ('{"settings": {"max_tokens": 4096}}', 4096),
        ('{"settings": {"max_tokens": "4096"}}', None),
        ('{"settings": {"max_tokens": true}}', None),
        ('{"settings": {"max_tokens": -1}}', None),
        ('{"settings": []}', None),
        ("[1]", None),
        ("[" * 100_000, None),
        ("\xff", None),
    ],
)
def test_what_the_inputs_were_packed_for_is_kept(
    small: Path, source: Path, tmp_path: Path, manifest_of_inputs: str, packed: int | None
) -> None:
    # an output from before the manifest existed may be continued, and its shards stay as they are
    tokenize(source, tmp_path / "out", small)
    before = json.loads((tmp_path / "out/manifest.json").read_text())
    shard = (tmp_path / "out/shard-00000.json").read_bytes()
    (source.parent / "manifest.json").write_bytes(manifest_of_inputs.encode("latin-1"))
    tokenize(source, tmp_path / "out", small)
    found = json.loads((tmp_path / "out/manifest.json").read_text())
    assert found == before | ({"packed_tokens": packed} if packed else {})
    assert (tmp_path / "out/shard-00000.json").read_bytes() == shard


def test_lengths_are_the_documents(small: Path, source: Path, tmp_path: Path) -> None:
    tokenize(source, tmp_path / "out", small)
    loaded = tokenizer_files.load(small)
    expected = [
        len(loaded.encode(text, add_special_tokens=False).ids) + 1 for text in reference.DOCUMENTS
    ]
    assert indexed.lengths(tmp_path / "out/shard-00000").tolist() == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"X" + data[1:],
        lambda data: data[:20],
        lambda data: data[:-8] + b"\xff" * 8,
    ],
)
def test_a_damaged_index(small: Path, source: Path, tmp_path: Path, damage) -> None:
    tokenize(source, tmp_path / "out", small)
    index = tmp_path / "out/shard-00000.idx"
    index.write_bytes(damage(index.read_bytes()))
    with pytest.raises(
        UserError, match=r"shard-00000\.idx: is (truncated|damaged|not Megatron's index)"
    ):
        indexed.lengths(tmp_path / "out/shard-00000")


class Wrong:
    """gigatoken with one error: it takes every Japanese text for an x."""

    def __init__(self, inner: gigatoken.Tokenizer) -> None:
        self.inner = inner

    def encode_batch(self, texts: list[str], parallel: bool):
        return self.inner.encode_batch(
            ["x" if "日本語" in text else text for text in texts], parallel=parallel
        )

    def encode(self, text: str) -> np.ndarray:
        return self.inner.encode("x" if "日本語" in text else text)


def test_a_difference_falls_back_to_the_reference_and_is_counted(
    small: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings
) -> None:
    real = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(
        gigatoken.Tokenizer, "from_json", staticmethod(lambda data: Wrong(real(data)))
    )
    monkeypatch.setattr(encoder, "CHECKED_SHARE", 0.5)
    encoder._load.cache_clear()
    try:
        tokenize(source, tmp_path / "out", small)
    finally:
        encoder._load.cache_clear()
    found = json.loads((tmp_path / "out/shard-00000.json").read_text())["encoder"]
    assert found["name"].startswith("tokenizers ")
    assert 0 < found["differing_documents"] < found["checked_documents"]
    assert warnings.messages[0] == (
        f"shard-00000: gigatoken gave other ids than tokenizers for "
        f"{found['differing_documents']} of {found['checked_documents']} documents compared; "
        f"the whole shard was encoded by tokenizers"
    )
    assert {
        kind: sha256(tmp_path / f"out/shard-00000.{kind}") for kind in ("bin", "idx")
    } == reference.SHA256


def test_every_character_that_python_knows_has_the_references_ids(small: Path) -> None:
    """Unicode says what is a letter or a digit, and the libraries have different versions of it."""
    codes = [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
    ]
    # Hangul and Chinese characters are many and alike
    many = [
        code
        for code in codes
        if 0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xD7A4 or code >= 0x20000
    ]
    kept = sorted({*codes} - {*many} | {*many[::50]})
    texts = [f"a{c}b {c}1{c}\",\n{c}\n {c}{c} '{c}\r\n" for c in map(chr, kept)]
    assert len(texts) > 30_000
    fast, slow = encoder.Encoder(small), encoder.Encoder(small, reference_only=True)
    (ids, lengths), (expected, expected_lengths) = fast.encode(texts), slow.encode(texts)
    np.testing.assert_array_equal(lengths, expected_lengths)
    np.testing.assert_array_equal(ids, expected)
    assert fast.fallback_documents == 0


def test_documents_with_newer_characters_go_to_the_reference(tmp_path: Path) -> None:
    # U+A7CF became a letter in Unicode 17, which gigatoken has and tokenizers has not; like these
    # signs it ends in 8f, which then merges with what follows unless a letter ends there
    tokenizer.train(['⌏",\n▏",\n✏",\n' * 50], 262, tmp_path / "t")
    texts = ["before", 'x = "\ua7cf",\n', "after"] * 2
    fast, slow = (
        encoder.Encoder(tmp_path / "t"),
        encoder.Encoder(tmp_path / "t", reference_only=True),
    )
    (ids, lengths), (expected, expected_lengths) = fast.encode(texts), slow.encode(texts)
    assert (ids.tolist(), lengths.tolist()) == (expected.tolist(), expected_lengths.tolist())
    assert fast.fallback_documents == 2
    alone = gigatoken.Tokenizer(tmp_path / "t/tokenizer.json").encode(texts[1])
    assert alone.tolist() != slow.encode(texts[1:2])[0].tolist()


def test_every_shard_is_checked_and_more_of_what_is_not_ascii(small: Path) -> None:
    plain, foreign = encoder.Encoder(small), encoder.Encoder(small)
    plain.encode(["x" * 1000] * 1000)
    foreign.encode(["ü" * 1000] * 1000)
    assert (plain.checked, foreign.checked) == (5, 10)
    one = encoder.Encoder(small)
    one.encode(["x" * 300_000])
    assert one.checked == 1


def test_a_tokenizer_that_gigatoken_cannot_read_is_encoded_by_the_reference(
    tmp_path: Path, warnings
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    words = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2}, unk_token="b"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<eos>"}}')
    source = reference.write_documents(tmp_path / "in.jsonl", ["a b", "b"])
    tokenize(source, tmp_path / "out", folder)
    assert "as gigatoken cannot read it" in warnings.messages[0]
    assert np.fromfile(tmp_path / "out/shard-00000.bin", np.uint16).tolist() == [1, 2, 0, 2, 0]


def test_empty_documents_are_left_out_named_and_counted(
    small: Path, tmp_path: Path, warnings
) -> None:
    source = reference.write_documents(
        tmp_path / "in.jsonl", ["one", "", "two", "", "", "", "three"]
    )
    tokenize(source, tmp_path / "out", small)
    notes = [note.split(": ")[-1] for note in warnings.messages]
    assert notes == ["is empty (left out)"] * 3
    assert f"{source}, record 2" in warnings.messages[0]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["left_out"] == {"empty documents": 4}
    assert manifest["documents"] == 3


def test_bad_records_are_refused_or_left_out_named_and_counted(
    small: Path, tmp_path: Path, warnings
) -> None:
    source = reference.write_documents(tmp_path / "in.jsonl", ["one", "two"])
    source.write_bytes(source.read_bytes() + b'{"text": "gr\xf6ss"}\n{"no": 1}\n')
    with pytest.raises(UserError, match=r"in\.jsonl, record 3: is not valid UTF-8"):
        tokenize(source, tmp_path / "out", small)
    assert not list((tmp_path / "out").glob("shard*"))
    tokenize(source, tmp_path / "skipped", small, skip_bad_records=True)
    notes = [note.partition("in.jsonl, ")[2][:9] for note in warnings.messages]
    assert notes == ["record 3:", "record 4:"]
    assert json.loads((tmp_path / "skipped/manifest.json").read_text())["left_out"] == {
        "bad records": 2
    }


def test_a_document_of_100_megabytes_is_kept_whole_and_named(
    small: Path, tmp_path: Path, warnings
) -> None:
    text = "It's one text, größer: 日本語 123456\n" * 2_400_000
    source = reference.write_documents(tmp_path / "in.jsonl", ["before", text, "after"])
    tokenize(source, tmp_path / "out", small, max_shards=1)
    megabytes = len(text.encode()) / 1e6
    assert warnings.messages == [
        f"{source}, record 2: is one document of {megabytes:,.0f} MB, kept whole"
    ]
    lengths = indexed.lengths(tmp_path / "out/shard-00000")
    ids = tokenizer_files.load(small).encode(text[:3400], add_special_tokens=False).ids
    assert len(lengths) == 3
    assert lengths[1] > 10**7
    start = lengths[0]
    tokens = np.fromfile(tmp_path / "out/shard-00000.bin", np.uint16)
    assert tokens[start : start + len(ids)].tolist() == ids


def test_a_shard_within_one_document_holds_none_and_is_not_listed(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.shards.SHARD_BYTES", 1000)
    source = reference.write_documents(tmp_path / "in.jsonl", ["before", "one two " * 600, "after"])
    tokenize(source, tmp_path / "out", small)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert len(list((tmp_path / "out").glob("shard-*.json"))) == 5
    assert [shard["documents"] for shard in manifest["shards"]] == [2, 1]
    assert manifest["shards"][1]["prefix"] == "shard-00004"


def test_another_tokenizer_is_not_mixed_in(small: Path, source: Path, tmp_path: Path) -> None:
    tokenize(source, tmp_path / "out", small)
    tokenizer.train(reference.DOCUMENTS, 290, tmp_path / "other")
    with pytest.raises(
        UserError,
        match="out: was started with other tokenizer than now, and shards of both would be mixed",
    ):
        tokenize(source, tmp_path / "out", tmp_path / "other")


def test_an_input_that_changed_after_a_killed_run_is_refused(small: Path, tmp_path: Path) -> None:
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in inputs:
        reference.write_documents(file, ["one", "two"])

    def both(only: int) -> None:
        names = [str(file) for file in inputs]
        tokenization.tokenize(names, tmp_path / "out", small, max_shards=2, only=only)

    both(only=0)
    for file in inputs:
        reference.write_documents(file, ["two", "one"])
    with pytest.raises(UserError, match=r"a\.jsonl: has changed since .*out was started"):
        both(only=1)
    assert not (tmp_path / "out/manifest.json").exists()
    for file in inputs:
        reference.write_documents(file, ["one", "two"])
    both(only=1)
    assert (tmp_path / "out/manifest.json").exists()


def test_parquet_without_row_groups_alone(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.ParquetWriter(file, pa.schema([("text", pa.string())])).close()
    tokenize(file, tmp_path / "out", small)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["documents"], manifest["sources"]) == (0, {str(file): 0})


def test_the_first_record_behind_a_byte_order_mark_is_kept(small: Path, tmp_path: Path) -> None:
    source = reference.write_documents(tmp_path / "in.jsonl", ["one", "two"])
    tokenize(source, tmp_path / "plain", small)
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    tokenize(source, tmp_path / "marked", small, skip_bad_records=True)
    shards = [tmp_path / name / "shard-00000.bin" for name in ("plain", "marked")]
    assert sha256(shards[0]) == sha256(shards[1])


def test_a_folder_of_odd_files_is_read_whole_or_named(
    small: Path, tmp_path: Path, warnings
) -> None:
    folder = tmp_path / "in"
    line = b'{"text": "one", "score": NaN}\n'
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(line))
    (folder / "b.jsonl.bz2").write_bytes(bz2.compress(line))
    (folder / "shard-00001.json").write_bytes(line)
    (folder / "e.JSONL").write_bytes(line)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f.jsonl").write_bytes(line)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "table.csv").write_bytes(line)
    tokenize(folder, tmp_path / "out", small)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["documents"] == 5
    assert manifest["passed_over"] == {"unknown kind of file": 1}
    assert warnings.messages == [f"passed over 1 file, unknown kind of file: {folder}/table.csv"]
    plan = json.loads((tmp_path / "out/plan.json").read_text())["plan"]
    assert plan["passed_over"] == {"unknown kind of file": [f"{folder}/table.csv"]}


def test_a_truncated_input_keeps_finished_shards(small: Path, source: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"
    good.write_bytes(gzip.compress(source.read_bytes()))
    bad.write_bytes(good.read_bytes()[:-40])

    def both() -> None:
        tokenization.tokenize([str(good), str(bad)], tmp_path / "out", small, max_shards=2)

    with pytest.raises(
        UserError, match=r"b\.jsonl\.gz: is truncated, expected a complete file; fetch it again"
    ):
        both()
    assert sorted(path.name for path in (tmp_path / "out").glob("shard*")) == [
        *("shard-00000.bin", "shard-00000.idx", "shard-00000.json")
    ]
    assert not (tmp_path / "out/manifest.json").exists()
    assert {
        kind: sha256(tmp_path / f"out/shard-00000.{kind}") for kind in ("bin", "idx")
    } == reference.SHA256


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"tokenizer\.json: no such file; name the folder of a Hugging Face tokenizer"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: is not valid JSON"),
        ({"tokenizer_config.json": "{}"}, r"tokenizer_config\.json: names no eos_token"),
        (
            {"tokenizer_config.json": '{"eos_token": "<x>"}'},
            r"eos_token '<x>' is no entry of tokenizer\.json",
        ),
    ],
)
def test_a_folder_without_a_usable_tokenizer(
    small: Path, source: Path, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    if "tokenizer_config.json" in files:
        (folder / "tokenizer.json").write_bytes((small / "tokenizer.json").read_bytes())
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        tokenize(source, tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-m", "recipes.cli", "data", "tokenize", *map(str, words)]
    return subprocess.run(script, capture_output=True, text=True)


def test_the_command(small: Path, source: Path, tmp_path: Path) -> None:
    second = reference.write_documents(tmp_path / "second.jsonl", ["more", ""])
    words = [
        "--tokenizer",
        small,
        "--input",
        source,
        second,
        "--output",
        tmp_path / "out",
        "--workers",
        2,
    ]
    dry = command(*words, "--dryrun")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "shards of 0.0 MB of input, numbered 0 to" in dry.stdout
    assert not (tmp_path / "out").exists()
    done = command(*words, "--shards", 2)
    assert done.returncode == 0, done.stderr
    # a heading, an empty line, and a row for each count
    rows = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.strip()][2:]
    counts = {name.strip(): count for name, count in rows}
    assert counts == {
        "records read": str(len(reference.DOCUMENTS) + 2),
        "left out: empty documents": "1",
        "documents": str(len(reference.DOCUMENTS) + 1),
        "tokens": counts["tokens"],
    }
    assert "2/2: " in done.stderr
    assert f"{second}, record 2: is empty (left out)" in done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["sources"] == {str(source): len(reference.DOCUMENTS), str(second): 1}
    torn = command(
        "--tokenizer", small, "--input", tmp_path / "no.jsonl", "--output", tmp_path / "out"
    )
    assert (torn.returncode, torn.stdout) == (2, "")
    assert torn.stderr == (
        f"granite41: {tmp_path}/no.jsonl: no such file, expected a file or folder of text; "
        f"check the path\n"
    )


def test_the_command_takes_files_or_a_source_of_the_catalog(small: Path, tmp_path: Path) -> None:
    words = ["--tokenizer", small, "--output", tmp_path / "out"]
    for more, message in {
        (): "--input and --source: expected one of the two",
        ("--input", "a", "--source", "finemath"): "--input and --source: expected one of the two",
        ("--source", "finemaths"): "finemaths: no such source (did you mean 'finemath'?)",
    }.items():
        done = command(*words, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"granite41: {message}")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "recipes.cli",
            "data",
            "tokenize",
            *map(str, words),
            "--source",
            "finemath",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "granite41: hf:HuggingFaceTB/finemath:finemath-3plus:train: cannot be read from the Hub"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, data_prep.tokenization, recipes.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert cli.app
