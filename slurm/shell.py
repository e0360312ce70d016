"""Commands on a cluster's login node: in a process of this machine, or through ssh."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from recipes.common.errors import UserError
from slurm.cluster import Cluster, Login

# ssh's own exit status for what is wrong with the connection
_SSH_FAILED = 255
# set in a job or an allocation, or to change what Slurm's commands do
_SLURM_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SINFO_")
# seconds between attempts while the controller is away
_CANCEL_DELAYS = (1, 2, 5, 10, 20, 30)


def last_line(output: str | bytes, otherwise: str = "no message") -> str:
    """Return the last line of what a program printed, where the reason of a failure is."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    lines = text.strip().splitlines() or [otherwise]
    return lines[-1].strip()


@contextmanager
def outside_allocation() -> Iterator[None]:
    """Hide Slurm's variables from commands, which would take them for options of new jobs."""
    hidden = {}
    for name in list(os.environ):
        if name.startswith(_SLURM_VARIABLES) and name != "SLURM_CONF":
            hidden[name] = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ.update(hidden)


class Shell:
    """Runs commands where the cluster's Slurm is."""

    def __init__(self, cluster: Cluster) -> None:
        self.login = cluster.login
        self._prefix = _ssh_prefix(cluster.login) if cluster.login else []

    def run(
        self,
        words: Sequence[str | PurePosixPath],
        content: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command with ``content`` as its input; return its output and exit status.

        Raises:
            UserError: the login node does not answer or refuses, or there is no such program.
        """
        command = self.local_command(words)
        try:
            with outside_allocation():
                done = subprocess.run(command, capture_output=True, input=content)
        except FileNotFoundError as error:
            missing = f"{command[0]}: no such program on this machine"
            if self.login:
                missing = "ssh is not installed here"
            raise UserError(
                f"{missing}; name the cluster's login node as login.host in its file"
            ) from error

        if self.login and done.returncode == _SSH_FAILED:
            options = shlex.join(self._prefix[1:])
            raise UserError(
                f"{self.login.host}: {last_line(done.stderr, 'no answer')}; "
                f"`ssh {options}` must work without a password"
            )
        return done

    def local_command(self, words: Sequence[str | PurePosixPath]) -> list[str]:
        """Return the words of a process on this machine that runs a command on the login node."""
        command = [str(word) for word in words]
        return [*self._prefix, shlex.join(command)] if self.login else command

    def script(self, text: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the lines of a POSIX shell script; what a user wrote must be quoted in it."""
        return self.run(["sh", "-c", text], content)

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs, also of a controller that is away for a minute.

        Raises:
            UserError: it does not answer; the sentence names the jobs that are left.
        """
        for delay in (*_CANCEL_DELAYS, 0):
            done = self.run(["scancel", *ids])
            if done.returncode == 0:
                return
            time.sleep(delay)
        raise UserError(
            f"the jobs {' '.join(ids)} could not be cancelled ({last_line(done.stderr)}); "
            f"`scancel {' '.join(ids)}` when Slurm's controller answers again"
        )

    def text(self, words: Sequence[str | PurePosixPath]) -> str:
        """Return what a command prints.

        Raises:
            UserError: it fails, with its last line; and as :meth:`run`.
        """
        done = self.run(words)
        if done.returncode:
            command = shlex.join(map(str, words))
            raise UserError(f"`{command}` failed on the cluster: {last_line(done.stderr)}")
        return done.stdout.decode(errors="replace")


def _ssh_prefix(login: Login) -> list[str]:
    """Return the words of ssh before the command that it runs."""
    prefix = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", str(login.port)]
    if login.identity:
        prefix += ["-i", login.identity]
    if login.user:
        prefix += ["-l", login.user]
    return [*prefix, login.host]
