"""What sinfo prints, parsed."""

import pytest

from slurm.preflight import PartitionState, _parse_gres, _parse_partitions, _parse_sinfo_limit


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
