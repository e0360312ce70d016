"""A judge's server as a job of its own: vLLM on an inner address, found through a file."""

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.json_files import read_record
from recipes.runs.curated_folder import ANSWERS, MANIFEST

log = logging.getLogger(__name__)

# vLLM's own variable: a key among its arguments would be in its log and in the list of processes
_KEY = "VLLM_API_KEY"
_POLL_SECONDS = 2.0
# assumed: the largest judges take half an hour to load, and jobs may wait for a node as long
_PATIENCE_SECONDS = 3600.0
_IDLE_SECONDS = 3600.0
_END_SECONDS = 30.0


@dataclass(frozen=True)
class JudgeServer:
    """How a server is reached.

    Attributes:
        url: of its chat completions; empty where it has failed.
        model: the judge's name.
        key: that requests carry.
        failure: why there is none.
    """

    url: str
    model: str
    key: str
    failure: str = ""

    def write(self, file: Path) -> None:
        """Write the file for its owner alone, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)
        partial.replace(file)


def wait_for_server(file: Path, patience: float = _PATIENCE_SECONDS) -> JudgeServer:
    """Return what a server's file holds, once there is one.

    Raises:
        UserError: there is none in ``patience`` seconds; the server has failed; the file is
            damaged.
    """
    end = time.monotonic() + patience
    while not file.exists():
        if time.monotonic() > end:
            raise UserError(
                f"{file}: no judge's server has written it in {patience:.0f} s; look at the log of "
                f"its job, and give the command again"
            )
        time.sleep(min(_POLL_SECONDS, patience))
    server = read_record(JudgeServer, file, "give the command of the curation again")
    if server.failure:
        raise UserError(
            f"{file}: the judge's server has failed ({server.failure}); look at the log of its "
            f"job, and give the command again"
        )
    return server


def serve(model: str, output: Path, file: Path, host: str, program: str) -> None:
    """Serve a model by ``vllm serve`` until a curation is complete.

    It ends too when no answer has arrived for an hour.

    Args:
        model: a folder, or a name of the Hub.
        output: of the curation.
        file: receives address and key, once the server answers.
        host: inner address of this node.
        program: the executable ``vllm``.

    Raises:
        UserError: vLLM cannot be started, or ends.
    """
    if (output / MANIFEST).exists():
        log.info("%s: is complete, no server is needed", output)
        return
    file.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    try:
        port = _free_port(host)
        words = [program, "serve", model, "--host", host, "--port", str(port)]
        words += ["--served-model-name", model]
        words += ["--tensor-parallel-size", str(_gpus())]
        with _running(words, os.environ | {_KEY: key}) as process:
            _wait_until_ready(process, f"http://{host}:{port}/health")
            url = f"http://{host}:{port}/v1/chat/completions"
            with _announced(JudgeServer(url, model, key), file):
                _wait_until_complete(process, output)
    except UserError as error:
        JudgeServer("", model, "", str(error)).write(file)
        raise


@contextmanager
def _announced(server: JudgeServer, file: Path) -> Iterator[None]:
    """Keep a file by which the server is found while it runs."""
    server.write(file)
    log.info("%s is served at %s", server.model, server.url)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _gpus() -> int:
    """Return the GPUs that Slurm gives the job; one where it does not say."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return devices.count(",") + 1


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as probe:
            port: int = probe.getsockname()[1]
    except OSError as error:
        raise UserError(
            f"--host {host}: is no address of this machine ({error.strerror}); name one"
        ) from error
    return port


@contextmanager
def _running(words: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; end it by SIGTERM, also when this process gets one."""
    try:
        process = subprocess.Popen(words, env=environment)
    except OSError as error:
        raise UserError(
            f"{words[0]}: cannot be started ({error.strerror}); name the program by --vllm"
        ) from error
    former = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, former)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not _answers(url):
        _require_running(process)
        if time.monotonic() > end:
            raise UserError(f"{url}: vLLM does not answer; look at what it has printed")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        # the address is this process's own
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def _wait_until_complete(process: subprocess.Popen[bytes], output: Path) -> None:
    last = time.time()
    while not (output / MANIFEST).exists():
        _require_running(process)
        last = max([last, *_times_of_answers(output / ANSWERS)])
        if time.time() - last > _IDLE_SECONDS:
            log.warning("no answer has arrived for %.0f s; the server ends", _IDLE_SECONDS)
            return
        time.sleep(_POLL_SECONDS)


def _times_of_answers(folder: Path) -> Iterator[float]:
    for path in folder.glob("*/*"):
        try:
            yield path.stat().st_mtime
        except FileNotFoundError:
            # a cache that was closed
            continue


def _require_running(process: subprocess.Popen[bytes]) -> None:
    status = process.poll()
    if status is not None:
        raise UserError(f"vLLM has ended with exit status {status}; look at what it has printed")
