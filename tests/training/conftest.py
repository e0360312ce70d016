"""Prepared data for the tests that train."""

from functools import partial
from pathlib import Path

import pytest

from data_prep.tiny import prepare


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, forked) -> Path:
    """A folder of prepared data: some modules of the test runner, a vocabulary of 512."""
    text = tmp_path_factory.mktemp("text")
    for module in Path(pytest.__file__).parent.parent.glob("_pytest/*.py"):
        (text / module.name).write_bytes(module.read_bytes())
    folder = tmp_path_factory.mktemp("prepared") / "data"
    forked(partial(prepare, vocab_size=512, text=text), folder)
    return folder
