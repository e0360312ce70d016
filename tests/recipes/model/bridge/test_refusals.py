"""What the bridge refuses, and that it leaves nothing half-written; how much memory an export
takes.
"""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from recipes.common.errors import UserError
from recipes.model.bridge import torch_dist
from recipes.model.bridge.mapping import Weight, weights
from recipes.model.bridge.to_hf import Shard, export_hf
from recipes.model_folder.config import model_config
from tests.helpers.bridge_folders import SMALL, write_granite, write_tokenizer

pytestmark = pytest.mark.slow


def import_in_fork(source: Path, output: Path) -> None:
    from recipes.model.bridge.from_hf import import_hf

    import_hf(source, output)


def refused_import(source: Path, output: Path) -> str:
    try:
        import_in_fork(source, output)
    except UserError as error:
        return str(error)
    return "imported"


def import_on_full_disk(source: Path, output: Path) -> str:
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0)  # type: ignore[assignment]
    return refused_import(source, output)


@pytest.fixture(scope="module")
def imported(forked: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("refusals")
    write_granite(base / "hf")
    forked(import_in_fork, base / "hf", base / "nemo")
    return base / "hf", base / "nemo"


@pytest.fixture
def hf(imported: tuple[Path, Path], tmp_path: Path) -> Path:
    """A Hugging Face folder that a test may damage."""
    return Path(shutil.copytree(imported[0], tmp_path / "hf"))


@pytest.fixture
def nemo(imported: tuple[Path, Path], tmp_path: Path) -> Path:
    """A NeMo 2 checkpoint that a test may damage."""
    return Path(shutil.copytree(imported[1], tmp_path / "nemo"))


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def largest(folder: Path) -> Path:
    return max((folder / "weights").glob("*.distcp"), key=lambda file: file.stat().st_size)


def zero_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)


DAMAGED_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "nemo: not found"),
    "no weights": (lambda nemo: shutil.rmtree(nemo / "weights"), "weights: not found"),
    "no context": (lambda nemo: shutil.rmtree(nemo / "context"), "context: not found"),
    "no model.yaml": (
        lambda nemo: (nemo / "context" / "model.yaml").unlink(),
        "model.yaml: not found",
    ),
    "damaged model.yaml": (
        lambda nemo: (nemo / "context" / "model.yaml").write_text("{"),
        "model.yaml: damaged",
    ),
    "cut model.yaml": (
        lambda nemo: cut(nemo / "context" / "model.yaml", 100),
        "model.yaml: damaged",
    ),
    "other model": (
        lambda nemo: edit(nemo / "context" / "model.yaml", "  residual_multiplier: 0.7\n", ""),
        "no number for residual_multiplier",
    ),
    "other shape": (
        lambda nemo: edit(
            nemo / "context" / "model.yaml", "ffn_hidden_size: 96", "ffn_hidden_size: 97"
        ),
        "mlp.linear_fc1.weight has shape (4, 192, 64), but the context's model.yaml asks for (4, "
        "194, 64)",
    ),
    "more layers": (
        lambda nemo: edit(nemo / "context" / "model.yaml", "num_layers: 4", "num_layers: 5"),
        "asks for (5, 64)",
    ),
    "no tokenizer": (
        lambda nemo: shutil.rmtree(nemo / "context" / "nemo_tokenizer"),
        "nemo_tokenizer/tokenizer.json: no such file",
    ),
    "large tokenizer": (
        lambda nemo: write_tokenizer(nemo / "context" / "nemo_tokenizer", tokens=321),
        "has ids up to 320 but the model only 320 rows",
    ),
    "zarr": (
        lambda nemo: edit(nemo / "weights" / "metadata.json", "torch_dist", "zarr"),
        "the format is 'zarr'",
    ),
    "no metadata.json": (
        lambda nemo: (nemo / "weights" / "metadata.json").unlink(),
        "metadata.json: not found",
    ),
    "cut metadata.json": (
        lambda nemo: cut(nemo / "weights" / "metadata.json", 9),
        "metadata.json: damaged",
    ),
    "no .metadata": (
        lambda nemo: (nemo / "weights" / ".metadata").unlink(),
        ".metadata: not found",
    ),
    "cut .metadata": (lambda nemo: cut(nemo / "weights" / ".metadata", 500), ".metadata: damaged"),
    "empty .metadata": (lambda nemo: cut(nemo / "weights" / ".metadata", 0), ".metadata: damaged"),
    "missing .distcp": (lambda nemo: largest(nemo).unlink(), ".distcp: not found"),
    "cut .distcp": (
        lambda nemo: cut(largest(nemo), largest(nemo).stat().st_size - 1),
        ".distcp: cut short",
    ),
    "damaged .distcp": (lambda nemo: zero_middle(largest(nemo)), ".distcp: damaged at"),
}


@pytest.mark.parametrize("case", DAMAGED_CHECKPOINTS)
def test_export_refuses_what_is_not_a_whole_checkpoint(
    case: str, nemo: Path, tmp_path: Path
) -> None:
    damage, message = DAMAGED_CHECKPOINTS[case]
    damage(nemo)
    with pytest.raises(UserError) as refusal:
        export_hf(nemo, tmp_path / "out")
    assert message in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"hf", "nemo"}


class Evil:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.proof}",)


def test_metadata_cannot_run_code(nemo: Path, tmp_path: Path) -> None:
    (nemo / "weights" / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "proof")))
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        export_hf(nemo, tmp_path / "out")
    assert not (tmp_path / "proof").exists()


def test_tensors_cannot_run_code(nemo: Path, tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "proof"), tmp_path / "evil")
    shutil.move(tmp_path / "evil", nemo / "weights" / "evil.distcp")
    with (nemo / "weights" / ".metadata").open("rb") as file:
        metadata = torch_dist._MetadataUnpickler(file).load()
    del metadata.all_local_plans
    place = metadata.storage_data[
        MetadataIndex("module.decoder.final_layernorm.weight", torch.Size([0]))
    ]
    place.relative_path, place.offset = "evil.distcp", 0
    place.length = (nemo / "weights" / "evil.distcp").stat().st_size
    (nemo / "weights" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(
        UserError, match=r"evil.distcp: damaged at decoder.final_layernorm.weight \(Weights only"
    ):
        export_hf(nemo, tmp_path / "out")
    assert not (tmp_path / "proof").exists()


def test_metadata_cannot_name_files_elsewhere(nemo: Path, tmp_path: Path) -> None:
    name = largest(nemo).name
    shutil.move(largest(nemo), nemo / name)
    metadata = nemo / "weights" / ".metadata"
    content = metadata.read_bytes()
    # same length: the pickle stays whole
    other = "../" + "x" * (len(name) - 3)
    assert name.encode() in content
    metadata.write_bytes(content.replace(name.encode(), other.encode()))
    (nemo / name).rename(nemo / Path(other).name)
    with pytest.raises(UserError, match=r"weights/x+: not found"):
        export_hf(nemo, tmp_path / "out")


def test_export_keeps_an_existing_folder(nemo: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="out: exists already"):
        export_hf(nemo, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_export_asks_for_space_before_it_writes(
    nemo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    needed = 4 * sum(weight.elements for weight in weights(model_config(SMALL, tmp_path)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(UserError, match=r"needs 0\.00 GB"):
        export_hf(nemo, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    export_hf(nemo, tmp_path / "new" / "out")


def test_export_on_a_disk_that_fills_up_leaves_nothing(
    nemo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Shard, file: object, source: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Shard, "write", full)
    with pytest.raises(UserError, match="no space left"):
        export_hf(nemo, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["nemo"]


def test_a_killed_export_is_not_there(nemo: Path, tmp_path: Path) -> None:
    script = """
import logging, os, sys
from pathlib import Path
from recipes.model.bridge.to_hf import export_hf

class KillAtSecondFile(logging.Handler):
    def emit(self, record):
        if "model-00002" in record.getMessage():
            os.kill(os.getpid(), 9)

logging.getLogger("recipes").setLevel(logging.INFO)
logging.getLogger("recipes").addHandler(KillAtSecondFile())
export_hf(Path(sys.argv[1]), Path(sys.argv[2]), max_shard_bytes=100_000)
"""
    killed = subprocess.run([sys.executable, "-c", script, nemo, tmp_path / "out"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*.partial/model-00002-of-*.safetensors"))


def test_a_refused_import_leaves_nothing(hf: Path, forked: Callable, tmp_path: Path) -> None:
    assert "but has 0.00 GB free" in forked(import_on_full_disk, hf, tmp_path / "out")
    write_tokenizer(hf, tokens=400)
    assert "has ids up to 399" in forked(refused_import, hf, tmp_path / "out")
    write_tokenizer(hf)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "mine: exists already" in forked(refused_import, hf, tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "mine"}


def test_export_takes_the_memory_of_its_largest_tensor(forked: Callable, tmp_path: Path) -> None:
    fields = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 5,
        "vocab_size": 4096,
    }
    model = write_granite(tmp_path / "hf", **fields)
    model_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    del model
    forked(import_in_fork, tmp_path / "hf", tmp_path / "nemo")
    script = """
import sys
from pathlib import Path
# imported by the export itself otherwise, and no part of what a tensor takes
from transformers import AutoTokenizer
from recipes.model.bridge.to_hf import export_hf
from tests.helpers.memory import memory, reset_peak

before = memory("VmRSS")
reset_peak()
export_hf(Path(sys.argv[1]), Path(sys.argv[2]), max_shard_bytes=30_000_000)
print(memory("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "nemo", tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
    )
    largest_tensor = 4 * 2 * 4096 * 1024  # gate and up together, one tensor in Megatron
    assert model_bytes > 300_000_000
    assert int(done.stdout) < 3 * largest_tensor < model_bytes / 3


def test_merge_is_the_inverse_of_split() -> None:
    weight = Weight("qkv", 0, {"q": (12, 5), "k": (4, 5), "v": (4, 5)}, groups=2)
    tensor = torch.arange(100.0).view(20, 5)
    query, key, value = weight.split(tensor)
    assert torch.equal(query, torch.cat([tensor[0:6], tensor[10:16]]))
    assert torch.equal(key, torch.cat([tensor[6:8], tensor[16:18]]))
    assert torch.equal(value, torch.cat([tensor[8:10], tensor[18:20]]))
    assert torch.equal(weight.merge([query, key, value]), tensor)
