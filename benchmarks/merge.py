"""``granite41 merge`` against mergekit and against a plain copy of the bytes that a merge reads and
writes.

    python benchmarks/merge.py --mergekit PYTHON [--params 3e9] [--rounds 3] [--scratch FOLDER]

Method: two Granite models with random bf16 weights, as Hugging Face folders with files of at most 5
GB; at 3e9 parameters they have the 3b's shape, below it their widths, layers and vocabulary shrink
alike. A contestant is a whole process, from its start to its end; ``os.sync`` goes before, and its
output is removed afterwards:

- ``granite41 merge``, linear with weights 0.3 0.7 and slerp with t = 0.7: arithmetic in fp32,
result in bf16;
- ``mergekit-yaml`` of mergekit 0.1.4 with the same, ``dtype: bfloat16``, in an environment of its
  own, as it asks for other versions (``pip install mergekit==0.1.4 transformers==4.51.3``; name its
  interpreter). Without it, not measured;
- a copy: one model is copied by ``shutil.copyfile``, the other one is read, so that it reads and
writes what they do.

They run in turn, ``--rounds`` times; medians are printed. Memory is the largest process of any
round (the kernel's high-water mark of resident memory, as wait4 gives it; what makes the models and
compares them runs elsewhere, as a child's mark begins with its parent's memory). The difference is
the largest between two numbers of the outputs.

Compared once on one small model and kept here: mergekit's linear rounds to bf16 after each
operation, which differs from this project's by up to 7.8e-3 at numbers up to 1.6 (a step of bf16
there), in 35 % of the numbers; told to compute in fp32 (``dtype: float32, out_dtype: bfloat16``) in
0.16 %, by one step where the sum lies between two. Its slerp
needs_gpu in fp32: 0.007 % differ by one step. On fp32 models both, and task_arithmetic, agree to
    2.4e-7.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cli import report
from tokenization import run

from recipes.spec.sizes import SIZES

T = 0.7
SHARD_BYTES = 5 * 10**9
COPY = """
import shutil, sys
from pathlib import Path
read, copied, target = map(Path, sys.argv[1:])
target.mkdir()
for file in read.iterdir():
    with file.open("rb", buffering=0) as stream:
        buffer = bytearray(2**20)
        while stream.readinto(buffer):
            pass
for file in copied.iterdir():
    shutil.copyfile(file, target / file.name)
"""
MERGEKIT = {
    "linear": """
merge_method: linear
models:
- {{model: {a}, parameters: {{weight: {first}}}}}
- {{model: {b}, parameters: {{weight: {second}}}}}
dtype: bfloat16
""",
    "slerp": """
merge_method: slerp
base_model: {a}
models:
- {{model: {a}}}
- {{model: {b}}}
parameters: {{t: {second}}}
dtype: bfloat16
""",
}


def config_of(params: float) -> dict:
    """Return the config of a model with about ``params`` parameters in the 3b's proportions, at
    most the 3b's.
    """
    size = SIZES["3b"]
    part = min(1.0, params / size.parameter_count.value) ** (1 / 3)
    groups = max(1, round(size.num_query_groups.value * part))

    def share(value: int) -> int:
        return value * groups // size.num_query_groups.value

    return {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "torch_dtype": "bfloat16",
        "hidden_size": share(size.hidden_size.value),
        "intermediate_size": share(size.ffn_hidden_size.value),
        "num_hidden_layers": max(1, round(size.num_layers.value * part)),
        "num_attention_heads": share(size.num_attention_heads.value),
        "num_key_value_heads": groups,
        "vocab_size": share(size.vocab_size.value),
        "max_position_embeddings": 4096,
        "rope_theta": 1e7,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.1,
        "embedding_multiplier": size.embedding_multiplier.value,
        "attention_multiplier": size.attention_multiplier.value,
        "residual_multiplier": size.residual_multiplier.value,
        "logits_scaling": size.logits_scaling.value,
        "tie_word_embeddings": True,
    }


def make(folder: Path, params: float) -> None:
    """Write the models ``folder/a`` and ``folder/b``."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from recipes.model.bridge.mapping import weights
    from recipes.model_folder.config import model_config

    config = config_of(params)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for weight in weights(model_config(config, folder)):
        if size + 2 * weight.elements > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1] |= weight.parts
        size += 2 * weight.elements
    files = [
        f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)
    ]
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<end>"))
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        target = folder / name
        target.mkdir()
        (target / "config.json").write_text(json.dumps(config))
        index = {part: file for file, shard in zip(files, shards, strict=True) for part in shard}
        (target / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
        for file, shard in zip(files, shards, strict=True):
            tensors = {
                part: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.1)
                for part, shape in shard.items()
            }
            save_file(tensors, target / file, metadata={"format": "pt"})
            del tensors
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
        ).save_pretrained(target)


def compare(ours: Path, theirs: Path, result: Path) -> None:
    """Write to ``result`` the largest difference between numbers of two folders and the part of
    those that differ.
    """
    from safetensors import safe_open

    def places_of(folder: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    places = places_of(theirs)
    largest, differing, numbers = 0.0, 0, 0
    for name, path in places_of(ours).items():
        # opened for each tensor: what was mapped before is released
        with (
            safe_open(path, framework="pt") as left,
            safe_open(places[name], framework="pt") as right,
        ):
            a, b = left.get_tensor(name), right.get_tensor(name)
            largest = max(largest, (a.float() - b.float()).abs().max().item())
            differing += int((a != b).sum())
            numbers += a.numel()
    result.write_text(json.dumps([largest, differing / numbers]))


def elsewhere(function: Callable, *args: object) -> None:
    """Run ``function`` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__}: exit status {process.exitcode}")


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=float, default=3e9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mergekit", type=Path, help="a Python interpreter that has mergekit 0.1.4"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder on the file system to measure (the temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        elsewhere(make, folder, options.params)
        a, b = folder / "a", folder / "b"
        model_bytes = sum(file.stat().st_size for file in a.glob("*.safetensors"))
        commands: dict[str, list[object]] = {"copy": [sys.executable, "-c", COPY, b, a]}
        weights = {"first": round(1 - T, 9), "second": T}
        for method, text in MERGEKIT.items():
            script = Path(sys.executable).with_name("granite41")
            words = [
                "merge",
                "--method",
                method,
                "--parents",
                a,
                b,
                "--weights",
                *weights.values(),
                "--output",
            ]
            commands[f"granite41 merge, {method}"] = [script, *words]
            if options.mergekit:
                recipe = folder / f"{method}.yaml"
                recipe.write_text(text.format(a=a, b=b, **weights))
                commands[f"mergekit, {method}"] = [
                    options.mergekit.with_name("mergekit-yaml"),
                    recipe,
                ]
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        differences: dict[str, list[float]] = {}
        for number in range(options.rounds):
            for name, command in commands.items():
                target = folder / name.replace(", ", "_").replace(" ", "_")
                os.sync()
                figures[name].append(
                    run([*map(str, command), str(target)], {"HF_HUB_OFFLINE": "1"})
                )
                method = name.rpartition(" ")[2]
                if number == 0 and name.startswith("mergekit"):
                    elsewhere(
                        compare, folder / f"granite41_merge_{method}", target, folder / "difference"
                    )
                    differences[method] = json.loads((folder / "difference").read_text())
                    shutil.rmtree(folder / f"granite41_merge_{method}")
                if number or not options.mergekit or not name.startswith("granite41"):
                    shutil.rmtree(target)
        copy = statistics.median(seconds for seconds, _ in figures["copy"])
        rows = []
        for name, found in figures.items():
            seconds = statistics.median(value for value, _ in found)
            memory = max(value for _, value in found)
            speed = 3 * model_bytes / 1e6 / seconds
            rows.append(
                [name, f"{seconds:.2f}", f"{speed:,.1f}", f"{seconds / copy:.2f}", f"{memory:.0f}"]
            )
        notes = [
            f"{method}: mergekit's differ by at most {largest:.2g}, {100 * part:.3f} % of the "
            f"numbers differ"
            for method, (largest, part) in differences.items()
        ]
        size = f"2 models of {model_bytes / 1e9:.2f} GB"
        report(
            [size, "seconds", "MB/s read and written", "time / copy", "largest process, MB"],
            rows,
            *notes,
        )


if __name__ == "__main__":
    main()
