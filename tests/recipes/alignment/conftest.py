"""A small base model and packed conversations, for the tests of fine-tuning."""

from pathlib import Path

import pytest

from tests.helpers.nemo_checkpoints import import_in_fork
from tests.helpers.sft_runs import write_base, write_packed


@pytest.fixture(scope="package")
def hf_base(tmp_path_factory) -> Path:
    """The base model as a Hugging Face folder."""
    return write_base(tmp_path_factory.mktemp("hf") / "base")


@pytest.fixture(scope="package")
def nemo_base(hf_base, forked) -> Path:
    """The base model as a NeMo checkpoint."""
    folder = hf_base.parent / "nemo"
    forked(import_in_fork, hf_base, folder)
    return folder


@pytest.fixture(scope="package")
def packed(hf_base) -> Path:
    """Packed conversations."""
    return write_packed(hf_base.parent / "packed", hf_base)
