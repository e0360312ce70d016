"""What is logged goes to stderr, and stdout is left to results."""

import logging
from pathlib import Path

import pytest

from recipes.common import logs
from recipes.common.environment import LOG_FILE


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch):
    """Without the variables of a job; handlers and levels are put back."""
    for name in ("SLURM_JOB_ID", "RANK", LOG_FILE):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in logs.PACKAGES}
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_progress_and_warnings_are_on_stderr(capsys) -> None:
    logs.configure()
    log = logging.getLogger("recipes.some.module")
    log.debug("detail")
    log.info("step %d", 3)
    log.warning("odd")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "step 3\nwarning: odd\n")


def test_details_on_request_and_once(capsys) -> None:
    logs.configure()
    logs.configure(verbose=True)
    logging.getLogger("slurm.submit").debug("detail")
    assert capsys.readouterr().err == "detail\n"


def test_libraries_are_not_shown(capsys) -> None:
    logs.configure()
    logging.getLogger("torch").warning("a library's own")
    assert capsys.readouterr().err == ""


def test_a_cluster_has_the_time(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    logs.configure()
    logging.getLogger("evaluation").info("scored")
    time, message = capsys.readouterr().err.rsplit(" ", 1)
    assert message == "scored\n"
    assert len(time) == len("2026-01-01 00:00:00")


@pytest.mark.parametrize(("rank", "written"), [("0", True), ("1", False)])
def test_the_first_process_also_writes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, written: bool
) -> None:
    file = tmp_path / "logs" / "task.log"
    monkeypatch.setenv(LOG_FILE, str(file))
    monkeypatch.setenv("RANK", rank)
    logs.configure()
    logging.getLogger("data_prep").info("encoded")
    assert file.exists() == written
    if written:
        assert file.read_text(encoding="utf-8").endswith(" INFO encoded\n")
