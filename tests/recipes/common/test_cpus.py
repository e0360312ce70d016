"""The CPUs of a process: its affinity mask, and the quotas of cgroups of both versions."""

import os
from pathlib import Path

import pytest

from recipes.common import cpus
from recipes.common.cpus import usable_cpus

pytestmark = pytest.mark.fast

VERSION_2 = "0::/system.slice/job\n"
VERSION_1 = "5:memory:/elsewhere\n4:cpu,cpuacct:/slurm/job\n0::/\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 CPUs; its folder of cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(cpus, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "_MOUNT", tmp_path / "fs")
    return tmp_path


def count(machine: Path, cgroups: str, files: dict[str, str]) -> int:
    (machine / "cgroup").write_text(cgroups)
    for path, content in files.items():
        file = machine / "fs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return usable_cpus()


def test_the_affinity_mask_counts() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"system.slice/job/cpu.max": "max 100000\n"}, 64),
        ({"system.slice/job/cpu.max": "400000 100000\n"}, 4),
        ({"system.slice/job/cpu.max": "150000 100000\n"}, 2),
        ({"system.slice/job/cpu.max": "1000 100000\n"}, 1),
        # a cgroup around it allows less
        (
            {
                "system.slice/job/cpu.max": "400000 100000\n",
                "system.slice/cpu.max": "200000 100000",
            },
            2,
        ),
        # a container that sees its own at the top
        ({"cpu.max": "300000 100000\n"}, 3),
        # a machine with fewer CPUs than the quota
        ({"system.slice/job/cpu.max": "6500000 100000\n"}, 64),
    ],
)
def test_quotas_of_version_2(machine: Path, files: dict[str, str], expected: int) -> None:
    assert count(machine, VERSION_2, files) == expected


@pytest.mark.parametrize(
    ("folder", "quota", "expected"),
    [
        ("slurm/job", "800000", 8),
        ("slurm", "200000", 2),
        (".", "50000", 1),
        ("slurm/job", "-1", 64),
    ],
)
def test_quotas_of_version_1(machine: Path, folder: str, quota: str, expected: int) -> None:
    files = {f"cpu/{folder}/cpu.cfs_quota_us": quota, f"cpu/{folder}/cpu.cfs_period_us": "100000"}
    assert count(machine, VERSION_1, files) == expected
