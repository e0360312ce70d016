"""`granite41 data assemble`: one manifest over the shards of tokenized folders."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data_prep import indexed, tokenizer
from data_prep.assemble import TokenizedFolder, assemble, parse_components
from data_prep.tokenization import tokenize
from recipes.cli import main as cli
from recipes.common import tokenizer_files
from recipes.common.errors import UserError
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import blend, check_manifest
from tests.helpers.tokenizer_folders import add_token, change

pytestmark = pytest.mark.slow


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    tokenizer.train([tokenizer_files.FINGERPRINT_TEXT], 260, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def component(folder: Path, tokenizer_folder: Path, texts: list[list[str]]) -> Path:
    """Write a component as `granite41 data tokenize` does, a shard for each list of texts."""
    folder.mkdir()
    shards = []
    for number, documents in enumerate(texts):
        prefix = folder / f"shard-{number:05d}"
        counts = indexed.write(prefix, documents, tokenizer_files.load(tokenizer_folder))
        shards.append(
            {
                "prefix": prefix.name,
                "documents": len(documents),
                "tokens": int(counts.sum()),
                "bytes": sum(len(text.encode()) for text in documents),
                "bin_sha256": sha256(Path(f"{prefix}.bin")),
                "idx_sha256": sha256(Path(f"{prefix}.idx")),
            }
        )
    tokenizer_identity = asdict(tokenizer_files.TokenizerFolder(tokenizer_folder).identity)
    manifest = {
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "left_out": {},
        "sources": {"somewhere": 3},
        "licenses": {"CC0-1.0": 3},
        "tokenizer": tokenizer_identity,
        "shards": shards,
    }
    write(folder, manifest)
    return folder


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def write(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def code(tmp_path: Path, tokenizer_folder: Path) -> Path:
    return component(tmp_path / "code", tokenizer_folder, [["a = 1", "b = 2"], ["c = 3"], []])


def test_a_data_folder_of_two_components(
    tmp_path: Path, tokenizer_folder: Path, code: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    component(tmp_path / "web", tokenizer_folder, [["some text"]])
    monkeypatch.chdir(tmp_path)
    command = "granite41 data assemble --output out/data --tokenizer tokenizer"
    monkeypatch.setattr(sys, "argv", [*command.split(), "code=code", "common_crawl=web"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert capsys.readouterr().out.splitlines() == [
        "code: 2 shards, 3 documents, 18 tokens",
        "common_crawl: 1 shards, 1 documents, 10 tokens",
    ]
    data = tmp_path / "out/data"
    made = read(data)
    part = made["components"]["code"]
    # the shard without a document is left out
    first, second = part["shards"]
    changed = {"prefix": "../../code/shard-00000", "share": None}
    assert first == read(code)["shards"][0] | changed
    assert second["prefix"] == "../../code/shard-00001"
    assert (data / f"{second['prefix']}.bin").stat().st_size == 2 * second["tokens"]
    assert {key: part[key] for key in ("documents", "tokens", "licenses", "sources")} == {
        "documents": 3,
        "tokens": 18,
        "licenses": {"CC0-1.0": 3},
        "sources": {"somewhere": 3},
    }
    fingerprint = tokenizer_files.TokenizerFolder(tokenizer_folder).fingerprint
    assert made["tokenizer"] == {
        "folder": "tokenizer",
        "vocab_size": 260,
        "fingerprint": fingerprint,
    }
    assert tokenizer_files.TokenizerFolder(data / "tokenizer").fingerprint == fingerprint
    assert sorted(file.name for file in (data / "tokenizer").iterdir()) == [
        "chat_template.jinja",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_sources_of_one_component(tmp_path: Path, tokenizer_folder: Path, code: Path) -> None:
    web = component(tmp_path / "web", tokenizer_folder, [["some text"], ["more"]])
    words = {
        "by tokens": [f"code={code}", f"code={web}"],
        "by weight": [f"code={code}:1", f"code={web}:3"],
    }
    weights = {}
    for name, components in words.items():
        made = assemble(tmp_path / name, tokenizer_folder, parse_components(components))
        part = made.components["code"]
        assert (part.documents, part.tokens) == (5, 33)
        assert part.sources == {"somewhere": 6}
        weights[name] = [round(weight, 6) for weight, _ in blend(made, {"code": 100.0})]
    tokens = [12, 6, 10, 5]
    assert weights["by tokens"] == [round(count / 33, 6) for count in tokens]
    expected = [0.25 * 12 / 18, 0.25 * 6 / 18, 0.75 * 10 / 15, 0.75 * 5 / 15]
    assert weights["by weight"] == [round(share, 6) for share in expected]


def test_the_longest_packing_of_a_component_is_kept(
    tmp_path: Path, tokenizer_folder: Path, code: Path
) -> None:
    folders = {"code": code}
    for name in ("more", "most", "web"):
        folders[name] = component(tmp_path / name, tokenizer_folder, [[name]])
    for name, packed in {"more": 512, "most": 4096}.items():
        write(folders[name], read(folders[name]) | {"packed_tokens": packed})
    web = TokenizedFolder(folders.pop("web"))
    sources = [TokenizedFolder(folder) for folder in folders.values()]
    made = assemble(tmp_path / "data", tokenizer_folder, {"code": sources, "web": [web]})
    assert made.components["code"].packed_tokens == 4096
    assert made.components["web"].packed_tokens == 0


def _unfinished(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _empty(folder: Path) -> None:
    write(folder, read(folder) | {"documents": 0, "tokens": 0, "bytes": 0, "shards": []})


def _packing(folder: Path) -> None:
    write(folder, read(folder) | {"packed_tokens": float("inf")})


def _sums(folder: Path) -> None:
    write(folder, read(folder) | {"documents": 4})


def _lost(folder: Path) -> None:
    (folder / "shard-00001.idx").unlink()


def _cut(folder: Path) -> None:
    with (folder / "shard-00000.bin").open("r+b") as file:
        file.truncate(5)


def _index_of_another(folder: Path) -> None:
    (folder / "shard-00000.idx").write_bytes((folder / "shard-00001.idx").read_bytes())


def _twice(folder: Path) -> None:
    manifest = read(folder)
    manifest["shards"][2] = manifest["shards"][1]
    for key in ("documents", "tokens", "bytes"):
        manifest[key] += manifest["shards"][1][key]
    write(folder, manifest)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_unfinished, "code/manifest.json: no such file; finish the folder with `granite41 data"),
        (_packing, "code/manifest.json: key 'packed_tokens' holds inf"),
        (_empty, "code/manifest.json: the component holds no document"),
        (_sums, r"code/manifest.json: states \{'documents': 4"),
        (_lost, "code/shard-00001.idx: no such file"),
        (
            _cut,
            "code/shard-00000.bin: has 5 bytes but the manifest's 2 documents of 12 tokens take 24",
        ),
        (
            _index_of_another,
            "code/shard-00000.idx: has 62 bytes but the manifest's 2 documents of 12 tokens take "
            "82",
        ),
        (
            _twice,
            "code/shard-00001: holds the same tokens as .*code/shard-00001 and would be read twice",
        ),
    ],
)
def test_a_damaged_component_is_refused(
    tmp_path: Path, tokenizer_folder: Path, code: Path, damage, sentence
) -> None:
    damage(code)
    with pytest.raises(UserError, match=sentence):
        assemble(tmp_path / "data", tokenizer_folder, {"code": [TokenizedFolder(code)]})
    assert not (tmp_path / "data").exists()


def test_a_component_of_another_tokenizer_is_refused(
    tmp_path: Path, tokenizer_folder: Path, code: Path
) -> None:
    tokenizer.train([tokenizer_files.FINGERPRINT_TEXT * 5], 300, tmp_path / "other")
    web = component(tmp_path / "web", tmp_path / "other", [["text"]])
    one = tokenizer_files.TokenizerFolder(tokenizer_folder).fingerprint[:12]
    other = tokenizer_files.TokenizerFolder(tmp_path / "other").fingerprint[:12]
    components = {"code": [TokenizedFolder(code)], "web": [TokenizedFolder(web)]}
    with pytest.raises(
        UserError, match=f"web: was encoded with tokenizer {other} but .*/tokenizer is {one};"
    ):
        assemble(tmp_path / "data", tokenizer_folder, components)
    assert not (tmp_path / "data").exists()


def test_components_with_another_end_of_text_are_refused(
    tmp_path: Path, tokenizer_folder: Path, code: Path
) -> None:
    other = shutil.copytree(tokenizer_folder, tmp_path / "other")
    change(other, "tokenizer_config.json", eos_token=tokenizer.PAD)
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n')
    tokenize([str(source)], tmp_path / "web", other)
    components = {"code": [TokenizedFolder(code)], "web": [TokenizedFolder(tmp_path / "web")]}
    for folder, refused in ((tokenizer_folder, "web"), (other, "code")):
        with pytest.raises(UserError, match=f"{refused}: was encoded with tokenizer"):
            assemble(tmp_path / "data", folder, components)
    assert not (tmp_path / "data").exists()


def test_a_component_of_a_former_version_is_accepted(
    tmp_path: Path, tokenizer_folder: Path, code: Path
) -> None:
    files = tokenizer_files.TokenizerFolder(tokenizer_folder)
    manifest = read(code)
    manifest["tokenizer"]["fingerprint"] = tokenizer_files.fingerprint_ids(files.text_ids)
    write(code, manifest)
    made = assemble(tmp_path / "data", tokenizer_folder, {"code": [TokenizedFolder(code)]})
    assert made.tokenizer.fingerprint == files.fingerprint

    # its fingerprint does not tell, but its manifest does
    change(tokenizer_folder, "tokenizer_config.json", eos_token=tokenizer.PAD)
    with pytest.raises(UserError, match=r"code: was encoded with end_of_text 0, but .* has 1;"):
        assemble(tmp_path / "more", tokenizer_folder, {"code": [TokenizedFolder(code)]})
    add_token(tokenizer_folder)
    change(tokenizer_folder, "tokenizer_config.json", eos_token=tokenizer.END_OF_TEXT)
    with pytest.raises(UserError, match=r"was encoded with vocab_size 260, but .* has 70001;"):
        assemble(tmp_path / "more", tokenizer_folder, {"code": [TokenizedFolder(code)]})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["code"], "code: expected NAME=DIR or NAME=DIR:WEIGHT"),
        (
            ["code=a", "code=b:1"],
            "code: 1 of 2 sources have a weight; give all of them one, or none",
        ),
        (
            ["code=a:1", "code=b:-1"],
            "code: its sources have weights [1.0, -1.0], expected none below 0",
        ),
        (
            ["code=a:0", "code=b:0"],
            "code: its sources have weights [0.0, 0.0], expected none below 0 and one above",
        ),
        (["code=a:nan"], "code: its sources have weights [nan]"),
    ],
)
def test_words_that_are_no_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, words, sentence
) -> None:
    command = f"granite41 data assemble --output {tmp_path}/data --tokenizer {tmp_path}"
    monkeypatch.setattr(sys, "argv", [*command.split(), *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_data_folders_components_are_sources_of_another(tmp_path, tokenizer_folder) -> None:
    code = component(tmp_path / "code", tokenizer_folder, [["one", "two"], ["three"]])
    mine = component(tmp_path / "mine", tokenizer_folder, [["my own"]])
    first = tmp_path / "first"
    assemble(first, tokenizer_folder, {"code": [TokenizedFolder(code)]})

    second = tmp_path / "second"
    components = {"code": [TokenizedFolder(first)], "mine": [TokenizedFolder(mine)]}
    manifest = assemble(second, tokenizer_folder, components)
    prefixes = [second / shard.prefix for shard in manifest.components["code"].shards]
    assert [prefix.resolve() for prefix in prefixes] == [
        code / "shard-00000",
        code / "shard-00001",
    ]
    weights = [weight for weight, _ in blend(manifest, {"code": 90, "mine": 10})]
    assert weights[-1] == pytest.approx(0.1)

    with pytest.raises(UserError, match="a data folder without a component 'math', it has code;"):
        assemble(tmp_path / "third", tokenizer_folder, {"math": [TokenizedFolder(first)]})
    weighted = {"code": [TokenizedFolder(code, 1.0)]}
    assemble(tmp_path / "weighted", tokenizer_folder, weighted)
    again = {"code": [TokenizedFolder(tmp_path / "weighted")]}
    with pytest.raises(UserError, match="have weights of their own; name the tokenized folders"):
        assemble(tmp_path / "fourth", tokenizer_folder, again)


def test_ones_own_source_joins_the_demos_data(tmp_path, data) -> None:
    # as docs/add_a_source.md says
    mine = component(tmp_path / "mine", data / "tokenizer", [["my own text"] * 50])
    words = [f"text={data}", f"mine={mine}"]
    folder = tmp_path / "data"
    manifest = assemble(folder, data / "tokenizer", parse_components(words))
    overrides = ["mixture.mine=10", "mixture.common_crawl=49", "split=900,100,0"]
    recipe = resolve_pretraining("phase1", "tiny", overrides)
    check_manifest(folder, manifest, recipe)
    weights = blend(manifest, recipe.mixture_percent)
    assert sum(weight for weight, path in weights if "mine" in str(path)) == pytest.approx(0.1)
