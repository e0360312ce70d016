"""A damaged file of a run or of prepared data ends a command with one sentence that names it."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.cli import main as cli
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.stage_folder import write_recipe
from tests.helpers.manifests import data_manifest, write_stage_manifest

STAGE_MANIFEST = "run/phase1/manifest.json"
RECIPE = "run/phase1/recipe.yaml"
DATA_MANIFEST = "data/manifest.json"

RUN = "run phase1..phase2 --size tiny --run-dir {folder}/run --dryrun"
TRAIN = "train phase1 --size tiny --run-dir {folder}/run --data {folder}/data"
EXPORT = "export --checkpoint {folder}/run/phase1 --output {folder}/hf"
MERGE = (
    "merge --method linear --parents {folder}/run/phase1 {folder}/run/phase1 --weights 0.5 0.5 "
    "--output {folder}/merged"
)
EVALUATE = "eval smoke --model phase1 --size tiny --run-dir {folder}/run --dryrun"
REPORT = "report --run-dir {folder}/run"

# reads the file only after PyTorch is imported
slow = pytest.mark.slow
READERS = [
    (STAGE_MANIFEST, RUN),
    (STAGE_MANIFEST, EXPORT),
    pytest.param(STAGE_MANIFEST, MERGE, marks=slow),
    (STAGE_MANIFEST, EVALUATE),
    (RECIPE, RUN),
    pytest.param(DATA_MANIFEST, TRAIN, marks=slow),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose first stage has finished, and prepared data."""
    stage = tmp_path / "run" / "phase1"
    write_recipe(stage, resolve_pretraining("phase1", "tiny"))
    write_stage_manifest(stage)
    (tmp_path / "data").mkdir()
    data_manifest(text={"text": 5}).write(tmp_path / "data")
    return tmp_path


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _latin_1(path: Path) -> None:
    path.write_bytes(b"\xe4" + path.read_bytes())


def _another_type(path: Path) -> None:
    path.write_text('["a list"]')


def _no_keys(path: Path) -> None:
    path.write_text("{}")


def _granite41(monkeypatch, capsys, command: str, folder: Path) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["granite41", *command.format(folder=folder).split()])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("damage", [_cut, _latin_1, _another_type, _no_keys])
@pytest.mark.parametrize(("file", "command"), READERS)
def test_a_damaged_file_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    file: str,
    command: str,
    damage: Callable[[Path], None],
) -> None:
    damage(folder / file)
    status, _, error = _granite41(monkeypatch, capsys, command, folder)
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith(f"granite41: {folder / file}: ")


@pytest.mark.parametrize(
    ("file", "key", "command"),
    [
        (STAGE_MANIFEST, "status", RUN),
        (STAGE_MANIFEST, "tokens", EXPORT),
        (STAGE_MANIFEST, "data", EVALUATE),
        pytest.param(STAGE_MANIFEST, "initial_state", MERGE, marks=slow),
        pytest.param(DATA_MANIFEST, "components", TRAIN, marks=slow),
    ],
)
def test_another_type_at_a_key_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, file: str, key: str, command: str
) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {key: ["odd"]}))
    status, _, error = _granite41(monkeypatch, capsys, command, folder)
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith(f"granite41: {folder / file}: key '{key}' holds ['odd'] (list); ")


@pytest.mark.parametrize("damage", [_cut, _latin_1, _another_type])
@pytest.mark.parametrize("file", [STAGE_MANIFEST, RECIPE])
def test_a_report_names_a_damaged_file_and_shows_the_rest(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    damage(folder / file)
    status, printed, _ = _granite41(monkeypatch, capsys, REPORT, folder)
    assert status == 0
    assert f"- {Path(file).relative_to('run')}: " in printed
    assert "| phase1 |" in printed


def test_the_files_of_the_fixture_are_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert _granite41(monkeypatch, capsys, RUN, folder)[0] == 0
    assert asdict(data_manifest(text={"text": 5})) == json.loads(
        (folder / DATA_MANIFEST).read_text()
    )
