"""Commands on a cluster's login node: in a process of this machine, or through ssh."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import PurePosixPath

from recipes.common.errors import UserError
from slurm.cluster import Cluster

# ssh's own exit status for what is wrong with the connection
_SSH_FAILED = 255


class Shell:
    """Runs commands where the cluster's Slurm is."""

    def __init__(self, cluster: Cluster) -> None:
        self.login = cluster.login
        self._prefix: list[str] = []
        if self.login:
            self._prefix = [
                "ssh",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=10",
                "-p",
                str(self.login.port),
            ]
            if self.login.identity:
                self._prefix += ["-i", self.login.identity]
            if self.login.user:
                self._prefix += ["-l", self.login.user]
            self._prefix += [self.login.host]

    def run(
        self, words: Sequence[str | PurePosixPath], content: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command with ``content`` as its input; return what it printed and its exit status.

        Raises:
            UserError: the login node does not answer or refuses, or there is no such program.
        """
        command = self.ssh_command(words)
        try:
            done = subprocess.run(command, capture_output=True, input=content or b"")
        except FileNotFoundError as error:
            where = (
                "ssh is not installed here"
                if self.login
                else f"{command[0]}: no such program on this machine"
            )
            raise UserError(
                f"{where}; name the cluster's login node as login.host in its file"
            ) from error
        if self.login and done.returncode == _SSH_FAILED:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no answer"])[
                -1
            ]
            raise UserError(
                f"{self.login.host}: {reason}; `ssh {shlex.join(self._prefix[1:])}` must work without a password"
            )
        return done

    def ssh_command(self, words: Sequence[str | PurePosixPath]) -> list[str]:
        """Return the words that run a command there, for a process of this machine."""
        command = [str(word) for word in words]
        return [*self._prefix, shlex.join(command)] if self.login else command

    def script(self, text: str, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run the lines of a POSIX shell script, none of which may hold what a user wrote without quotes."""
        return self.run(["sh", "-c", text], content)

    def text(self, words: Sequence[str | PurePosixPath]) -> str:
        """Return what a command prints.

        Raises:
            UserError: it fails, with its last line; and as :meth:`run`.
        """
        done = self.run(words)
        if done.returncode:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[
                -1
            ]
            raise UserError(f"`{shlex.join(map(str, words))}` failed on the cluster: {reason}")
        return done.stdout.decode(errors="replace")
