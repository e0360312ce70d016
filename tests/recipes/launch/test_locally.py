"""A chain on this machine: in the order of its dependencies, until a task fails or the user stops it."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from recipes.runs.task import Task
from tests.helpers.manifests import write_stage_manifest

pytestmark = pytest.mark.slow

LIST = ("list", "--json")


def _run(chain: list[Task], folder: Path) -> str:
    from recipes.common.errors import UserError
    from recipes.launch.locally import run_local

    try:
        run_local(chain, folder)
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    return "done"


def _printed(folder: Path) -> dict[str, str]:
    """What each task that was started has printed."""
    logs = sorted(
        folder.glob("nemo_run/experiments/*/*/*/nemo_run/*/*/0/combined.log"), key=os.path.getmtime
    )
    return {log.parent.parent.name: log.read_text() for log in logs}


def test_every_task_runs_after_those_that_it_waits_for(forked, tmp_path) -> None:
    folder = tmp_path / "run"
    (folder / "phase1").mkdir(parents=True)
    chain = [
        Task("one", LIST),
        Task("two", ("report", "--run-dir", str(folder)), ("one",)),
        Task("three", LIST),
    ]
    assert forked(_run, chain, folder) == "done"
    assert _printed(folder).keys() == {"one", "two", "three"}
    assert '"stage": "phase1"' in _printed(folder)["one"]
    assert (folder / "report.html").exists()


def test_the_first_failure_ends_the_chain_with_its_reason(forked, tmp_path) -> None:
    folder = tmp_path / "run"
    wrong = ("export", "--checkpoint", str(tmp_path / "none"), "--output", str(tmp_path / "hf"))
    chain = [Task("one", LIST), Task("two", wrong, ("one",)), Task("three", LIST, ("two",))]
    ended = "two failed (see above); what comes after it was not started, the same command continues the run"
    assert forked(_run, chain, folder) == ended
    assert _printed(folder).keys() == {"one", "two"}
    assert "granite41: " in _printed(folder)["two"]
    # a stage has written down why
    write_stage_manifest(folder / "two", status="failed", error="RuntimeError: out of memory")
    assert forked(_run, chain, folder).startswith(
        "two failed (RuntimeError: out of memory); what comes after"
    )


def _interrupted(folder: Path, signum: int) -> tuple[str, float]:
    """Stop a chain in its task; the signal comes twice, as from `timeout` or a terminal and a launcher."""

    from recipes.launch import preloaded

    preloaded._command = _sleep

    def send() -> None:
        while "asleep" not in str(_printed(folder)):
            time.sleep(0.1)
        for _ in range(2):
            os.kill(os.getpid(), signum)
            time.sleep(0.05)

    threading.Thread(target=send, daemon=True).start()
    started = time.monotonic()
    ended = _run([Task("one", LIST), Task("two", LIST, ("one",))], folder)
    return ended, time.monotonic() - started


def _sleep() -> None:
    print("asleep", os.getpid(), flush=True)
    time.sleep(300)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_task_and_the_chain(forked, tmp_path, signum) -> None:
    ended, seconds = forked(_interrupted, tmp_path / "run", signum)
    assert (ended, seconds < 200) == ("interrupted", True)
    printed = _printed(tmp_path / "run")
    assert printed.keys() == {"one"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(printed["one"].split()[1]), 0)
