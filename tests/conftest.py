"""Shared fixtures, and the cores that each of several test processes may use."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from recipes.common.cpus import usable_cpus
from tests.helpers import preloaded

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # threads of two processes on the same cores spend most of their time waiting for each other
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cpus() // workers))


@pytest.fixture(scope="session")
def forked() -> Callable[..., Any]:
    """``forked(function, *args, world_size=1)``: run it in processes that have NeMo loaded (see
    ``preloaded.run``).
    """
    return preloaded.run


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


# what hypothesis tries: the same 200 examples in every run, or with `--hypothesis-profile=more` as
# many others as an hour has room for
settings.register_profile("same", max_examples=200, derandomize=True, deadline=None, database=None)
settings.register_profile("more", max_examples=10_000, deadline=None)
settings.load_profile("same")

LAYERS = ("slow", "slurm", "gpu")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, unread, what loads NeMo or Slurm where only the fast tests are asked for."""
    if config.option.markexpr != "fast" or not collection_path.name.startswith("test_"):
        return None
    source = collection_path.read_text(encoding="utf-8")
    marked = rf"^pytestmark = .*pytest\.mark\.({'|'.join(LAYERS)})\b"
    return bool(re.search(marked, source, re.MULTILINE)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as fast what is in no other layer, and sort the longest files first, so that they start
    early.
    """
    for item in items:
        if not any(item.get_closest_marker(layer) for layer in LAYERS):
            item.add_marker("fast")
    items.sort(key=lambda item: item.path.parent.name not in ("training", "launch", "slurm"))
