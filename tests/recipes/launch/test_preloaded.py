"""Commands in forks: the same output and exit status, signals, and nobody left behind."""

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
# a launcher whose forks load a module of the test, for as long as its stdin is open
LAUNCHER = """
import json, sys
from pathlib import Path
from recipes.launch import preloaded
if __name__ == "__main__":
    with preloaded.server(["command_of_the_test"], Path(sys.argv[1])) as address:
        print(json.dumps(address), flush=True)
        sys.stdin.read()
"""
REPLACED = "from recipes.launch import preloaded\npreloaded._run_command = run\n"
SLEEP = f"""
import os, time
def run():
    print(os.getpid(), flush=True)
    time.sleep(60)
{REPLACED}
"""
MANAGER = f"""
import multiprocessing
def run():
    global kept
    kept = multiprocessing.Manager()
    print(kept._process.pid, flush=True)
{REPLACED}
"""
SHOW = f"""
import os, sys
def run():
    print(os.getcwd(), os.environ.get("HERE"), sys.argv, os.environ.get("GRANITE41_PRELOADED"))
{REPLACED}
"""


class Server:
    def __init__(self, command: str, folder: Path) -> None:
        (folder / "command_of_the_test.py").write_text(command)
        (folder / "launcher.py").write_text(LAUNCHER)
        path = os.pathsep.join([str(folder), str(Path.cwd())])
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "launcher.py"), str(folder / "imports.log")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
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
def server(tmp_path):
    started = []

    def start(command: str = "") -> Server:
        started.append(Server(command, tmp_path))
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
    preloaded = server()
    for words in (
        ["show", "phase1", "--size", "tiny", "--json"],
        ["show", "phase11", "--size", "tiny"],
        ["run"],
    ):
        alone = subprocess.run([*CLIENT, *words], capture_output=True, text=True)
        forked = preloaded.start(*words)
        assert (*forked.communicate(), forked.returncode) == (
            alone.stdout,
            alone.stderr,
            alone.returncode,
        ), words


def test_folder_environment_and_name_are_the_clients(server, tmp_path) -> None:
    preloaded = server(SHOW)
    preloaded.environment |= {"HERE": "there", "PYTHONPATH": str(Path.cwd())}
    printed = preloaded.start("a", "b c", cwd=tmp_path).communicate()[0]
    assert printed.strip() == f"{tmp_path} there ['granite41', 'a', 'b c'] None"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(server, signum) -> None:
    client = server(SLEEP).start()
    pid = int(client.stdout.readline())
    client.send_signal(signum)
    # SIGINT is Python's KeyboardInterrupt
    assert client.wait(timeout=10) == (143 if signum == signal.SIGTERM else 1)
    assert _gone(pid)


def test_a_killed_command_ends_as_killed(server) -> None:
    client = server(SLEEP).start()
    os.kill(int(client.stdout.readline()), signal.SIGKILL)
    assert client.wait(timeout=10) == 137


def test_nothing_outlives_its_client_or_the_server(server) -> None:
    preloaded = server(SLEEP)
    first, second = preloaded.start(), preloaded.start()
    pids = [int(client.stdout.readline()) for client in (first, second)]
    first.kill()
    assert _gone(pids[0])
    assert _alive(pids[1])
    preloaded.process.stdin.close()
    assert second.wait(timeout=10) == 137
    assert _gone(pids[1])
    assert preloaded.process.wait(timeout=10) == 0


def test_child_processes_of_a_command_ends_with_it(server) -> None:
    # whoever reads its output would wait for the manager otherwise, as Slurm does
    pid = server(MANAGER).start().communicate(timeout=20)[0]
    assert _gone(int(pid))
