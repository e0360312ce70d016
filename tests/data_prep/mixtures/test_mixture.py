"""Mixtures: the shipped files, a user's own with every mistake, plans checked by hand."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_prep.catalog.catalog import load_catalog
from data_prep.mixtures.mixture import PHASES, load_mixture, parse_tokens, phase_stages, plan
from recipes.cli import main as cli
from recipes.common.errors import UserError
from recipes.registry.stages import PRETRAIN_STAGES, STAGES

SHIPPED = list(PRETRAIN_STAGES)
# a mixture with every component of phase 4's recipe
MINE = {
    "phase4": {
        "common_crawl_hq": {"percent": 40, "sources": {"dclm-baseline": 3, "gneissweb": 1}},
        "code": {"percent": 20, "stand_in": {"starcoderdata": 2}},
        "math": {"percent": 20, "sources": {"finemath": 1, "megamath": 0}},
        "long_cot": {"percent": 6, "stand_in": {"openthoughts2-1m": 1}},
        "code_instruction": {"percent": 5, "sources": {"opencodeinstruct": 1}},
        "language_instruction": {"percent": 9, "sources": {"dolmino-mix-flan": 1}},
    }
}


@pytest.fixture
def run(capsys, monkeypatch):
    def granite41(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["granite41", "data", "plan", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return granite41


@pytest.fixture
def write(tmp_path):
    def file(document: object) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return path

    return file


def rows_of(stage: str, tokens: int | None = None) -> dict:
    return {(row.component, row.source.id): row for row in plan(load_mixture(stage), tokens).rows}


@pytest.mark.parametrize("stage", SHIPPED)
def test_shipped_mixtures_are_the_recipes(stage: str) -> None:
    mixture = load_mixture(stage)
    recipe = STAGES[stage].mixture
    assert [component.name for component in mixture.components] == list(recipe)
    assert [component.percent for component in mixture.components] == [
        percent.value for percent in recipe.values()
    ]
    assert mixture.warnings == ()
    for component in mixture.components:
        assert sum(component.weights.values()) == pytest.approx(1)
        assert component.why


@pytest.mark.parametrize("stage", SHIPPED)
def test_what_ibm_did_not_train_on_only_stands_in(stage: str) -> None:
    catalog = load_catalog()
    for component in load_mixture(stage).components:
        for name in component.weights:
            if catalog[name].disclosed is None or catalog[name].seed:
                assert name in component.stand_in


def test_the_extensions_to_128k_use_phase_4() -> None:
    assert load_mixture("lce_32k").components == load_mixture("phase4").components
    assert load_mixture("lce_128k").components == load_mixture("phase4").components
    assert [(c.name, c.percent) for c in load_mixture("lce_512k").components] == [
        ("books", 80),
        ("code_repositories", 20),
    ]


def test_phase_1_by_hand() -> None:
    rows = rows_of("phase1")
    # 59% of 10T, ten of 20.3 parts: 5.9e12 x 10 / 20.3
    gneissweb = rows["common_crawl", "gneissweb"]
    assert gneissweb.tokens == pytest.approx(2_906_403_940_887, abs=1)
    assert gneissweb.share == pytest.approx(29.0640, abs=1e-4)
    assert gneissweb.epochs == pytest.approx(0.29064, abs=1e-5)
    # 20% of 10T, 20 of 100 parts, of 250B
    starcoder = rows["code", "starcoderdata"]
    assert (starcoder.tokens, starcoder.epochs) == (pytest.approx(4e11), pytest.approx(1.6))
    assert starcoder.stand_in
    assert not gneissweb.stand_in
    # FinePDFs in two components: (10.5% x 880/1048.8 + 1.5% x 130/149.8) of 10T, of 1T
    epochs = 1.05 * 880 / 1048.8 + 0.15 * 130 / 149.8
    assert rows["technical", "finepdfs"].epochs == pytest.approx(epochs)
    assert rows["domain", "finepdfs"].epochs == pytest.approx(epochs)


def test_books_are_repeated() -> None:
    rows = rows_of("lce_512k")
    # 80% of 100B, 10.7 of 11.1 parts, of 10.7B
    assert rows["books", "loc-pd-books"].epochs == pytest.approx(80 / 11.1)
    assert rows["books", "loc-pd-books"].repeated
    assert not rows["code_repositories", "stack-v3-train"].repeated
    assert not rows_of("lce_512k", 50 * 10**9)["books", "loc-pd-books"].repeated


@pytest.mark.parametrize("stage", SHIPPED)
def test_a_plan_adds_up(stage: str) -> None:
    planned = plan(load_mixture(stage))
    assert sum(row.share for row in planned.rows) == pytest.approx(100)
    assert sum(row.tokens for row in planned.rows) == pytest.approx(STAGES[stage].tokens.value)
    assert planned.tokens == STAGES[stage].tokens


def test_an_unknown_size_gives_unknown_epochs(run, monkeypatch) -> None:
    catalog = dict(load_catalog())
    catalog["gneissweb"] = replace(catalog["gneissweb"], tokens=None)
    monkeypatch.setattr("data_prep.mixtures.mixture.load_catalog", lambda: catalog)
    row = rows_of("phase1")["common_crawl", "gneissweb"]
    assert (row.epochs, row.repeated) == (None, False)
    _, out, _ = run("--phase", "1")
    assert (
        next(line for line in out.splitlines() if " gneissweb " in line).split()[-3:]
        == ["unknown"] * 3
    )
    assert " 10.3T and 1 unknown" in out
    stage = json.loads(run("--phase", "1", "--json")[1])[0]
    assert stage["components"][0]["sources"][0]["available"] is None
    assert stage["components"][0]["unknown_sources"] == 1


@pytest.mark.parametrize(
    ("phase", "stages"),
    [
        ("1", ("phase1",)),
        ("5", ("lce_32k", "lce_128k", "lce_512k")),
        ("phase2", ("phase2",)),
        ("lce_32k", ("lce_32k",)),
    ],
)
def test_stages_of(phase: str, stages: tuple[str, ...]) -> None:
    assert phase_stages(phase) == stages


def test_the_phases_are_the_stages_of_pretraining() -> None:
    assert [stage for stages in PHASES.values() for stage in stages] == SHIPPED


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("2T", 2 * 10**12),
        ("500B", 5 * 10**11),
        ("1e12", 10**12),
        ("1.5e9", 15 * 10**8),
        ("0.5t", 5 * 10**11),
        ("7", 7),
    ],
)
def test_parse_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


def test_a_users_mixture(write) -> None:
    mixture = load_mixture("phase4", write(MINE))
    weights = {component.name: component.weights for component in mixture.components}
    assert weights["common_crawl_hq"] == {"dclm-baseline": 0.75, "gneissweb": 0.25}
    assert weights["math"] == {"finemath": 1}
    assert mixture.warnings == ()
    assert not next(
        component for component in mixture.components if component.name == "code"
    ).has_public_source


def test_a_users_percentages_may_differ(write) -> None:
    document = copy.deepcopy(MINE)
    document["phase4"]["math"]["percent"] = 15
    document["phase4"]["code"]["percent"] = 25
    path = write(document)
    assert load_mixture("phase4", path).warnings == (
        f"{path}: stage phase4: component code: 25 percent, the recipe has 20",
        f"{path}: stage phase4: component math: 15 percent, the recipe has 20",
    )


def test_a_users_file_may_refer_to_a_stage(write) -> None:
    own = load_mixture("lce_32k", write({**MINE, "lce_32k": {"same_as": "phase4"}}))
    assert own.components == load_mixture("phase4", write(MINE)).components
    shipped = load_mixture("lce_32k", write({"lce_32k": {"same_as": "phase4"}}))
    assert shipped.components == load_mixture("phase4").components


def test_a_shipped_percentage_must_be_the_recipes(monkeypatch, tmp_path) -> None:
    document = copy.deepcopy(MINE)
    document["phase4"]["math"]["percent"] = 19
    (tmp_path / "phase4.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr("data_prep.mixtures.mixture.resources.files", lambda package: tmp_path)
    with pytest.raises(UserError) as caught:
        load_mixture("phase4")
    assert str(caught.value) == (
        "phase4.yaml: stage phase4: component math: 19 percent, the recipe has 20; make them equal"
    )


def test_plan_prints_sources_totals_and_repeats(run) -> None:
    status, out, err = run("--phase", "3")
    rows = [line.split() for line in out.splitlines() if line.split()]
    assert status == 0
    assert ["math", "TOTAL", "16.668", "333B", "572B"] in rows
    assert next(row for row in rows if row[0] == "all")[:4] == ["all", "TOTAL", "100.000", "2T"]
    finemath = next(row for row in rows if row[:2] == ["math", "finemath"])
    assert finemath[2:] == ["1.636", "32.7B", "54B", "published", "0.61"]
    repeated = [line for line in err.splitlines() if "would be read" in line]
    assert len(repeated) == len(err.splitlines()) == 4
    assert repeated[0].startswith(
        "warning: phase3: code_instruction: opencodegeneticinstruct-mixtral would be read 17.7 "
        "times, more than 4;"
    )
    summary = out.rstrip().splitlines()[-1]
    assert summary.startswith(
        "phase3: 2T tokens (published); read more than 4 times: opencodegeneticinstruct-mixtral, "
        "opencodeinstruct, "
    )


def test_plan_for_fewer_tokens(run) -> None:
    _, out, err = run("--phase", "phase3", "--tokens", "100B")
    assert err == ""
    assert "phase3: 100B tokens (override); read more than 4 times: none" in out


def test_plan_json(run) -> None:
    stages = json.loads(run("--phase", "1", "--json")[1])
    assert [stage["stage"] for stage in stages] == ["phase1"]
    stage = stages[0]
    assert stage["tokens"]["value"] == 10**13
    assert [component["component"] for component in stage["components"]] == list(
        STAGES["phase1"].mixture
    )
    web = stage["components"][0]
    assert (web["share_percent"], web["tokens"]) == (pytest.approx(59), 5_900_000_000_000)
    assert web["available"] == 20_300_000_000_000
    gneissweb = web["sources"][0]
    assert (gneissweb["source"], gneissweb["available_origin"], gneissweb["repeated"]) == (
        "gneissweb",
        "published",
        False,
    )
    # FinePDFs stands in for two components and is there once
    every = {
        source["source"]: source["available"]
        for part in stage["components"]
        for source in part["sources"]
    }
    assert stage["total"]["available"] == sum(every.values())
    assert stage["total"]["tokens"] == 10**13
    assert stage["warnings"] == []


def test_plan_of_phase_5_has_three_stages(run) -> None:
    status, out, err = run("--phase", "5", "--json")
    stages = json.loads(out)
    assert status == 0
    assert [stage["stage"] for stage in stages] == ["lce_32k", "lce_128k", "lce_512k"]
    assert stages[2]["total"]["repeated_sources"] == 2
    assert stages[2]["components"][0]["sources"][0]["repeated"] is True
    assert [warning in err for warning in stages[2]["warnings"]] == [True, True]


def test_plan_warns_of_other_percentages(write, run) -> None:
    document = copy.deepcopy(MINE)
    document["phase4"]["math"]["percent"] = 15
    document["phase4"]["code"]["percent"] = 25
    _, _, err = run("--phase", "4", "--tokens", "1M", "--mixture", str(write(document)))
    assert err.splitlines()[0].endswith("component code: 25 percent, the recipe has 20")
    assert len(err.splitlines()) == 2
