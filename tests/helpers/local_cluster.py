"""A real Slurm cluster on one machine: controller, accounting with its database, and nodes.

It needs root and the packages of ``tests/slurm/install.sh``, writes nothing outside its folder, and
listens on loopback only, on ports that were free. Several clusters may run at once. Written against
Slurm 22.05.
"""

import getpass
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tests.helpers import guarded_process

PROGRAMS = [
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacct",
    "sshd",
]
ACCOUNT = "granite"
# seconds
PATIENCE = 60
Result = TypeVar("Result")

# cred_expire: a requeued job starts again that many seconds later (Slurm's default is 120), or up
# to 3 s after that.
# config_overrides: the nodes have the CPUs and memory of this file, not those of the machine.
# CR_Core: memory is no resource, and large, so that a job may request any.
# ReturnToService: a crashed node is seen as down 15 to 20 s later and returns with its slurmd, one
# that was set down stays down.
SLURM_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=600
InactiveLimit=0
ReturnToService=1
SlurmdTimeout=5
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=INFINITE
PartitionName=batch Default=YES PreemptMode=OFF
PartitionName=short MaxTime=00:10:00 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=3
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


def why_not() -> str | None:
    """Return in one sentence why no cluster can be started on this machine, None where it can."""
    if missing := [name for name in PROGRAMS if not program(name)]:
        return f"no Slurm here ({', '.join(missing)} missing): run tests/slurm/install.sh as root"
    if os.geteuid() != 0:
        return "the local Slurm cluster runs its daemons as root: run these tests as root"
    return None


class LocalCluster:
    """A running cluster, made by :func:`running`.

    Nodes are ``n1``, ``n2``...; partitions ``batch`` (the default), ``short`` (at most 10 minutes),
    and ``low``, whose jobs are requeued, 3 seconds after a SIGTERM, for the jobs of ``high``. The
    account is ``granite``.
    """

    def __init__(self, folder: Path, nodes: int, cpus: int, gpus: int) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen] = {}
        self._write_configuration(cpus, gpus)

    def run(self, *command: str | Path, check: bool = True) -> str:
        """Run a Slurm command against this cluster and return what it printed.

        Raises ``RuntimeError`` with its error output when it fails and ``check`` is set.
        """
        environment = os.environ | self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if check and done.returncode:
            text = " ".join(map(str, command))
            raise RuntimeError(f"{text}: exit status {done.returncode}: {done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell script's lines with options of ``sbatch``; return the job id.

        What the job prints goes to ``folder/JOBID.out``, all its runs in one file.
        """
        path = self.folder / "submitted.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        output = [f"--output={self.folder}/%j.out", "--open-mode=append", f"--chdir={self.folder}"]
        return self.run("sbatch", "--parsable", *output, *options, path).strip()

    def output(self, job: str) -> str:
        """Return what a job made by :meth:`submit` has printed so far."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        """Return a job's state by ``sacct``: ``COMPLETED``, ...; empty before it is recorded."""
        flags = ["--noheader", "--parsable2", "--allocations", "--format=State"]
        return self.run("sacct", *flags, "-j", job).strip()

    def wait_for(self, job: str, *states: str, seconds: float = PATIENCE) -> str:
        """Wait until a job is in one of the states and return that state.

        Raises:
            TimeoutError: after ``seconds``.
        """

        def reached() -> str | None:
            # "CANCELLED by 0" is a state too
            return next((state for state in states if self.state(job).startswith(state)), None)

        def problem() -> str:
            return f"job {job} is {self.state(job)!r}, not {' or '.join(states)}"

        return self._wait(reached, problem, seconds)

    def node_state(self, node: str) -> str:
        """Return a node's state by ``sinfo``: ``idle``, ``mixed``, ``down*`` (silent), ..."""
        flags = ["--noheader", "--partition=batch", "--format=%T"]
        return self.run("sinfo", *flags, f"--nodes={node}").strip()

    def wait_for_node(self, node: str, *states: str, seconds: float = PATIENCE) -> str:
        """Wait until a node is in one of the states and return that state.

        Raises:
            TimeoutError: after ``seconds``.
        """

        def reached() -> str | None:
            state = self.node_state(node)
            return state if state in states else None

        def problem() -> str:
            return f"{node} is {self.node_state(node)}, not {' or '.join(states)}"

        return self._wait(reached, problem, seconds)

    def kill_controller(self) -> None:
        """Stop slurmctld. It saves its state: a crash would lose the jobs of the last seconds."""
        self.run("scontrol", "shutdown", "slurmctld")
        self.wait_for_controller_end()

    def wait_for_controller_end(self) -> None:
        """Wait until slurmctld, which was shut down, has ended."""
        self._daemons.pop("slurmctld").wait(PATIENCE)

    def start_controller(self) -> None:
        """Start slurmctld, from its saved state if it has run before, and wait until it answers."""
        self._start("slurmctld", "-D")
        self._wait(
            lambda: "UP" in self.run("scontrol", "ping", check=False),
            lambda: "slurmctld does not answer",
        )

    def kill_node(self, node: str) -> None:
        """Crash a node: its slurmd and its jobs are gone, and the controller has to notice."""
        guarded_process.stop(self._daemons.pop(f"slurmd-{node}"))

    def start_node(self, node: str) -> None:
        """Start a node's slurmd and wait until the node is idle."""
        self._start(f"slurmd-{node}", "-D", "-N", node)
        self.wait_for_node(node, "idle")

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle."""
        self._start("munged", "--foreground", "--force", *self._munge_options())
        self._start_accounting(self._start_database())
        self.start_controller()
        for node in self.nodes:
            self._start(f"slurmd-{node}", "-D", "-N", node)
        for node in self.nodes:
            self.wait_for_node(node, "idle")

    def stop(self) -> None:
        """End every daemon and job at once."""
        guarded_process.stop(*self._daemons.values())

    def _start_database(self) -> Path:
        """Start the database of the accounting; return its socket."""
        socket_path = self.folder / "mariadb.socket"
        common = ["--no-defaults", "--user=root", f"--datadir={self.folder / 'database'}"]
        installed = self.run("mariadb-install-db", *common, "--skip-test-db")
        (self.folder / "mariadb-install-db.log").write_text(installed)

        # whoever can open the socket, inside this private folder, may do everything
        access = ["--skip-grant-tables", "--skip-networking", f"--socket={socket_path}"]
        fast = [
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
        ]
        # slurmdbd requires it
        patient = ["--innodb-lock-wait-timeout=900"]
        self._start("mariadbd", *common, *access, *fast, *patient)
        self._wait(socket_path.exists, lambda: "mariadbd opens no socket", daemon="mariadbd")
        return socket_path

    def _start_accounting(self, database: Path) -> None:
        self._start("slurmdbd", "-D", MYSQL_UNIX_PORT=str(database))
        add = ["sacctmgr", "-i", "add"]
        self._wait(
            lambda: self._ran(*add, "cluster", "local"),
            lambda: "slurmdbd does not answer",
            daemon="slurmdbd",
        )
        self.run(*add, "account", ACCOUNT)
        accounts = [f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}"]
        self.run(*add, "user", getpass.getuser(), *accounts)

    def _write_configuration(self, cpus: int, gpus: int) -> None:
        controller_port, accounting_port, *node_ports = free_ports(2 + len(self.nodes))
        host = socket.gethostname().partition(".")[0]
        values = {
            "folder": self.folder,
            "host": host,
            "controller_port": controller_port,
            "accounting_port": accounting_port,
        }
        each = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000000"
        lines = [
            f"NodeName={node} Port={port} {each}"
            for node, port in zip(self.nodes, node_ports, strict=True)
        ]
        if gpus:
            lines = ["GresTypes=gpu", *(f"{line} Gres=gpu:h100:{gpus}" for line in lines)]
            self._write_gpus(gpus)

        # the nodes come before the partitions that have them all
        nodes = "\n".join(lines)
        (self.folder / "slurm.conf").write_text(f"{nodes}\n{SLURM_CONF.format(**values)}")
        (self.folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        for name in ("slurmdbd.conf", "munge.key"):
            (self.folder / name).chmod(0o600)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()

    def _write_gpus(self, gpus: int) -> None:
        """Write ``gres.conf``: a GPU with a type needs a device file, which may be empty."""
        devices = [self.folder / f"gpu{number}" for number in range(gpus)]
        for device in devices:
            device.touch()
        lines = [f"Name=gpu Type=h100 File={path}\n" for path in devices]
        (self.folder / "gres.conf").write_text("".join(lines))

    def _munge_options(self) -> Iterator[str]:
        for option in ["socket", "key", "pid", "log", "seed"]:
            name = "socket" if option == "socket" else f"{option}-file"
            yield f"--{name}={self.folder}/munge.{option}"

    def _start(self, name: str, *options: str, **environment: str) -> None:
        command = [program(name.partition("-")[0]) or name, *options]
        self._daemons[name] = guarded_process.start(
            command, self._log(name), os.environ | self.environment | environment
        )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")[-2000:]

    def _ran(self, *command: str) -> bool:
        try:
            self.run(*command)
        except RuntimeError:
            return False
        return True

    def _wait(
        self,
        ready: Callable[[], Result | None],
        problem: Callable[[], str],
        seconds: float = PATIENCE,
        daemon: str = "slurmctld",
    ) -> Result:
        """Return the first true result of ``ready``, which ``daemon`` brings about.

        Raises:
            RuntimeError: a daemon has died, with the tail of its log.
            TimeoutError: after ``seconds``, with the tail of the log of ``daemon``.
        """
        end = time.monotonic() + seconds
        while not (result := ready()):
            for name, guard in self._daemons.items():
                if guard.poll() is not None:
                    raise RuntimeError(
                        f"{name} ended with exit status {guard.returncode}:\n{self._log_tail(name)}"
                    )
            if time.monotonic() > end:
                raise TimeoutError(
                    f"after {seconds:.0f} s {problem()}; {daemon} says:\n{self._log_tail(daemon)}"
                )
            time.sleep(0.1)
        return result


@contextmanager
def running(folder: Path, nodes: int = 2, cpus: int = 8, gpus: int = 0) -> Iterator[LocalCluster]:
    """Run a cluster.

    Args:
        folder: empty, private to the user and of a short path, since a socket's path has at most
            107 characters.
        nodes: number of nodes.
        cpus: of each node.
        gpus: of each node, of type ``h100``, in name only.
    """
    cluster = LocalCluster(folder, nodes, cpus, gpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def program(name: str) -> str | None:
    """Return the full path of a program, also of a daemon that is not on ``PATH``, or None."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{path}:/usr/sbin:/sbin")


def free_ports(count: int) -> Sequence[int]:
    """Return free loopback ports, below those of outgoing connections (32768...)."""
    free = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError("no free ports on 127.0.0.1 between 20000 and 32000")
