"""Shared fixtures, and the cores that each of several test processes may use."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import warm

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # threads of two processes on the same cores spend most of their time waiting for each other
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(scope="session")
def forked() -> Callable[..., Any]:
    """``forked(function, *args, world_size=1)``: run it in processes that have NeMo loaded (see ``warm.run``)."""
    return warm.run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # the longest files first: then no process is left alone with one of them at the end
    items.sort(key=lambda item: item.path.parent.name != "training")
