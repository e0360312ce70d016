"""How many CPUs this process may use, which a batch system or a container may limit."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the CPUs of the affinity mask, or fewer where a cgroup's quota allows fewer.

    A quota of one and a half CPUs counts as two.
    """
    allowed = len(os.sched_getaffinity(0))
    return math.ceil(min([allowed, *_quotas()]))


def _quotas() -> Iterator[float]:
    """Yield the CPUs that each of this process's cgroups allows, of those that limit them."""
    for folder in _folders():
        # version 2 has quota and period in microseconds in one file, version 1 in two
        words = []
        for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            words += _read(folder / name).split()
        # no limit is "max", or -1
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]) / int(words[1])


def _folders() -> Iterator[Path]:
    """Yield the folders of this process's cgroups and of those around them.

    A container may see its own cgroup at the top, and not under the path that it has outside.
    """
    for line in _read(_CGROUPS).splitlines():
        # number, controllers and path; version 2 names no controllers here
        _, controllers, path = line.split(":", 2)
        mount = _MOUNT
        if controllers:
            mount /= "cpu"
        if not controllers or "cpu" in controllers.split(","):
            folder = mount / path.lstrip("/")
            yield from (folder, *folder.parents[: len(Path(path).parts) - 1])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
