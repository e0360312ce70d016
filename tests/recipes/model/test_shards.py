"""``granite41 check`` with the real Megatron model: every size and stage holds, another model
fails.
"""

import contextlib
import io
import json
import re
import sys

import pytest

pytestmark = pytest.mark.slow

# shards, parameters on a GPU, process groups; the rest is in test_check_plain.py
MODEL_CHECKS = ["shards", "parameters on a GPU", "process groups"]


def _command(*words: str) -> tuple[int, str, str]:
    """Run ``granite41 check`` and return its exit status, stdout and stderr."""
    from recipes.cli import main as cli

    sys.argv = ["granite41", "check", *words]
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
    return status, out.getvalue(), err.getvalue()


def _with_another_model(settings: dict) -> tuple[int, str, str]:
    from recipes.model.nemo import GraniteConfig

    transformer_settings = GraniteConfig.transformer_settings
    GraniteConfig.transformer_settings = staticmethod(
        lambda size: transformer_settings(size) | settings
    )
    return _command("--size", "8b", "--stage", "lce_32k", "--json")


def _with_another_world() -> tuple[int, str, str]:
    from megatron.core import parallel_state

    parallel_state.get_data_parallel_world_size = lambda: 7
    return _command("--size", "tiny", "--stage", "phase1", "--json")


def _with_another_torch() -> tuple[int, str, str]:
    from recipes.compat import cpu

    cpu.WRITTEN_FOR["torch"] = "1.0"
    return _command("--size", "tiny", "--stage", "phase1")


def _with_gpus() -> tuple[int, str, str]:
    import torch

    torch.cuda.is_available = lambda: True
    return _command("--size", "tiny", "--stage", "phase1")


def _failed(out: str) -> dict[str, str]:
    return {row["name"]: row["found"] for row in json.loads(out) if not row["ok"]}


@pytest.mark.parametrize(
    ("size", "gpu_type", "world_size"),
    [
        ("tiny", "cpu", "1"),
        ("3b", "gb200", "512"),
        ("8b", "gb200", "1,024"),
        ("30b", "gb200", "2,048"),
        # two pipeline stages
        ("30b", "h100", "1,024"),
    ],
)
def test_every_stage_holds(forked, size, gpu_type, world_size) -> None:
    status, out, _ = forked(_command, "--size", size, "--json", f"parallelism.gpu_type={gpu_type}")
    rows = json.loads(out)
    assert (status, _failed(out)) == (0, {})
    stages = {row["stage"] for row in rows}
    assert len(stages) == (6 if size == "3b" else 7)
    assert [row["name"] for row in rows if row["stage"] == "lce_128k"][-3:] == MODEL_CHECKS
    shards = {row["found"] for row in rows if row["name"] == "shards"}
    parameters = {
        "3b": "3,402,836,480",
        "8b": "8,380,551,168",
        "30b": "28,865,728,512",
        "tiny": "328,256",
    }[size]
    assert all(
        found.startswith(parameters) and f" of {world_size} hold" in found for found in shards
    )


def test_an_override_that_does_not_divide_fails(forked) -> None:
    words = ("--size", "8b", "--stage", "phase1", "parallelism.tensor_model_parallel_size=3")
    status, out, err = forked(_command, *words)
    assert status == 1
    assert "FAILED" in out
    assert (
        "tensor_model_parallel_size 3 does not divide model.num_attention_heads 32; choose a "
        "divisor" in err
    )
    assert "phase1, shards FAILED: not built: world_size (1024) is not divisible by 3" in err


def test_megatron_itself_refuses_what_it_cannot_split(forked) -> None:
    words = (
        "--size",
        "8b",
        "--stage",
        "phase1",
        "--json",
        "parallelism.tensor_model_parallel_size=16",
    )
    status, out, _ = forked(_command, *words)
    assert status == 1
    assert (
        "num_query_groups (8) must be a multiple of tensor_model_parallel_size (16)"
        in _failed(out)["shards"]
    )


EMBEDDING = 100352 * 4096
# QKV and output, MLP
BIASES = 40 * (4096 + 2 * 1024 + 4096 + 2 * 12800 + 4096)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"num_layers": 2}, EMBEDDING + (8380551168 - EMBEDDING - 4096) // 20 + 4096),
        ({"add_bias_linear": True}, 8380551168 + BIASES),
    ],
)
def test_a_model_of_other_parameters_fails(forked, settings, parameters) -> None:
    status, out, _ = forked(_with_another_model, settings)
    assert (status, set(_failed(out))) == (1, {"shards", "parameters on a GPU"})
    assert _failed(out)["shards"].startswith(f"{parameters:,} parameters")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_with_another_torch, "patches torch 1.0 but .*the environment of `make setup`"),
        (_with_gpus, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_process_that_cannot_build_models_is_told_so(forked, function, message) -> None:
    status, out, err = forked(function)
    assert (status, out) == (2, "")
    assert re.search(message, err)


def test_another_published_count_fails(forked) -> None:
    words = ("--size", "tiny", "--stage", "phase1", "--json", "model.parameter_count=328255")
    status, out, _ = forked(_command, *words)
    assert (status, set(_failed(out))) == (1, {"shards"})


def test_other_process_groups_fail(forked) -> None:
    status, out, _ = forked(_with_another_world)
    assert (status, _failed(out)) == (1, {"process groups": "TP 1 PP 1 CP 1 DP 7"})
