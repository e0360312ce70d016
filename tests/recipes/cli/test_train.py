"""``granite41 train`` writes the run's report after the stage, whatever its end."""

import sys
from pathlib import Path

import pytest

import recipes.reports.run
from recipes.cli import main as cli
from recipes.common.errors import LockedError, UserError
from recipes.training import run as training
from recipes.training import stage_run
from tests.helpers.resuming import command, manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(data, tmp_path, monkeypatch) -> Path:
    """The command line of a stage that a signal stops at once; returns the run's folder."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(training, "fit", stop)
    monkeypatch.setattr(sys, "argv", command(tmp_path / "run", data))
    return tmp_path / "run"


def test_a_stage_that_is_stopped_has_a_report(stopped) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 143
    assert "| phase1 | stopped |" in (stopped / "report.md").read_text()


def test_a_report_that_fails_hides_nothing(stopped, monkeypatch, capsys) -> None:
    def fail(run_folder: Path) -> None:
        raise UserError("no report today")

    monkeypatch.setattr(recipes.reports.run, "write_report", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 143
    assert "no report was written: no report today" in capsys.readouterr().err
    assert manifest(stopped)["status"] == "stopped"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_trains_nothing_writes_no_report(stopped, monkeypatch, rank) -> None:
    monkeypatch.setenv("RANK", rank)
    if rank == "0":
        monkeypatch.setattr(stage_run, "locked", _held_by_another)
    with pytest.raises(SystemExit):
        cli.main()
    assert not (stopped / "report.md").exists()


def _held_by_another(folder: Path) -> object:
    raise LockedError(f"{folder}: another process trains in this folder")
