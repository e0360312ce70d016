"""The bridge through NeMo itself: import, load, train, save with parallel ranks, export."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.model.bridge.to_hf import export_hf
from recipes.model.transformers_model import load_model
from recipes.model_folder.weights import open_granite
from recipes.spec.sizes import SIZES
from tests.helpers.bridge_folders import (
    VOCAB_SIZE,
    assert_same_tensors,
    load_tensors,
    write_granite,
    write_tokenizer,
)
from tests.helpers.nemo_checkpoints import (
    import_in_fork,
    logits_of_checkpoint,
    save_in_parallel,
    train_one_step,
)

pytestmark = pytest.mark.slow

ROPE_THETA = {"3b": 1e7, "8b": 1e7, "30b": 5e7}


def import_through_nemo(source: Path, output: Path) -> None:
    from nemo.collections import llm

    from recipes.model.nemo import GraniteConfig, GraniteModel

    llm.import_ckpt(
        GraniteModel(GraniteConfig(num_layers=1, hidden_size=256, num_attention_heads=4)),
        f"hf://{source}",
        output,
    )


@pytest.fixture(scope="module")
def folders(forked: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a Hugging Face folder and the NeMo checkpoint imported from it."""
    base = tmp_path_factory.mktemp("small")
    write_granite(base / "hf")
    forked(import_in_fork, base / "hf", base / "nemo")
    return base / "hf", base / "nemo"


@pytest.mark.parametrize("name", ["3b", "8b", "30b"])
def test_megatron_and_transformers_give_the_same_logits(
    name: str, forked: Callable, tmp_path: Path
) -> None:
    size = SIZES[name]
    groups = 2
    heads = groups * size.num_attention_heads.value // size.num_query_groups.value
    model = write_granite(
        tmp_path / "hf",
        hidden_size=heads * size.head_dim.value,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        rope_theta=ROPE_THETA[name],
        embedding_multiplier=size.embedding_multiplier.value,
        attention_multiplier=size.attention_multiplier.value,
        residual_multiplier=size.residual_multiplier.value,
        logits_scaling=size.logits_scaling.value,
    )
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    ids = torch.randint(VOCAB_SIZE, (2, 48))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    found = forked(logits_of_checkpoint, tmp_path / "nemo", ids.numpy())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_exact(dtype: torch.dtype, forked: Callable, tmp_path: Path) -> None:
    write_granite(tmp_path / "hf", dtype, head_dim=16)
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", tmp_path / "hf")
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
    ):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads(
            (tmp_path / "hf" / name).read_text()
        )


def test_round_trip_keeps_what_changes_an_answer(forked: Callable, tmp_path: Path) -> None:
    source, back = tmp_path / "hf", tmp_path / "back"
    write_granite(source, bos_token_id=7, eos_token_id=[5, 8], pad_token_id=9, use_cache=False)
    (source / "generation_config.json").write_text(
        '{"eos_token_id": [0, 5], "temperature": 0.6, "repetition_penalty": 1.1}'
    )
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (source / "tokenizer_code.py").write_text("raise SystemExit")
    forked(import_in_fork, source, tmp_path / "nemo")
    export_hf(tmp_path / "nemo", back)

    found = {str(file.relative_to(back)) for file in back.rglob("*") if file.is_file()}
    expected = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    assert found == expected - {"tokenizer_code.py"}
    for name in found - {"config.json", "model.safetensors"}:
        assert (back / name).read_bytes() == (source / name).read_bytes(), name
    config = json.loads((back / "config.json").read_text())
    assert config == json.loads((source / "config.json").read_text())
    assert config["eos_token_id"] == [5, 8]


def test_a_checkpoint_that_was_trained_has_the_special_tokens_of_its_tokenizer(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[1], tmp_path / "nemo")
    shutil.rmtree(tmp_path / "nemo" / "context" / "hf_source")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((tmp_path / "back" / name).read_text())
        assert found == json.loads((folders[0] / name).read_text())


def test_a_config_of_transformers_5_gives_the_same_model(
    folders: tuple[Path, Path], forked: Callable, tmp_path: Path
) -> None:
    shutil.copytree(folders[0], tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text())
    theta = config.pop("rope_theta")
    newer = {
        **config,
        "dtype": config.pop("torch_dtype"),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_scaling": None,
        "head_dim": None,
    }
    newer.pop("torch_dtype", None)
    file.write_text(json.dumps(newer))
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    export_hf(folders[1], tmp_path / "expected")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (tmp_path / "expected" / "config.json").read_text()
    )

    ids = torch.randint(VOCAB_SIZE, (2, 48))
    expected = forked(logits_of_checkpoint, folders[1], ids.numpy())
    assert np.array_equal(forked(logits_of_checkpoint, tmp_path / "nemo", ids.numpy()), expected)
    model = load_model(open_granite(tmp_path / "hf"))
    with torch.no_grad():
        found = model(ids).logits.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_each_tensor_keeps_its_type(forked: Callable, tmp_path: Path) -> None:
    write_granite(tmp_path / "hf", torch.bfloat16)
    tensors = load_tensors(tmp_path / "hf")
    for name, tensor in tensors.items():
        if tensor.dim() == 1:
            tensors[name] = tensor.float() + 1e-4
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", tmp_path / "hf")
    assert {tensor.dtype for tensor in load_tensors(tmp_path / "back").values()} == {
        torch.float32,
        torch.bfloat16,
    }

    # NeMo computes in the type of the matrices, as transformers does
    ids = torch.randint(VOCAB_SIZE, (2, 48))
    found = forked(logits_of_checkpoint, tmp_path / "nemo", ids.numpy())
    model = load_model(open_granite(tmp_path / "hf"))
    with torch.no_grad():
        expected = model(ids).logits.float().numpy()
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_types_that_one_tensor_of_nemo_cannot_keep_are_named(
    forked: Callable, tmp_path: Path
) -> None:
    write_granite(tmp_path / "hf")
    tensors = load_tensors(tmp_path / "hf")
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = tensors[name].bfloat16()
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"k_proj.weight is BF16 but .*q_proj.weight F32, and a"):
        forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    assert not (tmp_path / "nemo").exists()


def test_a_repeated_embedding_is_imported(
    folders: tuple[Path, Path], forked: Callable, tmp_path: Path
) -> None:
    tensors = load_tensors(folders[0])
    shutil.copytree(folders[0], tmp_path / "hf")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", folders[0])


def test_import_converts_to_a_given_type(
    folders: tuple[Path, Path], forked: Callable, tmp_path: Path
) -> None:
    forked(import_in_fork, folders[0], tmp_path / "nemo", "bfloat16")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    write_granite(tmp_path / "expected", torch.bfloat16)
    assert_same_tensors(tmp_path / "back", tmp_path / "expected")


def test_nemo_imports_by_url(folders: tuple[Path, Path], forked: Callable, tmp_path: Path) -> None:
    forked(import_through_nemo, folders[0], tmp_path / "nemo")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", folders[0])


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_parallel_ranks_give_the_same_export(
    tensor: int, pipeline: int, folders: tuple[Path, Path], forked: Callable, tmp_path: Path
) -> None:
    forked(
        save_in_parallel,
        folders[1],
        tmp_path / "nemo",
        tensor,
        pipeline,
        tmp_path / "live",
        world_size=2,
    )
    assert {file.name[:4] for file in (tmp_path / "nemo" / "weights").glob("*.distcp")} == {
        "__0_",
        "__1_",
    }
    export_hf(tmp_path / "nemo", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", folders[0])
    # as written from the ranks' memory
    assert_same_tensors(tmp_path / "live", folders[0])


def test_training_starts_from_an_import_and_its_checkpoint_is_exported(
    folders: tuple[Path, Path], forked: Callable, tmp_path: Path
) -> None:
    trained = Path(forked(train_one_step, folders[1], tmp_path / "runs"))
    assert b"optimizer.state" in (trained / "weights" / ".metadata").read_bytes()
    export_hf(trained, tmp_path / "back")
    assert_same_tensors(tmp_path / "back", folders[0])


def test_transformers_loads_an_export_without_a_warning(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_hf(folders[1], tmp_path / "back", max_shard_bytes=100_000)
    assert len(list(tmp_path.glob("back/model-*-of-*.safetensors"))) > 1
    transformers.utils.logging.enable_propagation()
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        model, report = AutoModelForCausalLM.from_pretrained(
            tmp_path / "back", output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    transformers.utils.logging.disable_propagation()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not any(report.values()), report
    generated = model.generate(
        **tokenizer("w5 w6 w7", return_tensors="pt"), max_new_tokens=5, min_new_tokens=5
    )
    assert generated.shape == (1, 8)


def test_padded_vocabulary_rows_are_dropped(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[1], tmp_path / "nemo")
    model_yaml = tmp_path / "nemo" / "context" / "model.yaml"
    model_yaml.write_text(
        model_yaml.read_text().replace(f"vocab_size: {VOCAB_SIZE}", "vocab_size: 310")
    )
    write_tokenizer(tmp_path / "nemo" / "context" / "nemo_tokenizer", tokens=310)
    export_hf(tmp_path / "nemo", tmp_path / "back")
    embedding = load_tensors(tmp_path / "back")["model.embed_tokens.weight"]
    assert torch.equal(embedding, load_tensors(folders[0])["model.embed_tokens.weight"][:310])
