"""Merges are mergekit's on the same inputs: those it wrote once, kept here, and where it is
installed those it writes.

``MERGEKIT`` names the ``mergekit-yaml`` of an environment of its own (``pip install mergekit==0.1.4
transformers==4.51.3``). To write the kept files anew, run this module with it as the only argument.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.merging.merge import merge
from tests.helpers.bridge_folders import write_granite

pytestmark = pytest.mark.slow

KEPT = Path(__file__).parent / "mergekit"
FILE = "model.safetensors"
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
PARENTS = ("a", "b", "base")
WEIGHTS = {"linear": (0.3, 0.7), "slerp": (0.3, 0.7), "task": (0.5, 0.8)}
RECIPES = {
    "linear": """
merge_method: linear
models:
- {model: a, parameters: {weight: 0.3}}
- {model: b, parameters: {weight: 0.7}}
dtype: float32
""",
    "slerp": """
merge_method: slerp
base_model: a
models:
- {model: a}
- {model: b}
parameters: {t: 0.7}
dtype: float32
""",
    "task": """
merge_method: task_arithmetic
base_model: base
models:
- {model: a, parameters: {weight: 0.5}}
- {model: b, parameters: {weight: 0.8}}
parameters: {normalize: false}
dtype: float32
""",
}


def write_parents(folder: Path) -> None:
    """Write three models; their tensors are those that are kept."""
    for name in PARENTS:
        write_granite(folder / name, **SHAPE)
        kept = KEPT / f"{name}.safetensors"
        if kept.exists():
            (folder / name / FILE).write_bytes(kept.read_bytes())


def run_mergekit(program: str, folder: Path, method: str) -> dict[str, torch.Tensor]:
    """Have mergekit merge the parents in ``folder``."""
    # a relative path is looked up on the Hub
    (folder / f"{method}.yaml").write_text(RECIPES[method].replace("model: ", f"model: {folder}/"))
    words = [program, f"{method}.yaml", f"mergekit_{method}"]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / f"mergekit_{method}" / FILE)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parents")
    write_parents(folder)
    return folder


def assert_equal_to(
    theirs: dict[str, torch.Tensor], parents: Path, method: str, output: Path
) -> None:
    base = parents / "base" if method == "task" else None
    merge(method, [parents / "a", parents / "b"], WEIGHTS[method], output, base=base)
    ours = load_file(output / FILE)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # numbers up to 1: a few steps of fp32 by the order of the operations
        assert (tensor - theirs[name]).abs().max() <= 3e-7, name


@pytest.mark.parametrize("method", RECIPES)
def test_a_merge_is_the_one_that_mergekit_wrote(parents, tmp_path, method) -> None:
    assert_equal_to(load_file(KEPT / f"{method}.safetensors"), parents, method, tmp_path / "merged")


@pytest.mark.skipif(
    "MERGEKIT" not in os.environ,
    reason="MERGEKIT does not name a mergekit-yaml, which needs an environment of its own",
)
@pytest.mark.parametrize("method", RECIPES)
def test_a_merge_is_the_one_that_mergekit_writes(parents, tmp_path, method) -> None:
    theirs = run_mergekit(os.environ["MERGEKIT"], parents, method)
    assert_equal_to(theirs, parents, method, tmp_path / "merged")


def keep(program: str, folder: Path) -> None:
    """Write the kept files: parents with numbers of their own, and what mergekit makes of them."""
    for file in KEPT.glob("*.safetensors"):
        file.unlink()
    KEPT.mkdir(exist_ok=True)
    write_parents(folder)
    for seed, name in enumerate(PARENTS):
        torch.manual_seed(seed)
        path = folder / name / FILE
        tensors = {key: 0.1 * torch.randn(tensor.shape) for key, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        (KEPT / f"{name}.safetensors").write_bytes(path.read_bytes())
    for method in RECIPES:
        save_file(run_mergekit(program, folder, method), KEPT / f"{method}.safetensors")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        keep(sys.argv[1], Path(scratch))
