"""The process that keeps a server running: its command, and servers that do not start."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recipes.alignment.rollout.folder import RolloutFolder, ServerRecord
from recipes.alignment.rollout.supervisor import (
    EXTENSION,
    Supervisor,
    Watch,
    inner_address,
    server_environment,
    vllm_command,
)
from recipes.common.errors import UserError

pytestmark = pytest.mark.fast

HOST = "127.0.0.1"
# answers that it is well, and has a child that would outlive it
SERVER = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def supervisor(folder: Path, script: str, **changed: Any) -> Supervisor:
    fields: dict[str, Any] = {
        "folder": RolloutFolder(folder),
        "number": 3,
        "command": lambda host, port: [sys.executable, "-c", script, host, str(port)],
        "host": HOST,
        "watch": Watch(start=60, interval=0.02),
    }
    return Supervisor(**(fields | changed))


def test_a_server_that_never_answers_is_named_with_its_last_line(tmp_path: Path) -> None:
    script = "print('out of memory'); print(); raise SystemExit(7)"
    with pytest.raises(
        UserError, match=r"ended with status 7, .* in 3 starts; its last line is 'o"
    ):
        supervisor(tmp_path, script).run(os.environ)
    assert RolloutFolder(tmp_path).log(3).read_text().count("out of memory") == 3


def test_a_server_that_starts_for_ever_is_ended(tmp_path: Path) -> None:
    watch = Watch(start=0.1, interval=0.02)
    with pytest.raises(UserError, match="has not answered for 0 s, and has not answered in 3 st"):
        supervisor(tmp_path, "import time; time.sleep(600)", watch=watch).run(os.environ)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_all_addresses_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UserError, match="listen at every address"):
        supervisor(tmp_path, "", host=host)


def test_an_address_of_another_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no address of this node"):
        supervisor(tmp_path, "", host="192.0.2.1")


def test_a_node_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node-7.invalid")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert inner_address() == HOST
    monkeypatch.setattr(socket, "gethostname", lambda: "host-7.invalid")
    with pytest.raises(UserError, match=r"node-7.invalid and host-7.invalid: no address is known"):
        inner_address()
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    assert inner_address() == HOST


def _record(folder: RolloutFolder, other: str | None = None) -> ServerRecord:
    while True:
        record = folder.record(3)
        if record and record.start != other:
            return record
        time.sleep(0.01)


def test_it_is_started_again_and_ended_with_its_children(tmp_path: Path) -> None:
    folder = RolloutFolder(tmp_path)
    process = multiprocessing.get_context("fork").Process(
        target=supervisor(tmp_path, SERVER).run, args=(os.environ,)
    )
    process.start()
    first = _record(folder)
    folder.give_up(3, first.start)
    second = _record(folder, other=first.start)
    # what was given up is the former start
    assert not folder.is_given_up(3, second.start)
    children = folder.log(3).read_text().split()[1::2]
    assert len(children) == 2
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert folder.record(3) is None
    for child in children:
        _wait_for_the_end(child)


def test_it_ends_once_the_trainer_needs_it_no_more(tmp_path: Path) -> None:
    folder = RolloutFolder(tmp_path)
    supervisor(tmp_path, SERVER, is_over=lambda: folder.record(3) is not None).run(os.environ)
    assert folder.record(3) is None
    _wait_for_the_end(folder.log(3).read_text().split()[1])


def _wait_for_the_end(process: str) -> None:
    """Wait for a process that was killed; one that was not runs beyond the test's time."""
    while _is_running(process):
        time.sleep(0.01)


def _is_running(process: str) -> bool:
    try:
        # a process that nobody has waited for is a zombie
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_the_command_of_a_server() -> None:
    make = vllm_command("/env/bin/python", Path("/run/sft/hf"), 8192, 2, ["--dtype", "bfloat16"])
    assert " ".join(make("10.0.0.7", 20123)) == (
        "/env/bin/python -m vllm.entrypoints.cli.main serve /run/sft/hf "
        "--served-model-name policy --max-model-len 8192 "
        "--tensor-parallel-size 2 --logprobs-mode processed_logprobs --generation-config vllm "
        "--worker-extension-cls granite41_vllm.Worker --middleware granite41_vllm.RequireKey "
        "--dtype bfloat16 --host 10.0.0.7 --port 20123"
    )


def test_the_key_is_in_the_environment() -> None:
    environment = server_environment("secret")
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert environment["PYTHONPATH"] == str(EXTENSION)


def test_keys(tmp_path: Path) -> None:
    folder = RolloutFolder(tmp_path / "rollout")
    key = folder.key()
    assert folder.key() == key
    assert [file.name for file in folder.path.iterdir()] == ["key"]
    (folder.path / "key").write_text("short")
    with pytest.raises(UserError, match="holds no key"):
        folder.key()
