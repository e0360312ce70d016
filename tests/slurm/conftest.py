import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.launch import preloaded
from tests.helpers import local_cluster, ssh_server
from tests.helpers.preloaded import PRELOADED
from tests.helpers.slurm_site import Site


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


@pytest.fixture(scope="session")
def preloaded_environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Variables that lead a command to a process that has NeMo loaded."""
    log = tmp_path_factory.mktemp("preloaded") / "imports.log"
    with preloaded.server(PRELOADED, log) as environment:
        yield environment


@pytest.fixture
def site(cluster, preloaded_environment, tmp_path) -> Iterator[Site]:
    """A user of the cluster, whose jobs are cancelled at the end of a test."""
    site = Site(cluster, preloaded_environment, tmp_path)
    yield site
    site.clean_up()


@pytest.fixture
def plain_site(cluster, tmp_path) -> Iterator[Site]:
    """A user whose jobs need no NeMo."""
    site = Site(cluster, {}, tmp_path)
    yield site
    site.clean_up()
