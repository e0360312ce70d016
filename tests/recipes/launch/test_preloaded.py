"""Commands through a process that forks for each: the same output and exit status, signals, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CLIENT = [sys.executable, "-m", "recipes.cli"]
# a server whose command is its first argument, for as long as its stdin is open
SERVER = """
import json, sys, time
from recipes import warm
exec(sys.argv[1])
with preloaded.server(["colorsys"]) as address:
    print(json.dumps(address), flush=True)
    sys.stdin.read()
"""
SLEEP = """
import os
def sleep():
    print(os.getpid(), flush=True)
    time.sleep(60)
warm._command = sleep
"""
MANAGER = """
import recipes.cli.main
def keep_a_manager():
    import multiprocessing
    recipes.cli.main.kept = multiprocessing.Manager()
    print(recipes.cli.main.kept._process.pid, flush=True)
recipes.cli.main = keep_a_manager
"""


class Server:
    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.environment = {**os.environ, **json.loads(self.process.stdout.readline())}

    def start(self, *words: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [*CLIENT, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture
def server():
    started = []

    def start(command: str = "pass") -> Server:
        started.append(Server(command))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def _alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def _gone(pid: int) -> bool:
    for _ in range(100):
        if not _alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_command_prints_and_ends_as_by_itself(server) -> None:
    warm = server()
    for words in (
        ["show", "phase1", "--size", "tiny", "--json"],
        ["show", "phase11", "--size", "tiny"],
        ["run"],
    ):
        alone = subprocess.run([*CLIENT, *words], capture_output=True, text=True)
        forked = warm.start(*words)
        assert (*forked.communicate(), forked.returncode) == (
            alone.stdout,
            alone.stderr,
            alone.returncode,
        ), words


def test_folder_environment_and_name_are_the_clients(server, tmp_path) -> None:
    show = "import os\nwarm._command = lambda: print(os.getcwd(), os.environ.get('HERE'), sys.argv, address_of())\n"
    warm = server(f"{show}address_of = lambda: os.environ.get(preloaded.ADDRESS)")
    warm.environment |= {"HERE": "there", "PYTHONPATH": str(Path.cwd())}
    printed = warm.start("a", "b c", cwd=tmp_path).communicate()[0]
    assert printed.strip() == f"{tmp_path} there ['granite41', 'a', 'b c'] None"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(server, signum) -> None:
    client = server(SLEEP).start()
    pid = int(client.stdout.readline())
    client.send_signal(signum)
    # SIGINT is Python's KeyboardInterrupt
    assert client.wait(timeout=10) == (143 if signum == signal.SIGTERM else 1)
    assert _gone(pid)


def test_a_killed_command_is_told(server) -> None:
    client = server(SLEEP).start()
    os.kill(int(client.stdout.readline()), signal.SIGKILL)
    assert client.wait(timeout=10) == 137


def test_nothing_outlives_its_client_or_the_server(server) -> None:
    warm = server(SLEEP)
    first, second = warm.start(), warm.start()
    pids = [int(client.stdout.readline()) for client in (first, second)]
    first.kill()
    assert _gone(pids[0])
    assert _alive(pids[1])
    warm.process.stdin.close()
    assert second.wait(timeout=10) == 137
    assert _gone(pids[1])
    assert warm.process.wait(timeout=10) == 0


def test_what_a_command_started_ends_with_it(server) -> None:
    # whoever reads its output would wait for the manager otherwise, as Slurm does
    pid = server(MANAGER).start().communicate(timeout=20)[0]
    assert _gone(int(pid))
