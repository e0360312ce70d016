"""Cluster files: what they may say, and the sentence for what they may not."""

from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.launch.on_slurm import Request, run_on_cluster
from slurm.cluster import CLUSTERS, Cluster, cluster_from_dict, load_cluster, parse_time_limit

GOOD = """\
account: mine
folder: /shared/granite41
compute:
  partition: batch
  time_limit: "04:00:00"
  gpu_type: h100
  gpus_per_node: 8
  gres: gpu:8
light:
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
    assert cluster_from_dict(asdict(cluster)) == cluster


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
            "light:",
            "environment: {HF_TOKEN: abc}\nlight:",
            "environment.HF_TOKEN looks like a secret",
        ),
        ("light:", "environment: {a-b: c}\nlight:", "environment.a-b: no name of a variable"),
        (
            "light:",
            "launcher: mpirun\nlight:",
            "launcher is 'mpirun', expected one of torchrun, fault_tolerant",
        ),
        (
            "light:",
            "modules: [cuda; reboot]\nlight:",
            "modules: 'cuda; reboot' is no module's name",
        ),
        ("light:", "retries: -1\nlight:", "retries is -1, expected a positive number"),
        ("  image:", "  mounts: [/shared]\n  image:", "container.mounts: '/shared' is no mount"),
        (
            "  image:",
            "  mounts: ['/a:/b;reboot']\n  image:",
            "container.mounts: '/a:/b;reboot' is no mount",
        ),
        (
            "/shared/nemo.sqsh",
            "nemo$(reboot)",
            r"container.image is 'nemo\$\(reboot\)', expected a path or",
        ),
        (
            "light:",
            "login: {host: -oProxyCommand=reboot}\nlight:",
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


@pytest.mark.parametrize("path", ["/a b", "/nemo_run/x", "/a;reboot", "/$(reboot)", "/a\nb"])
def test_paths_that_nemo_run_cannot_write_are_refused(path, monkeypatch) -> None:
    monkeypatch.setenv("USER", "somebody")
    request = Request(["phase1"], "8b", [], "/data", None, None, False)
    with pytest.raises(
        UserError, match=r"--run-dir .*nemo-run writes paths into scripts as they are"
    ):
        run_on_cluster("h100", Path(path), request, dryrun=True)
