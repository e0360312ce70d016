"""Which files hold a model's weights, and the view of them; ``tests/bad_inputs`` has refusals."""

import json
from pathlib import Path

import pytest

from recipes.model_folder.files import copy_files, tokenizer_files
from recipes.model_folder.view import transformers_view
from recipes.model_folder.weights import open_folder, open_granite
from tests.helpers.model_folders import (
    EMBEDDING,
    granite_tensors,
    tensor,
    write_model,
    write_shards,
    write_tensors,
)

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "hf")
    return tmp_path / "hf"


def assert_whole(folder: Path) -> None:
    """Assert that each tensor of the model is found with its bytes."""
    tensors = open_granite(folder).tensors
    for name, (dtype, shape, content) in granite_tensors().items():
        assert (tensors[name].dtype, tensors[name].shape) == (dtype, shape)
        assert b"".join(tensors[name].read()) == content


def test_one_file_holds_the_weights(folder: Path) -> None:
    assert_whole(folder)


def test_several_files_hold_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_shards(folder, granite_tensors())
    assert_whole(folder)


def test_an_index_may_name_one_file_and_more_tensors_than_there_are(folder: Path) -> None:
    names = [*granite_tensors(), "lm_head.weight"]
    weight_map = dict.fromkeys(names, "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert_whole(folder)


def test_pickled_weights_beside_safetensors_are_not_used(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    assert_whole(folder)


def test_an_output_head_that_is_the_embedding_is_taken(folder: Path) -> None:
    tensors = granite_tensors()
    write_tensors(folder / "model.safetensors", tensors | {"lm_head.weight": tensors[EMBEDDING]})
    assert_whole(folder)


def test_tensors_may_have_several_types(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    norm = tensor((8,), "F32")
    write_tensors(folder / "model.safetensors", granite_tensors() | {"model.norm.weight": norm})
    assert open_granite(folder).tensors["model.norm.weight"].dtype == "F32"
    with transformers_view(open_folder(folder)):
        assert f"{folder}: holds BF16 and F32, but is computed in one type" in caplog.text


def test_another_kind_of_model_may_have_any_tensors(folder: Path) -> None:
    config = {"model_type": "llama", "max_position_embeddings": 8}
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", {"a": tensor((3,), "I8")})
    assert list(open_folder(folder).tensors) == ["a"]


def test_the_view_has_the_known_files_and_no_code(folder: Path) -> None:
    config = folder / "config.json"
    newer = {**json.loads(config.read_text()), "dtype": "bfloat16", "auto_map": {}}
    config.write_text(json.dumps(newer))
    (folder / "code.py").touch()
    (folder / "tokenizer_code.py").touch()
    (folder / "pytorch_model.bin").touch()
    with transformers_view(open_folder(folder)) as view:
        found = {str(path.relative_to(view)) for path in view.rglob("*") if path.is_file()}
        values = json.loads((view / "config.json").read_text())
        weights = (view / "model.safetensors").resolve()
    settings = {"config.json", "generation_config.json", *tokenizer_files(folder)}
    assert found == settings | {"model.safetensors"}
    assert "auto_map" not in values
    assert "dtype" not in values
    assert weights == (folder / "model.safetensors").resolve()
    assert not view.exists()


def test_an_exception_names_the_folder_and_not_its_view(folder: Path) -> None:
    def fail() -> None:
        with transformers_view(open_folder(folder)) as view:
            raise ValueError(f"{view}/tokenizer.json is damaged")

    with pytest.raises(ValueError, match=f"{folder}/tokenizer.json is damaged"):
        fail()


def test_templates_in_a_folder_belong_to_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    copy_files(folder, tokenizer_files(folder), tmp_path / "copy")
    copied = tmp_path / "copy" / "additional_chat_templates" / "tools.jinja"
    assert copied.read_text() == "{{ tools }}"
