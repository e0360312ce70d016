"""Keeps a rollout server running: starts it, says where it answers, starts it again."""

import logging
import os
import secrets
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from recipes.alignment.rollout.completions import POLICY
from recipes.alignment.rollout.folder import RolloutFolder, ServerRecord
from recipes.common.errors import UserError

log = logging.getLogger(__name__)

EXTENSION = Path(__file__).with_name("vllm_extension")
# starts in a row that never answer, before the last
TRIES = 3
_SECONDS_TO_END = 30
_LOG_LINES = 200

# (host, port) -> the words of a command
Command = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Watch:
    """How long a server may take.

    Attributes:
        start: seconds until it answers for the first time.
        health: seconds in which it answers that it is well.
        interval: seconds between two such questions.
    """

    start: float = 1800.0
    health: float = 60.0
    interval: float = 5.0


def vllm_command(
    python: str, model: Path, positions: int, tensor_parallel: int, more: Sequence[str]
) -> Command:
    """Return the command of a vLLM server, to which the trainer sends the policy's weights.

    Args:
        python: of vLLM's environment.
        model: Hugging Face folder with the policy's config and tokenizer, and any weights: over
            those of ``--load-format dummy`` vLLM loads no others.
        positions: tokens of a prompt and its answer.
        tensor_parallel: GPUs that share the model.
        more: options of ``vllm serve``, after which none of these follow.
    """
    options = {
        "--served-model-name": POLICY,
        "--max-model-len": positions,
        "--tensor-parallel-size": tensor_parallel,
        # of the distribution that the tokens are drawn from, at the temperature
        "--logprobs-mode": "processed_logprobs",
        # not the sampling that a model's folder may ask for
        "--generation-config": "vllm",
        "--worker-extension-cls": "granite41_vllm.Worker",
        "--middleware": "granite41_vllm.RequireKey",
    }
    words = [python, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    for name, value in options.items():
        words += [name, str(value)]
    return lambda host, port: [*words, *more, "--host", host, "--port", str(port)]


def server_environment(key: str) -> dict[str, str]:
    """Return the environment of a vLLM server: this process's, the key and what a refresh needs."""
    return {
        **os.environ,
        "VLLM_API_KEY": key,
        # the endpoints by which weights are loaded
        "VLLM_SERVER_DEV_MODE": "1",
        "PYTHONPATH": str(EXTENSION),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def inner_address() -> str:
    """Return this node's address as the other nodes of a job know it.

    Raises:
        UserError: its name has no address.
    """
    names = [name for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()) if name]
    for name in names:
        # Slurm's name of a node may be known to Slurm alone
        with suppress(OSError):
            return socket.gethostbyname(name)
    raise UserError(
        f"{' and '.join(names)}: no address is known of this node's name; name the address that "
        f"the trainer's node reaches with --host"
    )


class Supervisor:
    """Runs one server, in a session of its own, until the trainer is done or it is terminated."""

    def __init__(
        self,
        folder: RolloutFolder,
        number: int,
        command: Command,
        host: str,
        is_over: Callable[[], bool] = lambda: False,
        watch: Watch | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: by which the trainer finds the server.
            number: of the server among those of the trainer, from 0.
            command: of its process.
            host: address of this node at which it listens, and no other.
            is_over: whether the trainer needs no server any more.
            watch: how long it may take.

        Raises:
            UserError: ``host`` stands for all addresses, or is none of this node's.
        """
        if host in ("0.0.0.0", "::", ""):  # noqa: S104
            raise UserError(
                f"--host {host!r}: the server would listen at every address of its node; name the "
                f"one that the trainer's node reaches"
            )
        _free_port(host)
        self._folder = folder
        self._number = number
        self._command = command
        self._host = host
        self._is_over = is_over
        self._watch = watch or Watch()
        self._process: subprocess.Popen | None = None

    def run(self, environment: Mapping[str, str]) -> None:
        """Run the server, and start it again whenever it ends, hangs or is given up.

        Args:
            environment: of its process.

        Raises:
            UserError: it has not answered in several starts.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
        failures = 0
        try:
            while failures < TRIES:
                reason, has_answered = self._run_once(environment)
                self._end()
                if reason is None:
                    log.info("rollout server %d: the trainer has finished", self._number)
                    return
                failures = 0 if has_answered else failures + 1
                log.warning("rollout server %d %s; it is started again", self._number, reason)
            raise UserError(
                f"rollout server {self._number}: {reason}, and has not answered in {TRIES} starts; "
                f"its last line is {self._last_line()!r}, see {self._folder.log(self._number)}"
            )
        finally:
            self._end()

    def _run_once(self, environment: Mapping[str, str]) -> tuple[str | None, bool]:
        """Start the server and watch it; return what is wrong with it, and whether it has answered.

        Nothing is wrong where it is not needed any more.
        """
        port = _free_port(self._host)
        url = f"http://{self._host}:{port}"
        record = ServerRecord(url, secrets.token_hex(8))
        with self._folder.log(self._number).open("ab") as stream:
            self._process = subprocess.Popen(
                self._command(self._host, port),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        has_answered = False
        deadline = time.monotonic() + self._watch.start
        while True:
            status = self._process.poll()
            if status is not None:
                return f"ended with status {status}", has_answered
            is_well = _is_well(url, self._watch.health)
            if is_well and not has_answered:
                has_answered = True
                self._folder.write_record(self._number, record)
                log.info("rollout server %d answers at %s", self._number, url)
            if has_answered and not is_well:
                return f"has not answered for {self._watch.health:.0f} s", True
            if not has_answered and time.monotonic() > deadline:
                return f"has not answered for {self._watch.start:.0f} s", False
            if self._folder.is_given_up(self._number, record.start):
                return "was given up by the trainer", True
            if self._is_over():
                return None, True
            time.sleep(self._watch.interval)

    def _end(self) -> None:
        """End the server with all of its processes."""
        self._folder.remove_record(self._number)
        process = self._process
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(_SECONDS_TO_END)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def _last_line(self) -> str:
        file = self._folder.log(self._number)
        with file.open(encoding="utf-8", errors="replace") as stream:
            lines = [line.strip() for line in deque(stream, _LOG_LINES) if line.strip()]
        return lines[-1][:200] if lines else ""


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _free_port(host: str) -> int:
    try:
        with socket.socket() as free:
            free.bind((host, 0))
            return free.getsockname()[1]
    except OSError as error:
        raise UserError(
            f"--host {host}: is no address of this node ({error}); name one of its own"
        ) from error


def _is_well(url: str, seconds: float) -> bool:
    """Whether the server answers that it is well; connections that are refused are no answer."""
    import requests

    try:
        # past any proxy
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"{url}/health", timeout=seconds).ok
    except (OSError, ValueError):
        return False
