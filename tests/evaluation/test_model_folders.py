"""Evaluations of a model's folder in the forms of transformers 4 and 5."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.results import Evaluation, read_evaluation
from tests.helpers.eval_models import granite41, write_model

pytestmark = pytest.mark.slow


def evaluated(forked: Callable, folder: Path) -> Evaluation:
    output = folder.with_name(f"{folder.name}_eval")
    words = ("--size", "tiny", "--tasks", "smoke_text", "--samples", "4")
    code, _, error = forked(
        granite41, "eval", "smoke", "--model", str(folder), *words, "--output", str(output)
    )
    assert code == 0, error
    return read_evaluation(output)


def with_config(source: Path, target: Path, **values: object) -> Path:
    shutil.copytree(source, target)
    file = target / "config.json"
    content = {**json.loads(file.read_text()), **values}
    content = {name: value for name, value in content.items() if value is not ...}
    file.write_text(json.dumps(content))
    return target


def test_a_config_of_either_form_has_the_same_score(forked: Callable, tmp_path: Path) -> None:
    forked(write_model, tmp_path / "hf")
    older = with_config(tmp_path / "hf", tmp_path / "older", rope_theta=1e7)
    rope = {"rope_type": "default", "rope_theta": 1e7}
    newer = with_config(
        tmp_path / "hf",
        tmp_path / "newer",
        rope_theta=...,
        rope_parameters=rope,
        torch_dtype=...,
        dtype="float32",
        auto_map={"AutoModelForCausalLM": "code.Own"},
    )
    found = [evaluated(forked, folder) for folder in (tmp_path / "hf", older, newer)]
    default, expected, score = (evaluation.units[0].score for evaluation in found)
    assert score == expected != default
    assert len({evaluation.fingerprint for evaluation in found}) == 3
    # not the temporary folder that was loaded
    assert found[2].backend["arguments"]["pretrained"] == str(newer)
