"""A chain on this machine: in the order of its dependencies, until a failure or a signal."""

import io
import os
import signal
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from recipes.runs.task import Task
from tests.helpers.manifests import write_stage_manifest

pytestmark = pytest.mark.slow

LIST = ("list", "--json")
# a module that makes every command of a chain sleep
SLEEP = """
import os, time
from recipes.launch import preloaded

def sleep():
    print("asleep", os.getpid(), flush=True)
    time.sleep(300)

preloaded._run_command = sleep
"""


def _run_and_print(chain: list[Task], folder: Path) -> tuple[str, str]:
    """Return how a chain ended, and what its user saw."""
    screen = io.StringIO()
    with redirect_stdout(screen), redirect_stderr(screen):
        ended = _run(chain, folder)
    return ended, screen.getvalue()


def _run(chain: list[Task], folder: Path, modules: tuple[str, ...] = ()) -> str:
    from recipes.common.errors import UserError
    from recipes.launch import locally

    # these commands need no NeMo
    locally.PRELOADED = modules
    try:
        locally.run_local(chain, folder, {task.name: 1.0 for task in chain})
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    return "done"


def _printed(folder: Path) -> dict[str, str]:
    """Return what each task that was started has printed."""
    pattern = "nemo_run/experiments/*/*/*/nemo_run/*/*/0/combined.log"
    logs = sorted(folder.glob(pattern), key=os.path.getmtime)
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
    ended = (
        "two failed (see above); what comes after it was not started, "
        "the same command continues the run"
    )
    found, screen = forked(_run_and_print, chain, folder)
    assert found == ended
    assert _printed(folder).keys() == {"one", "two"}
    assert "granite41: " in _printed(folder)["two"]
    # the screen has the end of it, and the progress of what came before
    assert "[1/3] one" in screen
    assert "combined.log" in screen
    assert "granite41: " in screen
    # a stage has written down why
    write_stage_manifest(folder / "two", status="failed", error="RuntimeError: out of memory")
    assert forked(_run, chain, folder).startswith(
        "two failed (RuntimeError: out of memory); what comes after"
    )


def _interrupted(folder: Path, signum: int) -> str:
    """Stop a chain in its task with a signal that comes twice, as from ``timeout``."""
    (folder / "asleep.py").write_text(SLEEP)
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    def send() -> None:
        while "asleep" not in str(_printed(folder)):
            time.sleep(0.1)
        for _ in range(2):
            os.kill(os.getpid(), signum)
            time.sleep(0.05)

    threading.Thread(target=send, daemon=True).start()
    return _run([Task("one", LIST), Task("two", LIST, ("one",))], folder, ("asleep",))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_task_and_the_chain(forked, tmp_path, signum) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert forked(_interrupted, folder, signum) == "interrupted"
    printed = _printed(folder)
    assert printed.keys() == {"one"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(printed["one"].split()[1]), 0)
