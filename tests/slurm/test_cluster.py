"""Cluster files: their values, and the sentence for each value that is refused."""

import getpass
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.common.json_files import parse_record
from slurm.cluster import CLUSTERS, Cluster, load_cluster, parse_time_limit

GOOD = """\
account: mine
folder: /shared/granite41
compute:
  partition: batch
  time_limit: "04:00:00"
  gpu_type: h100
  gpus_per_node: 8
  gres: gpu:8
cpu_partition:
  partition: cpu
  time_limit: "1-00:00:00"
container:
  image: /shared/nemo.sqsh
"""


def _load(folder: Path, text: str) -> Cluster:
    (folder / "c.yaml").write_text(text)
    return load_cluster(str(folder / "c.yaml"))


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_files_hold(path, monkeypatch) -> None:
    monkeypatch.setenv("USER", "somebody")
    cluster = load_cluster(path.stem)
    assert cluster == load_cluster(str(path))
    assert parse_record(Cluster, asdict(cluster), str(path), "") == cluster


@pytest.mark.parametrize("name", ["h100", "gb200_nvl72"])
def test_the_projects_own_files_need_no_user_variable(name, monkeypatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    user = getpass.getuser()
    assert load_cluster(name).folder == f"/lustre/{user}/granite41"


def test_the_old_name_of_the_cpu_partition_is_read(tmp_path) -> None:
    former = _load(tmp_path, GOOD.replace("cpu_partition:", "light:"))
    assert former == _load(tmp_path, GOOD)
    assert former.cpu_partition.partition == "cpu"


def test_a_file_reads_the_environment_and_has_defaults(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROJECT", "p123")
    cluster = _load(tmp_path, GOOD.replace("mine", "${oc.env:PROJECT}"))
    assert (cluster.account, cluster.compute.gpus_per_node, cluster.login, cluster.retries) == (
        "p123",
        8,
        None,
        3,
    )


def test_times_are_slurms() -> None:
    assert (parse_time_limit("04:00:00"), parse_time_limit("1-00:00:30")) == (14400, 86430)
    with pytest.raises(ValueError, match="is no time"):
        # ten seconds to Slurm, ten minutes to most people
        parse_time_limit("00:10")
