"""Shared fixtures, and the cores that each of several test processes may use."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, forked) -> Path:
    """A folder of prepared data: some modules of the test runner, a vocabulary of 512."""
    from data_prep.tiny import prepare

    text = tmp_path_factory.mktemp("text")
    for module in Path(pytest.__file__).parent.parent.glob("_pytest/*.py"):
        (text / module.name).write_bytes(module.read_bytes())
    folder = tmp_path_factory.mktemp("prepared") / "data"
    forked(partial(prepare, vocab_size=512, text=text), folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # the longest files first: then no process is left alone with one of them at the end
    items.sort(key=lambda item: item.path.parent.name not in ("training", "slurm"))
