"""A judge's server in a process of its own, with a program in vLLM's place."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.conversations.judge import server
from data_prep.conversations.judge.server import JudgeServer, serve, wait_for_server
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
LOOPBACK = "127.0.0.1"


def program(folder: Path, command: str) -> str:
    file = folder / "vllm"
    file.write_text(f"#!/bin/sh\n{command}\n")
    file.chmod(0o700)
    return str(file)


def scripted(folder: Path) -> str:
    module = "tests.helpers.judge_server"
    return program(folder, f'PYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"')


def wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def start(folder: Path, file: Path) -> subprocess.Popen:
    (folder / "model").mkdir()
    command = [sys.executable, "-m", "recipes.cli", "data", "judge-server"]
    command += ["--model", folder / "model", "--output", folder / "out", "--file", file]
    return subprocess.Popen([*command, "--vllm", scripted(folder)])


def is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.replace("/v1/chat/completions", "/health")) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("end", ["complete", "cancelled"])
def test_a_server_is_found_by_its_file_and_ends_with_the_curation(end: str, tmp_path: Path) -> None:
    file = tmp_path / "run/judge.json"
    process = start(tmp_path, file)
    found = wait_for_server(file, patience=60)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert found.model == str(tmp_path / "model")
    assert is_served(found.url)
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert found.key.encode() not in words

    if end == "complete":
        (tmp_path / "out").mkdir()
        (tmp_path / "out/manifest.json").write_text("{}")
    else:
        os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == (0 if end == "complete" else 128 + signal.SIGTERM)
    wait(lambda: not is_served(found.url))
    assert not file.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [("exit 3", "vLLM has ended with exit status 3"), ("", "vLLM has ended with exit status 0")],
)
def test_who_waits_for_a_server_that_fails_is_told(command: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "judge.json"
    with pytest.raises(UserError, match=says):
        serve("some/judge", tmp_path / "out", file, LOOPBACK, program(tmp_path, command))
    with pytest.raises(UserError, match=f"the judge's server has failed .{says}"):
        wait_for_server(file)


@pytest.mark.parametrize(
    ("host", "name", "says"),
    [
        (LOOPBACK, "nothing", "cannot be started .No such file"),
        ("192.0.2.1", "vllm", "--host 192.0.2.1: is no address of this machine"),
    ],
)
def test_what_cannot_be_started_is_named(host: str, name: str, says: str, tmp_path: Path) -> None:
    scripted(tmp_path)
    file = tmp_path / "judge.json"
    with pytest.raises(UserError, match=says):
        serve("some/judge", tmp_path / "out", file, host, str(tmp_path / name))
    assert json.loads(file.read_text())["key"] == ""


def test_a_server_that_nobody_asks_ends(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(server, "_IDLE_SECONDS", 0.0)
    (tmp_path / "model").mkdir()
    serve(str(tmp_path / "model"), tmp_path / "out", tmp_path / "f", LOOPBACK, scripted(tmp_path))
    assert not (tmp_path / "f").exists()


def test_a_complete_curation_gets_no_server(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    serve("some/judge", tmp_path, tmp_path / "judge.json", LOOPBACK, "no/program")
    assert not (tmp_path / "judge.json").exists()


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no judge's server has written it in 0 s"):
        wait_for_server(tmp_path / "judge.json", patience=0)


def test_a_file_of_a_former_server_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "judge.json"
    JudgeServer("", "m", "", "gone").write(file)
    new = JudgeServer("http://h/v1/chat/completions", "m", "key")
    new.write(file)
    assert wait_for_server(file) == new
