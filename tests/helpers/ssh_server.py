"""An ssh server on loopback for the current user, with keys of its own: a cluster's login node."""

import getpass
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import guarded_process
from tests.helpers.local_cluster import PATIENCE, free_ports, program

# UsePAM no: containers lack what PAM's session modules need.
# StrictModes no: the folder may be below /tmp.
SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
AllowUsers {user}
UsePAM no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class SshServer:
    """Where a client finds a running server, and how it gets in."""

    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path

    def run(self, command: str) -> str:
        """Run a shell command over ssh and return what it printed.

        Raises:
            CalledProcessError: it fails.
        """
        known_hosts = f"UserKnownHostsFile={self.known_hosts}"
        options = ["-F", "none", "-o", "BatchMode=yes", "-o", known_hosts]
        login = ["-i", str(self.identity), "-p", str(self.port), f"{self.user}@{self.host}"]
        ssh = ["ssh", *options, *login, command]
        return subprocess.run(ssh, check=True, capture_output=True, text=True).stdout


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[SshServer]:
    """Run an ssh server with its files in ``folder``.

    It needs root and OpenSSH's ``sshd``, whose empty directory ``/run/sshd`` is created.

    Args:
        folder: an empty folder.
        environment: of commands that are run over ssh; its values have no quotes.
    """
    for key in ("host_key", "user_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(keygen, check=True)
    server = SshServer(
        "127.0.0.1",
        free_ports(1)[0],
        getpass.getuser(),
        folder / "user_key",
        folder / "known_hosts",
    )
    host_key = (folder / "host_key.pub").read_text()
    server.known_hosts.write_text(f"[{server.host}]:{server.port} {host_key}")
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    config = SSHD_CONFIG.format(port=server.port, folder=folder, user=server.user)
    config_file = folder / "sshd_config"
    config_file.write_text(f"{config}SetEnv {variables}\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    log = folder / "sshd.log"
    command = [program("sshd") or "sshd", "-D", "-e", "-f", config_file]
    sshd = guarded_process.start(command, log)
    try:
        end = time.monotonic() + PATIENCE
        while not _listens(server):
            if sshd.poll() is not None or time.monotonic() > end:
                tail = log.read_text()[-2000:]
                raise RuntimeError(f"sshd does not listen on port {server.port}:\n{tail}")
            time.sleep(0.05)
        yield server
    finally:
        guarded_process.stop(sshd)


def _listens(server: SshServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) == 0
