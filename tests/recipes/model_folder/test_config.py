"""config.json in the forms of transformers 4 and 5; what is refused is in ``tests/bad_inputs``."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from recipes.model_folder.config import read_config, read_values
from tests.helpers.model_folders import CONFIG, write_model

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 1e7}


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": ..., "rope_parameters": DEFAULT_ROPE},
        {"rope_parameters": DEFAULT_ROPE},
        {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e7}},
        {"rope_parameters": None},
        {"rope_scaling": {"type": "default"}},
        {"torch_dtype": ..., "dtype": "bfloat16"},
        {"dtype": "bfloat16"},
        {"dtype": None},
        {"head_dim": None},
        {"hidden_act": None, "attention_bias": None},
        {"auto_map": {"AutoConfig": "code.Config"}},
    ],
)
def test_all_forms_are_the_same_config(fields: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path, **fields)
    assert read_values(tmp_path) == CONFIG


def test_the_width_of_a_head_follows_where_it_is_absent(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert read_config(tmp_path).head_dim == 2
    write_model(tmp_path, head_dim=6)
    assert read_config(tmp_path).head_dim == 6


def test_ids_of_special_tokens_may_be_absent_null_or_several(tmp_path: Path) -> None:
    write_model(tmp_path, bos_token_id=..., eos_token_id=[0, 15], pad_token_id=None)
    read_config(tmp_path)
    # null is no absent id, for which transformers has a default
    assert read_values(tmp_path)["pad_token_id"] is None


def test_a_theta_beyond_32_bits_is_read(tmp_path: Path) -> None:
    write_model(tmp_path, rope_theta=3_580_165_449)
    assert read_config(tmp_path).rope_theta == 3_580_165_449


def test_keys_without_use_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path, sliding_window=4, use_cache=False)
    with caplog.at_level(logging.WARNING):
        read_config(tmp_path)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/config.json: not used: 'sliding_window'"
    ]


def test_another_kind_of_model_keeps_its_own_rotary_scaling(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "factor": 8.0}
    values = {"model_type": "llama", "rope_scaling": rope, "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_values(tmp_path) == values
