"""Merging: the formulas against hand-computed values, both kinds of checkpoints, what is refused,
the sweep.
"""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from recipes.cli.main import app
from recipes.common.errors import UserError
from recipes.merging import nemo, weighted_sum
from recipes.merging.merge import merge
from recipes.merging.sweep import SWEEP, Score, Texts, parse_sweep, sweep, text_evaluation
from recipes.merging.weighted_sum import Merge, slerp_factors
from recipes.model.bridge.mapping import Weight
from recipes.model.bridge.to_hf import export_hf
from recipes.runs.merge_manifest import MERGE_MANIFEST as MANIFEST
from tests.helpers.bridge_folders import (
    VOCAB_SIZE,
    assert_same_tensors,
    load_tensors,
    write_granite,
)
from tests.helpers.manifests import write_stage_manifest
from tests.helpers.nemo_checkpoints import (
    import_in_fork,
    logits_of_checkpoint,
    save_in_parallel,
    train_one_step,
)
from tests.helpers.tokenizer_folders import change, swap

pytestmark = pytest.mark.slow

FILE = "model.safetensors"


def shake(folder: Path, seed: int) -> None:
    """Change every number of a folder's tensors."""
    torch.manual_seed(seed)
    tensors = load_file(folder / FILE)
    for name, tensor in tensors.items():
        tensors[name] = (tensor.float() + 0.1 * torch.randn(tensor.shape)).to(tensor.dtype)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def write_three(folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write three models with their own numbers."""
    paths = [folder / name for name in "abc"]
    for seed, path in enumerate(paths):
        write_granite(path, dtype)
        shake(path, seed)
    return paths


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_three(tmp_path_factory.mktemp("models"), torch.float32)


@pytest.fixture(scope="module")
def bf16_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_three(tmp_path_factory.mktemp("bf16"), torch.bfloat16)


@pytest.fixture(scope="module")
def nemo_models(
    models: list[Path], forked: Callable, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """The first two models as NeMo checkpoints, the second one as two tensor-parallel ranks save
    it.
    """
    base = tmp_path_factory.mktemp("nemo")
    for name, source in zip("ab", models[:2], strict=True):
        forked(import_in_fork, source, base / name)
    forked(save_in_parallel, base / "b", base / "b_parallel", 2, 1, world_size=2)
    return [base / "a", base / "b_parallel"]


class Numbers:
    """A source of one tensor."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = torch.tensor(numbers)

    def dtype(self, weight: Weight) -> torch.dtype:
        return torch.float32

    def read_rows(self, weight: Weight, start: int, target: torch.Tensor) -> None:
        target.copy_(self.numbers.view(-1, target.shape[1])[start : start + len(target)])


def merged(
    method: str, factors: list[float], *sources: Numbers, shape: tuple[int, ...] = (2,)
) -> list[float]:
    with Merge(method, sources, factors) as sums:
        rows = [part.clone() for part in sums.rows(Weight("x", None, {"x": shape}))]
    return torch.cat(rows).flatten().tolist()


def test_linear_is_the_weighted_sum() -> None:
    assert merged("linear", [0.25, 0.75], Numbers(4, 8), Numbers(-4, 16)) == [-2, 14]
    assert merged("linear", [0.5, 0.25, 0.25], Numbers(1, 2), Numbers(4, 8), Numbers(8, 4)) == [
        3.5,
        4,
    ]


def test_slerp_of_perpendicular_vectors_keeps_the_arc() -> None:
    third = [math.cos(math.pi / 6), math.sin(math.pi / 6)]
    assert merged("slerp", [2 / 3, 1 / 3], Numbers(1, 0), Numbers(0, 1)) == pytest.approx(third)
    # the angle is that of the directions, the factors are of the vectors as they are
    assert merged("slerp", [2 / 3, 1 / 3], Numbers(2, 0), Numbers(0, 5)) == pytest.approx(
        [2 * third[0], 5 * third[1]]
    )


def test_slerp_at_sixty_degrees() -> None:
    # sin(45°)/sin(60°) and sin(15°)/sin(60°)
    factors = [math.sin(math.radians(angle)) / math.sin(math.radians(60)) for angle in (45, 15)]
    assert slerp_factors(0.25, 0.5, 1.0, 1.0) == pytest.approx(factors)


def test_slerp_of_nearly_parallel_vectors_is_linear() -> None:
    assert merged("slerp", [0.75, 0.25], Numbers(1, 1), Numbers(3, 3)) == [1.5, 1.5]
    assert merged("slerp", [0.75, 0.25], Numbers(1, 1), Numbers(-1, -1)) == [0.5, 0.5]
    assert slerp_factors(0.25, 0.9996, 1.0, 1.0) == (0.75, 0.25)
    assert slerp_factors(0.25, 0.9994, 1.0, 1.0) != (0.75, 0.25)


def test_slerp_counts_a_zero_vector_as_perpendicular() -> None:
    half = math.sin(math.pi / 4)
    assert merged("slerp", [0.5, 0.5], Numbers(0, 0), Numbers(3, 4)) == pytest.approx(
        [3 * half, 4 * half]
    )
    assert merged("slerp", [0.5, 0.5], Numbers(0, 0), Numbers(0, 0)) == [0, 0]


def test_slerp_takes_the_whole_matrix_as_one_vector() -> None:
    # row by row the two would be parallel; as a whole they are perpendicular
    half = math.sin(math.pi / 4)
    found = merged("slerp", [0.5, 0.5], Numbers(1, 1, 1, 1), Numbers(1, 1, -1, -1), shape=(2, 2))
    assert found == pytest.approx([2 * half, 2 * half, 0, 0])


def test_task_adds_what_the_parents_learned(models: list[Path], tmp_path: Path) -> None:
    merge("task", models[:2], [0.5, -1.25], tmp_path / "out", base=models[2])
    a, b, base = (load_tensors(path) for path in models)
    for name, tensor in load_tensors(tmp_path / "out").items():
        origin = base[name].double()
        expected = origin + 0.5 * (a[name].double() - origin) - 1.25 * (b[name].double() - origin)
        assert (tensor - expected).abs().max() < 1e-6, name


@pytest.mark.parametrize("chunk", [100, 2**18])
def test_hugging_face_folders_are_summed_in_fp32(
    chunk: int, bf16_models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_sum, "CHUNK_ELEMENTS", chunk)
    merge("linear", bf16_models, [0.2, 0.3, 0.5], tmp_path / "out")
    a, b, c = (load_tensors(path) for path in bf16_models)
    for name, tensor in load_tensors(tmp_path / "out").items():
        expected = 0.2 * a[name].float() + 0.3 * b[name].float() + 0.5 * c[name].float()
        # a sum between two numbers of bf16 may fall on either side
        assert tensor.dtype == torch.bfloat16
        assert (tensor != expected.bfloat16()).float().mean() < 0.01, name
        assert torch.allclose(tensor.float(), expected, rtol=2**-7, atol=1e-6), name
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.vocab_size == VOCAB_SIZE
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        bf16_models[0] / "tokenizer.json"
    ).read_bytes()


def test_a_repeated_embedding_is_merged_with_it(models: list[Path], tmp_path: Path) -> None:
    parents = []
    for path in models[:2]:
        parents.append(Path(shutil.copytree(path, tmp_path / path.name)))
    # the second parent may do without
    tensors = load_tensors(parents[0])
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, parents[0] / FILE, metadata={"format": "pt"})
    merge("linear", parents, [0.5, 0.5], tmp_path / "out")
    found = load_tensors(tmp_path / "out")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert not torch.equal(found["lm_head.weight"], tensors["lm_head.weight"])


def test_a_merge_keeps_the_files_of_its_first_parent(models: list[Path], tmp_path: Path) -> None:
    first = Path(shutil.copytree(models[0], tmp_path / "first"))
    (first / "additional_chat_templates").mkdir()
    names = ("generation_config.json", "chat_template.jinja", "additional_chat_templates/a.jinja")
    for name in names:
        (first / name).write_text('{"temperature": 0.6}')
    merge("linear", [first, models[1]], [0.5, 0.5], tmp_path / "out")
    for name in names:
        assert (tmp_path / "out" / name).read_text() == '{"temperature": 0.6}'


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_weights_one_and_zero_give_back_a_parent(
    method: str, bf16_models: list[Path], tmp_path: Path
) -> None:
    merge(method, bf16_models[:2], [1, 0], tmp_path / "first")
    merge(method, bf16_models[:2], [0, 1], tmp_path / "second")
    for name, parent in zip(("first", "second"), bf16_models[:2], strict=True):
        assert (tmp_path / name / FILE).read_bytes() == (parent / FILE).read_bytes()


def test_several_files_stay_as_they_are(models: list[Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(models[0])
    model.save_pretrained(tmp_path / "split", max_shard_size="200KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 2
    merge("slerp", [tmp_path / "split", models[1]], [0.4, 0.6], tmp_path / "out")
    merge("slerp", [models[0], models[1]], [0.4, 0.6], tmp_path / "whole")
    assert_same_tensors(tmp_path / "out", tmp_path / "whole")
    names = {path.name for path in (tmp_path / "out").iterdir()} - {MANIFEST}
    assert names == {path.name for path in (tmp_path / "split").iterdir()}


def test_manifest(models: list[Path], tmp_path: Path) -> None:
    stage = tmp_path / "phase1"
    shutil.copytree(models[1], stage / "hf")
    write_stage_manifest(stage, checkpoint="checkpoints/step=7", tokens=99)
    for name in ("one", "two"):
        merge("linear", [models[0], stage / "hf"], [0.5, 0.5], tmp_path / name)
    found = json.loads((tmp_path / "one" / MANIFEST).read_text())
    assert (tmp_path / "two" / MANIFEST).read_text() == (tmp_path / "one" / MANIFEST).read_text()
    assert found["method"] == "linear" and found["weights"] == [0.5, 0.5] and found["base"] is None
    assert found["tensors"] == len(load_tensors(models[0])) and found["dtypes"] == ["float32"]
    assert [parent["path"] for parent in found["parents"]] == [str(models[0]), str(stage / "hf")]
    assert found["parents"][0]["stage"] is None
    assert {name: found["parents"][1][name] for name in ("stage", "tokens", "checkpoint")} == {
        "stage": "phase1",
        "tokens": 99,
        "checkpoint": "step=7",
    }
    assert set(found["parents"][0]["sha256"]) == {"config.json", f"{FILE}, header"}


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_nemo_checkpoints_merge_into_one_that_nemo_loads(
    method: str,
    models: list[Path],
    nemo_models: list[Path],
    forked: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # small, so that chunks and pieces end inside of tensors
    monkeypatch.setattr(nemo, "PIECE_CHUNKS", 5)
    monkeypatch.setattr(weighted_sum, "CHUNK_ELEMENTS", 1000)
    merge(method, nemo_models, [0.3, 0.7], tmp_path / "nemo")
    merge(method, models[:2], [0.3, 0.7], tmp_path / "hf")
    export_hf(tmp_path / "nemo", tmp_path / "back")
    for name, tensor in load_tensors(tmp_path / "back").items():
        assert torch.allclose(tensor, load_tensors(tmp_path / "hf")[name], rtol=0, atol=1e-6), name
    ids = torch.randint(VOCAB_SIZE, (2, 48))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(ids).logits.numpy()
    found = forked(logits_of_checkpoint, tmp_path / "nemo", ids.numpy())
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert json.loads((tmp_path / "nemo" / MANIFEST).read_text())["optimizer_state"].startswith(
        "dropped"
    )


def test_training_starts_from_a_merge_of_checkpoints_with_optimizer_state(
    models: list[Path], nemo_models: list[Path], forked: Callable, tmp_path: Path
) -> None:
    trained = Path(forked(train_one_step, nemo_models[0], tmp_path / "first"))
    merge("linear", [trained, nemo_models[1]], [0, 1], tmp_path / "merged")
    assert b"optimizer" not in (tmp_path / "merged" / "weights" / ".metadata").read_bytes()
    again = Path(forked(train_one_step, tmp_path / "merged", tmp_path / "second"))
    export_hf(again, tmp_path / "back")
    assert_same_tensors(tmp_path / "back", models[1])


def test_finished_stages_are_merged(
    models: list[Path], nemo_models: list[Path], tmp_path: Path
) -> None:
    stages = []
    for name, checkpoint in zip(("phase3", "phase4"), nemo_models, strict=True):
        stages.append(tmp_path / name)
        shutil.copytree(checkpoint, tmp_path / name / "checkpoints" / "step=3")
        write_stage_manifest(tmp_path / name, stage=name, checkpoint="checkpoints/step=3", tokens=5)
    merge("linear", stages, [1, 0], tmp_path / "out")
    export_hf(tmp_path / "out", tmp_path / "back")
    assert_same_tensors(tmp_path / "back", models[0])
    parents = json.loads((tmp_path / "out" / MANIFEST).read_text())["parents"]
    assert [(parent["stage"], parent["tokens"], parent["checkpoint"]) for parent in parents] == [
        ("phase3", 5, "step=3"),
        ("phase4", 5, "step=3"),
    ]


def test_long_context_stages_may_change_theta_and_length(
    models: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_granite(tmp_path / "long", rope_theta=5e7, max_position_embeddings=256)
    merge("linear", [tmp_path / "long", models[0]], [0.5, 0.5], tmp_path / "out")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 256
    )
    warning = "rope_theta is 50000000.0 and 10000000.0; the merge gets 50000000.0"
    assert caplog.messages[0].startswith(warning)


WORDS: dict[str, tuple[list, str]] = {
    "sum": (
        ["linear", 2, [0.5, 0.6], None],
        "--weights: 0.5 0.6 sum to 1.1, but linear needs a sum of 1",
    ),
    "sum of slerp": (["slerp", 2, [0.5, 0.4], None], "sum to 0.9"),
    "slightly off": (["linear", 2, [0.5, 0.50001], None], "sum to 1.00001"),
    "too few weights": (["linear", 3, [0.5, 0.5], None], "--weights: 2 given for 3 parents"),
    "one parent": (
        ["linear", 1, [1.0], None],
        "--parents: 1 given, but a merge needs at least two",
    ),
    "nan": (["task", 2, [math.nan, 0.5], "base"], "nan 0.5 has a weight that is not finite"),
    "infinite": (["task", 2, [math.inf, 0.5], "base"], "inf 0.5 has a weight that is not finite"),
    "slerp of three": (["slerp", 3, [0.2, 0.3, 0.5], None], "slerp merges exactly two"),
    "slerp beyond": (["slerp", 2, [-0.5, 1.5], None], "leads beyond the parents"),
    "task without base": (["task", 2, [0.5, 0.5], None], "--base: missing"),
    "base without task": (["linear", 2, [0.5, 0.5], "base"], "--base: linear has no base"),
    "method": (
        ["lerp", 2, [0.5, 0.5], None],
        "--method lerp: not one of linear, slerp, task (did you mean 'slerp'?)",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_refused_before_a_parent_is_read(case: str, tmp_path: Path) -> None:
    (method, parents, weights, base), message = WORDS[case]
    paths = [tmp_path / str(number) for number in range(parents)]
    with pytest.raises(UserError) as refusal:
        merge(method, paths, weights, tmp_path / "out", base=tmp_path / base if base else None)
    assert message in str(refusal.value)
    assert not list(tmp_path.iterdir())


def without(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        del tensors[name]
        save_file(tensors, folder / FILE, metadata={"format": "pt"})

    return remove


def with_nan(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    tensors["model.norm.weight"][3] = math.nan
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def another(dtype: torch.dtype = torch.float32, **fields: object) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        shutil.rmtree(folder)
        write_granite(folder, dtype, **fields)

    return rewrite


PARENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "second: not a checkpoint"),
    "other width": (
        another(intermediate_size=128, num_hidden_layers=3),
        "first: intermediate_size 128 for 96, num_hidden_layers 3 for 4;",
    ),
    "other multiplier": (another(residual_multiplier=0.5), "residual_multiplier 0.5 for 0.7"),
    "other type": (
        another(torch.bfloat16),
        "model.embed_tokens.weight is torch.bfloat16, but torch.float32 in",
    ),
    "tensor missing": (
        without("model.layers.2.mlp.up_proj.weight"),
        "lacks the tensor model.layers.2.mlp.up_proj.weight",
    ),
    "truncated": (
        lambda folder: os.truncate(folder / FILE, 200_000),
        "model.safetensors: damaged or cut short",
    ),
    "damaged header": (
        lambda folder: (folder / FILE).write_bytes(b"x" * 1000),
        "model.safetensors: damaged",
    ),
    "other ids": (
        lambda folder: swap(folder, "w5", "w6"),
        "second: has another tokenizer than ",
    ),
    "other end of text": (
        lambda folder: change(folder, "tokenizer_config.json", eos_token="<pad>"),
        "first: its eos_token is '<pad>' (1) in place of '<end>' (2); merge models that",
    ),
    "damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "second/tokenizer.json: is not valid JSON",
    ),
    "not finite": (
        with_nan,
        "model.norm.weight: the merge is not finite in torch.float32; a parent has NaN",
    ),
}


@pytest.mark.parametrize("case", PARENTS)
@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_refused_parents_leave_nothing(
    case: str, method: str, models: list[Path], tmp_path: Path
) -> None:
    damage, message = PARENTS[case]
    first, second = (
        shutil.copytree(path, tmp_path / name)
        for name, path in zip(("first", "second"), models, strict=False)
    )
    damage(second)
    with pytest.raises(UserError) as refusal:
        merge(method, [first, second], [0.5, 0.5], tmp_path / "out")
    assert message in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"first", "second"}


def test_nemo_parents_of_other_tokenizers_are_refused(
    nemo_models: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(nemo_models[1], tmp_path / "other")
    swap(other / "context" / "nemo_tokenizer", "w5", "w6")
    with pytest.raises(UserError, match="2 of its tokens have other ids, such as 'w5' with 6"):
        merge("linear", [nemo_models[0], other], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_parent_without_a_tokenizer_is_merged_and_named(
    models: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = shutil.copytree(models[1], tmp_path / "other")
    for file in other.glob("*token*"):
        file.unlink()
    merge("linear", [models[0], other], [0.5, 0.5], tmp_path / "out")
    assert f"{other}: has no tokenizer.json" in caplog.text


def test_mixed_kinds_are_refused(
    models: list[Path], nemo_models: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is a NeMo checkpoint, but .*a a Hugging Face folder"):
        merge("linear", [models[0], nemo_models[1]], [0.5, 0.5], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_damaged_nemo_checkpoints_are_refused(nemo_models: list[Path], tmp_path: Path) -> None:
    second = shutil.copytree(nemo_models[1], tmp_path / "second")
    largest = max((second / "weights").glob("*.distcp"), key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])
    with pytest.raises(UserError, match=r"\.distcp: damaged at"):
        merge("linear", [nemo_models[0], second], [0.5, 0.5], tmp_path / "out")
    os.truncate(largest, 1000)
    with pytest.raises(UserError, match=r"\.distcp: cut short at 1000 bytes"):
        merge("linear", [nemo_models[0], second], [0.5, 0.5], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_an_existing_output_stays(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="out: exists already"):
        merge("linear", models[:2], [0.5, 0.5], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


class FullDisk:
    """A binary file that takes so many bytes."""

    def __init__(self, path: Path, space: int) -> None:
        self.file, self.space = path.open("wb"), space

    def write(self, content: bytes) -> int:
        self.space -= len(content)
        if self.space < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


@pytest.mark.parametrize("kind", ["hf", "nemo"])
def test_a_disk_that_fills_up_leaves_nothing(
    kind: str,
    models: list[Path],
    nemo_models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Path.open

    def opened(self: Path, mode: str = "r", **options: object) -> object:
        if mode == "wb" and self.suffix in (".safetensors", ".distcp"):
            monkeypatch.setattr(Path, "open", real)
            return FullDisk(self, 50_000)
        return real(self, mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UserError, match="out: no space left on the device, nothing was kept"):
        merge("linear", models[:2] if kind == "hf" else nemo_models, [0.5, 0.5], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_space_is_asked_for_before_writing(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs 0\.00 GB"):
        merge("linear", models[:2], [0.5, 0.5], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    write_granite(
        tmp_path / "a",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=3,
        vocab_size=16384,
    )
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    size = (tmp_path / "a" / FILE).stat().st_size
    script = """
import sys
from pathlib import Path
from recipes.merging.merge import merge
from tests.helpers.memory import memory, reset_peak

before = memory("VmRSS")
reset_peak()
first, second, output = map(Path, sys.argv[1:])
merge("slerp", [first, second], [0.5, 0.5], output)
print(memory("VmHWM") - before)
"""
    words = [sys.executable, "-c", script, tmp_path / "a", tmp_path / "b", tmp_path / "out"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100e6 < size / 2


def test_sweep_weights() -> None:
    assert parse_sweep("0.1..0.9") == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert parse_sweep("0.1..0.9:0.1") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert parse_sweep("0..1:0.5") == [0, 0.5, 1]
    for text in (
        "0.1",
        "0.9..0.1",
        "0..2",
        "0..1:0",
        "0..1:-1",
        "0..1:1e-6",
        "a..b",
        "0..1:nan",
        "nan..1",
    ):
        with pytest.raises(UserError, match="--sweep"):
            parse_sweep(text)


def weight_of(folder: Path, models: list[Path]) -> float:
    """Return the second parent's weight, read off the tensors."""
    a, b, found = (
        load_tensors(path)["model.norm.weight"][0].item() for path in (*models[:2], folder)
    )
    return round((found - a) / (b - a), 4)


def test_sweep_picks_the_best_long_score_that_keeps_the_short_one(
    models: list[Path], tmp_path: Path
) -> None:
    def evaluate(folder: Path) -> Score:
        weight = weight_of(folder, models)
        return Score(short=2 + 0.1 * weight, long=3 - weight)

    sweep("linear", models[:2], [0.1, 0.2, 0.3, 0.4], tmp_path / "out", evaluate, bound=0.012)
    found = json.loads((tmp_path / "out" / SWEEP).read_text())
    assert found["short_limit"] == pytest.approx(2.024)
    assert found["pick"] == [0.8, 0.2]
    assert [row.get("weights") for row in found["rows"]] == [
        None,
        None,
        [0.9, 0.1],
        [0.8, 0.2],
        [0.7, 0.3],
        [0.6, 0.4],
    ]
    assert [row["short"] for row in found["rows"][:2]] == [2.0, 2.1]
    assert weight_of(tmp_path / "out", models) == 0.2
    assert not (tmp_path / "out" / "candidate").exists()


def test_sweep_of_nemo_checkpoints_is_evaluated_as_hugging_face(
    models: list[Path], nemo_models: list[Path], tmp_path: Path
) -> None:
    sweep(
        "linear",
        nemo_models,
        [0.5],
        tmp_path / "out",
        lambda folder: Score(1, weight_of(folder, models)),
    )
    assert [row["long"] for row in json.loads((tmp_path / "out" / SWEEP).read_text())["rows"]] == [
        0,
        1,
        0.5,
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "context",
        "weights",
        MANIFEST,
        SWEEP,
    }


def test_sweep_without_a_merge_in_the_bound_leaves_nothing(
    models: list[Path], tmp_path: Path
) -> None:
    def evaluate(folder: Path) -> Score:
        return Score(short=2 if folder in models else 3, long=1)

    with pytest.raises(
        UserError,
        match=r"no merge keeps the short-context loss within 2\.0200, the lowest has 3\.0000",
    ):
        sweep("linear", models[:2], [0.5], tmp_path / "out", evaluate)
    with pytest.raises(UserError, match="exactly two"):
        sweep("linear", models, [0.5], tmp_path / "out", evaluate)
    assert not list(tmp_path.iterdir())


def test_texts_are_evaluated_as_transformers_does(models: list[Path], tmp_path: Path) -> None:
    documents = [
        " ".join(f"w{(7 * number * step) % 300 + 3}" for number in range(60)) for step in (1, 5)
    ]
    evaluate = text_evaluation(Texts("short", documents), Texts("long", [" ".join(documents)]))
    score = evaluate(models[0])
    model = AutoModelForCausalLM.from_pretrained(models[0])
    ids = [torch.tensor([[int(word[1:]) for word in text.split()]]) for text in documents]
    with torch.no_grad():
        losses = [model(part, labels=part).loss.item() for part in ids]
        joined = torch.cat(ids, dim=1)
        labels = joined.clone()
        labels[:, :90] = -100
        long = model(joined, labels=labels).loss.item()
    assert score.short == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert score.long == pytest.approx(long, rel=1e-5)


def test_command_line(models: list[Path], tmp_path: Path) -> None:
    parents = ["merge", "--parents", *map(str, models[:2])]
    words = [
        *parents,
        "--method",
        "slerp",
        "--weights",
        "0.5",
        "0.5",
        "--output",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["weights"] == [0.5, 0.5]
    (tmp_path / "text.txt").write_text(" ".join(f"w{number}" for number in range(3, 90)))
    line = json.dumps({"text": (tmp_path / "text.txt").read_text()})
    (tmp_path / "text.jsonl").write_text(f"{line}\n" * 2)
    texts = ["--short", str(tmp_path / "text.jsonl"), "--long", str(tmp_path / "text.txt")]
    words = [
        *parents,
        "--method",
        "linear",
        "--sweep",
        "0..1:1",
        *texts,
        "--output",
        str(tmp_path / "swept"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "swept" / SWEEP).read_text())["rows"]) == 4
    (tmp_path / "empty.txt").write_text("")
    empty = ["--short", str(tmp_path / "empty.txt"), *texts[2:]]
    for wrong in (
        [],
        ["--sweep", "0..1"],
        ["--sweep", "0..1", *empty],
        ["--weights", "1", "0", "--sweep", "0..1", *texts],
    ):
        refused = CliRunner().invoke(
            app, [*parents, "--method", "linear", *wrong, "--output", str(tmp_path / "no")]
        )
        assert isinstance(refused.exception, UserError)
