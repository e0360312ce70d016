import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import local_cluster, ssh_server


@contextmanager
def _short_folder() -> Iterator[Path]:
    # pytest's own temporary folders are too long for the path of a socket
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[local_cluster.LocalCluster]:
    """A Slurm cluster of two nodes with two GPUs each (in name only), for every Slurm command."""
    if reason := local_cluster.why_not():
        pytest.skip(reason)
    with (
        _short_folder() as folder,
        local_cluster.running(folder, gpus=2) as running,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def ssh(cluster: local_cluster.LocalCluster) -> Iterator[ssh_server.SshServer]:
    """The cluster's login node."""
    with _short_folder() as folder, ssh_server.running(folder, cluster.environment) as server:
        yield server
