"""The fingerprint of a model's folder, and what is not evaluated."""

from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.model_folder.folder import fingerprint, open_model
from tests.helpers.model_folders import granite_tensors, tensor, write_model, write_shards

SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "hf")
    return tmp_path / "hf"


def test_an_opened_model_has_positions_and_a_fingerprint(folder: Path) -> None:
    model = open_model(folder)
    assert model.positions == 64
    assert model.fingerprint == fingerprint(folder)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_fingerprint_covers_each_file(name: str, folder: Path) -> None:
    before = fingerprint(folder)
    file = folder / name
    content = file.read_text()
    file.write_text(content + "\n")
    assert fingerprint(folder) != before
    file.write_text(content)
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", ["added_tokens.json", "additional_chat_templates/rag.jinja"])
def test_the_fingerprint_covers_a_new_file(name: str, folder: Path) -> None:
    before = fingerprint(folder)
    (folder / name).write_text("{}")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", granite_tensors())
def test_the_fingerprint_covers_each_tensor(name: str, folder: Path) -> None:
    before = fingerprint(folder)
    content = granite_tensors()[name][2]
    file = folder / "model.safetensors"
    changed = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes(file.read_bytes().replace(content, changed))
    assert fingerprint(folder) != before


def test_the_fingerprint_samples_large_tensors(folder: Path) -> None:
    # 4 MB of a model of another kind, whose tensors may have any shape
    config = folder / "config.json"
    config.write_text('{"model_type": "other", "max_position_embeddings": 8}')
    one = tensor((2048, 1024))
    (folder / "model.safetensors").unlink()
    write_shards(folder, {"a": one, "b": tensor((4,))})
    before = fingerprint(folder)
    write_shards(folder, {"a": (*one[:2], one[2][::-1]), "b": tensor((4,))})
    assert fingerprint(folder) != before


def test_the_same_tensors_in_other_files_have_the_same_fingerprint(folder: Path) -> None:
    before = fingerprint(folder)
    write_shards(folder, granite_tensors())
    (folder / "model.safetensors").unlink()
    assert fingerprint(folder) == before


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer_config.json"):
        open_model(folder)
