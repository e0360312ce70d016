"""The record of a submission: written and read whole, and refused in a sentence when damaged."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

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
