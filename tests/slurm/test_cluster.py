"""Cluster files: their values, and the sentence for each value that is refused."""

import getpass
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.common.errors import UserError
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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("account:", "acount:", r"unknown key acount \(did you mean 'account'\?\)"),
        ("  gpu_type:", "  gputype:", r"unknown key compute.gputype \(did you mean 'gpu_type'\?\)"),
        ("account: mine\n", "", "account is missing"),
        ("  partition: batch\n", "", "compute.partition is missing"),
        (
            "gpus_per_node: 8",
            "gpus_per_node: many",
            "compute.gpus_per_node: Value 'many' of type 'str'",
        ),
        (
            "gpus_per_node: 8",
            "gpus_per_node: 0",
            "compute.gpus_per_node is 0, expected a positive number",
        ),
        ("h100", "h10", r"compute.gpu_type is 'h10' \(did you mean 'h100'\?\)"),
        ('"04:00:00"', "4:00:00", "compute.time_limit is '14400', expected a time in quotes"),
        ('"04:00:00"', '"04:00"', "compute.time_limit is '04:00', expected a time in quotes"),
        (
            '"04:00:00"',
            '"00:10:00"',
            "stop_before_limit is 600 s, but compute.time_limit 00:10:00 is no longer",
        ),
        ("batch", "a b", "compute.partition is 'a b', expected a name"),
        ("batch", '"a;reboot"', "compute.partition is 'a;reboot', expected a name"),
        ("mine", '"$(reboot)"', r"account is '\$\(reboot\)', expected a name"),
        ("/shared/granite41", "granite41", "folder is 'granite41', expected an absolute path"),
        (
            "/shared/granite41",
            "${oc.env:NOT_SET}",
            "folder: .*Environment variable 'NOT_SET' not found",
        ),
        (
            "cpu_partition:",
            "environment: {HF_TOKEN: abc}\ncpu_partition:",
            "environment.HF_TOKEN looks like a secret",
        ),
        (
            "cpu_partition:",
            "environment: {a-b: c}\ncpu_partition:",
            "environment is 'a-b', expected a variable's name",
        ),
        (
            "cpu_partition:",
            "launcher: mpirun\ncpu_partition:",
            r"launcher is 'mpirun' \(did you mean 'torchrun'\?\), expected one of torchrun, fault",
        ),
        (
            "cpu_partition:",
            "modules: [cuda; reboot]\ncpu_partition:",
            "modules is 'cuda; reboot', expected a module's name",
        ),
        (
            "cpu_partition:",
            "retries: -1\ncpu_partition:",
            "retries is -1, expected a positive number",
        ),
        (
            "  image:",
            "  mounts: [/shared]\n  image:",
            "container.mounts is '/shared', expected HOST:CONTAINER",
        ),
        (
            "  image:",
            "  mounts: ['/a:/b;reboot']\n  image:",
            "container.mounts is '/a:/b;reboot', expected HOST:CONTAINER",
        ),
        (
            "/shared/nemo.sqsh",
            "nemo$(reboot)",
            r"container.image is 'nemo\$\(reboot\)', expected a path or",
        ),
        (
            "cpu_partition:",
            "login: {host: -oProxyCommand=reboot}\ncpu_partition:",
            "login.host is '-oProxyCommand=reboot'",
        ),
        (
            "  gres: gpu:8",
            "  constraint: a100&ib;reboot",
            "compute.constraint is 'a100&ib;reboot', expected a name",
        ),
        ("compute:\n", "compute: 3\nother:\n", "int is not a subclass of Compute"),
        (GOOD, "", "holds no keys"),
        (GOOD, "- a\n", "holds no keys"),
        (GOOD, "account: [", "cannot be read as YAML"),
        (GOOD, "3", "cannot be read as YAML"),
        (GOOD, "[" * 10_000, "cannot be read as YAML"),
        ("account: mine", "account: [mine]", "account: Cannot convert 'ListConfig'"),
        ("account: mine", "account: mine\naccount: yours", "cannot be read as YAML"),
        ("cpu_partition:", "light: {}\ncpu_partition:", "unknown key light"),
    ],
)
def test_what_a_file_may_not_say_is_one_sentence(tmp_path, old, new, said) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=said) as refused:
        _load(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "c.yaml") in str(refused.value)


def test_an_unknown_cluster_names_the_nearest(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no cluster of this name \(did you mean 'h100'\?\)"):
        load_cluster("h10")
    with pytest.raises(UserError, match=r"none.yaml: no such cluster file"):
        load_cluster(str(tmp_path / "none.yaml"))


def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path) -> None:
    (tmp_path / "c.yaml").write_bytes(GOOD.replace("mine", "m\xe4ne").encode("latin-1"))
    with pytest.raises(UserError, match=r"c.yaml: cannot be read as YAML \('utf-8' codec") as error:
        load_cluster(str(tmp_path / "c.yaml"))
    assert "\n" not in str(error.value)
