"""What sinfo prints, parsed."""

import pytest

from recipes.runs.task import Task
from slurm.cluster import Partition
from slurm.jobs import SlurmJob
from slurm.preflight import (
    CommandResult,
    PartitionState,
    _check_arrays,
    _parse_gres,
    _parse_partitions,
    _parse_sinfo_limit,
)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", ("", 8)),
        ("gpu:h100:8(S:0-1)", ("h100", 8)),
        ("gpu", ("", 1)),
        ("nvme:1,gpu:gb200:4", ("gb200", 4)),
        ("(null)", ("", 0)),
    ],
)
def test_type_and_number_of_gpus(gres, gpus) -> None:
    assert _parse_gres(gres) == gpus


def test_limits_may_lack_hours() -> None:
    assert _parse_sinfo_limit("30:00") == 1800
    assert _parse_sinfo_limit("1-00:00:00") == 86400


def test_a_partition_sums_its_kinds_of_nodes() -> None:
    text = "batch|up|infinite|2|gpu:8\nbatch|up|infinite|3|gpu:4\ncpu|down|10:00|1|(null)\nodd line"
    assert _parse_partitions(text) == {
        "batch": PartitionState(True, None, 5, ("gpu:8", "gpu:4")),
        "cpu": PartitionState(False, 600, 1, ("(null)",)),
    }


@pytest.mark.parametrize(("jobs", "ok"), [(1, []), (1000, [True]), (1002, [False])])
def test_an_array_is_no_larger_than_slurm_takes(jobs, ok) -> None:
    job = SlurmJob(Task("tokenize", (), array=jobs), Partition(), 1, 1)
    checks = list(_check_arrays([job], CommandResult(0, "1001")))
    assert [check.ok for check in checks] == ok
