"""``granite41 generate`` on folders as people have them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.model.transformers_model import load_model
from recipes.model_folder.weights import open_granite
from tests.helpers.bridge_folders import write_granite
from tests.helpers.eval_models import granite41

pytestmark = pytest.mark.slow

PROMPT = " ".join(f"w{3 + number % 7}" for number in range(60))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "hf"
    # multipliers with which attention decides, and not the embedding of the last token
    write_granite(
        folder, embedding_multiplier=0.2, residual_multiplier=3.0, attention_multiplier=2.0
    )
    return folder


def generated(forked: Callable, folder: Path, *words: str) -> str:
    code, out, error = forked(
        granite41, "generate", str(folder), "--prompt", PROMPT, "--tokens", "40", *words
    )
    assert code == 0, error
    return out


def change(file: Path, **values: object) -> None:
    content = {**json.loads(file.read_text()), **values}
    content = {name: value for name, value in content.items() if value is not ...}
    file.write_text(json.dumps(content))


def test_theta_is_read_from_either_form(model: Path, forked: Callable, tmp_path: Path) -> None:
    expected = generated(forked, model)
    newer = shutil.copytree(model, tmp_path / "newer")
    rope = {"rope_type": "default", "rope_theta": 1e7}
    change(newer / "config.json", rope_theta=..., rope_parameters=rope, torch_dtype=..., dtype=None)
    assert generated(forked, newer) == expected

    other = shutil.copytree(model, tmp_path / "other")
    change(other / "config.json", rope_theta=1e4)
    assert generated(forked, other) != expected


def test_what_a_tokenizer_says_of_segments_is_not_passed_on(
    model: Path, forked: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "hf")
    change(folder / "tokenizer_config.json", model_input_names=...)
    assert generated(forked, folder) == generated(forked, model)


def _with_yes(*words: str) -> tuple[int, str, str]:
    """Run a command with ``y`` on its standard input."""
    read, write = os.pipe()
    os.write(write, b"y\ny\ny\ny\n")
    os.close(write)
    os.dup2(read, 0)
    return granite41(*words)


def test_code_of_a_folder_is_neither_asked_for_nor_run(
    model: Path, forked: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "hf")
    proof = tmp_path / "proof"
    (folder / "code.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Own: ...\n")
    own = {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"}
    change(folder / "config.json", auto_map=own)
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "code.Own"]},
        tokenizer_class="Own",
    )
    code, _, error = forked(_with_yes, "generate", str(folder))
    assert code == 2
    assert "transformers cannot load this tokenizer, whose own code is never run" in error
    assert not proof.exists()

    # where there is a class of transformers' own, that one is used
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert generated(forked, folder) == generated(forked, model)
    assert not proof.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_has_the_type_of_its_folder(dtype: torch.dtype, tmp_path: Path) -> None:
    write_granite(tmp_path / "hf", dtype)
    assert load_model(open_granite(tmp_path / "hf")).dtype == dtype
    change(tmp_path / "hf" / "config.json", torch_dtype=..., dtype="bfloat16")
    assert load_model(open_granite(tmp_path / "hf")).dtype == torch.bfloat16


def test_as_many_tokens_as_the_model_has_positions(
    model: Path, forked: Callable, tmp_path: Path
) -> None:
    words = generated(forked, model, "--tokens", str(128 - 60)).split()
    assert 60 <= len(words) <= 128
