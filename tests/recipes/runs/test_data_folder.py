import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common.errors import UserError
from recipes.runs.data_folder import (
    STAND_INS,
    blend,
    check_packing,
    component_weights,
    read_data_manifest,
)
from tests.helpers.manifests import data_component, data_manifest


def test_weights_are_divided_over_shards_by_their_tokens() -> None:
    data = data_manifest(code={"x/0": 100, "x/1": 300}, math={"y/0": 7, "y/1": 0})
    assert blend(data, {"math": 60, "code": 40}) == [
        (pytest.approx(0.1), Path("x/0")),
        (pytest.approx(0.3), Path("x/1")),
        (pytest.approx(0.6), Path("y/0")),
    ]


def test_stand_ins() -> None:
    data = data_manifest(code={"code": 5}, documentation={"documentation": 9})
    phase1 = {
        "common_crawl": 59,
        "code": 20,
        "math": 7,
        "technical": 10.5,
        "multilingual": 2,
        "domain": 1.5,
    }
    assert blend(data, phase1) == [
        (pytest.approx(0.2), Path("code")),
        (pytest.approx(0.8), Path("documentation")),
    ]
    assert blend(data, {"code": 30, "code_instruction": 20, "math": 0}) == [(1.0, Path("code"))]


def test_the_users_own_text() -> None:
    assert blend(data_manifest(text={"text": 5}), {"math": 40, "code": 59.99}) == [
        (1.0, Path("text"))
    ]


def test_components_prepared_under_their_own_names() -> None:
    data = data_manifest(code={"code": 1}, math={"x/math": 1}, text={"text": 1})
    assert blend(data, {"math": 50, "code": 30, "books": 20}) == [
        (0.3, Path("code")),
        (0.5, Path("x/math")),
        (0.2, Path("text")),
    ]
    assert component_weights(data, {"math": 50, "code": 30, "books": 20}) == {
        "code": 0.3,
        "math": 0.5,
        "text": 0.2,
    }


@pytest.mark.parametrize(
    ("mixture", "sentence"),
    [
        ({"maths": 100}, r"'maths' has no data among code \(did you mean 'math'\?\)"),
        ({"math": 100}, "'math' has no data among code"),
        ({"code": -1.0}, "component 'code' has weight -1.0, expected 0 or more"),
        ({"code": float("nan")}, "component 'code' has weight nan"),
        ({"code": float("inf")}, "component 'code' has weight inf"),
        (
            {"code": 0.0, "code_instruction": 0},
            r"every component has weight 0 \(code, code_instruction\)",
        ),
    ],
)
def test_what_cannot_be_blended(mixture: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        blend(data_manifest(code={"code": 1}), mixture)


def test_a_component_without_tokens() -> None:
    with pytest.raises(UserError, match="component 'code' holds no token"):
        blend(data_manifest(code={"code": 0}), {"code": 1})


def test_what_was_packed_for_longer_sequences_is_refused() -> None:
    data = data_manifest(books={"y": 1}, math={"z": 1})
    data.components["code_repositories"] = data_component({"x": 1}, packed_tokens=131072)
    mixture = {"books": 20.0, "code_repositories": 80.0}
    check_packing(Path("data"), data, mixture, "lce_128k", 131072)
    # only what the stage reads counts
    check_packing(Path("data"), data, {"books": 20.0, "code_repositories": 0.0}, "lce_32k", 32768)
    with pytest.raises(UserError) as caught:
        check_packing(Path("data"), data, mixture, "lce_32k", 32768)
    assert str(caught.value) == (
        "data: component 'code_repositories' was packed for 131,072 tokens, but lce_32k reads "
        "32,768 at a time and would cut its documents; pack it again with `granite41 data "
        "repositories --max-tokens 32768`, or train a stage of at least 131,072 tokens"
    )


def test_every_published_mixture_has_stand_ins() -> None:
    facts = yaml.safe_load(
        (Path(__file__).parents[3] / "recipes/facts.yaml").read_text(encoding="utf-8")
    )
    phases = facts["pretraining"]["phases"]
    mixtures = [
        entry["mixture"]
        for entry in [*phases, *phases[-1]["stages"]]
        if isinstance(entry.get("mixture"), dict)
    ]
    assert {name for mixture in mixtures for name in mixture} == set(STAND_INS)


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    manifest = data_manifest(code={"x/0": 100, "x/1": 300}, math={"y/0": 7})
    manifest.write(tmp_path)
    assert read_data_manifest(tmp_path) == manifest
    assert list(manifest.shards()) == ["x/0", "x/1", "y/0"]
    assert manifest.shards()["y/0"] == ("math", manifest.components["math"].shards[0])


def test_the_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    manifest = data_manifest(code={"x/0": 100})
    written = asdict(manifest)
    component = written["components"]["code"]
    for key in ("sources", "licenses", "left_out", "packed_tokens", "unigram_entropy"):
        del component[key]
    component["licences"] = {"MIT": 1}
    del component["shards"][0]["share"]
    del written["inputs"]
    (tmp_path / "manifest.json").write_text(json.dumps(written))
    assert read_data_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": None}, "key 'components' holds None"),
        ({"components": {"code": {"shards": []}}}, "has no key 'components"),
        ({"tokenizer": {"folder": "tokenizer"}}, "has no key 'tokenizer.vocab_size'"),
        ({"tokenizer": "tokenizer"}, "key 'tokenizer' holds 'tokenizer' (str)"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written = asdict(data_manifest(code={"x/0": 100})) | changes
    (tmp_path / "manifest.json").write_text(json.dumps(written))
    with pytest.raises(UserError) as caught:
        read_data_manifest(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/manifest.json: {message}")
    assert "; prepare data with `granite41 data tiny" in str(caught.value)
