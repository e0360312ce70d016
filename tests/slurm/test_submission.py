"""The record of a submission: written and read whole, and refused in a sentence when damaged."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from recipes.cli import main as cli
from recipes.common.errors import UserError
from recipes.runs.chain_request import ChainRequest
from slurm.cluster import Cluster, Compute, Partition
from slurm.shell import Shell
from slurm.submission import Submission, SubmittedJob

COMPUTE = Compute("batch", "04:00:00", gpu_type="h100", gpus_per_node=8)
CLUSTER = Cluster("mine", COMPUTE, Partition("cpu", "01:00:00"), "/shared")
REQUEST = ChainRequest(["phase1"], "8b", ["seed=7"], "/data", None, None, True)
JOBS = {
    "phase1": SubmittedJob("7", []),
    "phase1-export": SubmittedJob("8", ["phase1"]),
}
SUBMISSION = Submission(CLUSTER, "0123abcd", "8b_1700000000", REQUEST, JOBS)

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def record(tmp_path) -> Path:
    """The record of a run, at its place in the run's folder."""
    SUBMISSION.write(Shell(CLUSTER), PurePosixPath(tmp_path))
    return tmp_path / "slurm" / "submitted.json"


def _change(record: Path, change: Change) -> None:
    content = json.loads(record.read_text())
    change(content)
    record.write_text(json.dumps(content))


def test_it_reads_what_it_has_written(record, tmp_path) -> None:
    assert Submission.is_in(tmp_path)
    assert Submission.read(tmp_path) == SUBMISSION
    assert [path.name for path in record.parent.iterdir()] == ["submitted.json"]


def test_a_folder_without_a_record_is_refused(tmp_path) -> None:
    assert not Submission.is_in(tmp_path)
    with pytest.raises(UserError, match="no chain was submitted into this folder"):
        Submission.read(tmp_path)


def test_a_record_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UserError, match=r"/proc/none/slurm/submitted.json: could not be written"):
        SUBMISSION.write(Shell(CLUSTER), PurePosixPath("/proc/none"))


def test_a_record_of_an_earlier_version_is_read(record, tmp_path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["cluster"]["light"] = content["cluster"].pop("cpu_partition")
        content["request"] = {}

    _change(record, rename)
    submission = Submission.read(tmp_path)
    assert submission.request is None
    assert asdict(submission.cluster) == asdict(CLUSTER)


def _truncate(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-20])


def _encode(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b"batch", b"b\xe4tch"))


def _damage(change: Change) -> Callable[[Path], None]:
    return lambda record: _change(record, change)


DAMAGES = [
    pytest.param(_truncate, "is not valid JSON", id="truncated"),
    pytest.param(_encode, "is not UTF-8 text", id="not UTF-8"),
    pytest.param(
        lambda record: record.write_text("[]"),
        "holds a JSON list, expected an object",
        id="a list",
    ),
    pytest.param(
        _damage(lambda content: content.pop("experiment")),
        "has no key 'experiment'",
        id="missing key",
    ),
    pytest.param(
        _damage(lambda content: content.update(jobs=["7"])),
        "key 'jobs' holds ['7'] (list)",
        id="jobs of another type",
    ),
    pytest.param(
        _damage(lambda content: content["jobs"]["phase1"].update(id=7)),
        "key 'jobs.id' holds 7 (int)",
        id="id of another type",
    ),
    pytest.param(
        _damage(lambda content: content["jobs"]["phase1"].update(id="7; reboot")),
        "key 'jobs.phase1.id' holds '7; reboot', expected Slurm's number",
        id="id that is no number",
    ),
    pytest.param(
        _damage(lambda content: content.update(cluster=None)),
        "key 'cluster' holds None",
        id="no cluster",
    ),
    pytest.param(
        _damage(lambda content: content["cluster"]["compute"].update(gpus_per_node="8")),
        "key 'cluster.compute.gpus_per_node' holds '8' (str)",
        id="cluster with another type",
    ),
    pytest.param(
        _damage(lambda content: content["cluster"].update(login={"host": "-oProxyCommand=x"})),
        "key 'cluster': login.host is '-oProxyCommand=x'",
        id="cluster that no file could describe",
    ),
    pytest.param(
        _damage(lambda content: content["request"].update(stages="phase1")),
        "key 'request.stages' holds 'phase1' (str)",
        id="request of another type",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("command", ["status", "logs phase1", "cancel", "resume"])
def test_a_damaged_record_is_one_sentence(
    record, tmp_path, capsys, monkeypatch, command, damage, message
) -> None:
    damage(record)
    words = [*command.split(), "--run-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["granite41", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    assert f"{record}: {message}" in err
