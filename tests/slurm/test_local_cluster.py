"""The cluster of ``local_cluster`` is a real one: what the other tests here rely on."""

import pytest

from tests.helpers.local_cluster import LocalCluster
from tests.helpers.ssh_server import SshServer

pytestmark = pytest.mark.slurm


def test_both_nodes_answer(cluster: LocalCluster) -> None:
    assert [cluster.node_state(node) for node in cluster.nodes] == ["idle", "idle"]
    names = cluster.run(
        "srun", "-N2", "--gpus-per-node=2", "--mem=0", "printenv", "SLURMD_NODENAME"
    )
    assert sorted(names.split()) == ["n1", "n2"]


def test_the_login_node_has_the_cluster(cluster: LocalCluster, ssh: SshServer) -> None:
    assert ssh.run("sinfo --noheader --partition=batch --format=%N") == "n[1-2]\n"
