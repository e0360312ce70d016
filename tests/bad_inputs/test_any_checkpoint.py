"""Whatever the files of a NeMo checkpoint hold, it is exported or refused, and wholly."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from recipes.model.bridge.mapping import weights
from recipes.model.bridge.to_hf import export_hf, read_context
from recipes.model.bridge.torch_dist import TorchDistCheckpoint
from tests.bad_inputs.edits import edited_bytes, edited_json, edited_yaml, read_or_refuse
from tests.helpers import model_folders
from tests.helpers.nemo_checkpoints import import_in_fork

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, forked) -> Path:
    """A checkpoint of a model of two layers."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model_folders.write_model(folder / "hf")
    forked(import_in_fork, folder / "hf", folder / "nemo")
    return folder / "nemo"


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy, which may be damaged."""
    shutil.copytree(whole, tmp_path / "nemo")
    return tmp_path / "nemo"


def _context(checkpoint: Path) -> None:
    read_context(checkpoint / "context")


def _tensors(checkpoint: Path) -> None:
    config, _ = read_context(checkpoint / "context")
    opened = TorchDistCheckpoint(checkpoint / "weights")
    opened.check_all(weights(config), config.num_hidden_layers)
    for weight in weights(config):
        opened.read(weight)


@pytest.mark.parametrize(
    ("pattern", "edited", "read"),
    [
        ("context/model.yaml", edited_yaml, _context),
        ("weights/metadata.json", edited_json, _tensors),
        ("weights/.metadata", edited_bytes, _tensors),
        ("weights/*.distcp", edited_bytes, _tensors),
    ],
)
def test_a_file_is_read_or_refused(
    pattern: str, edited: Any, read: Callable[[Path], None], checkpoint: Path
) -> None:
    file = sorted(checkpoint.glob(pattern))[0]
    read(checkpoint)

    @given(edited(file.read_bytes()))
    def read_edited(content: bytes) -> None:
        file.write_bytes(content)
        read_or_refuse(lambda: read(checkpoint))

    read_edited()


def test_an_export_is_whole_or_absent(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "context/model.yaml"
    output = tmp_path / "hf"

    @settings(max_examples=settings().max_examples // 20)
    @given(edited_yaml(file.read_bytes()))
    def export(content: bytes) -> None:
        file.write_bytes(content)
        is_read = read_or_refuse(lambda: export_hf(checkpoint, output))
        assert output.exists() is is_read
        assert not list(tmp_path.glob(".*"))
        shutil.rmtree(output, ignore_errors=True)

    export()
