"""Export to Hugging Face against a plain copy of the same bytes.

    python benchmarks/export.py [--params 1e9] [--scratch FOLDER]

Method: a Granite model with random bf16 weights is written as a Hugging Face folder and imported,
    which gives a NeMo 2
checkpoint as training writes it. A first export gives the peak memory: the kernel's high-water mark
of resident memory during it, less the resident memory before it. Then, ``--rounds`` times in one
process and on one file system: ``export_hf`` of that checkpoint, and ``shutil.copyfile`` of the
safetensors that the first export wrote; which of the two goes first alternates. Before each, what
it reads is read once, so that both find it in the page cache, and ``os.sync`` is called, so that
neither waits for the other's writes. The target of each is new and removed afterwards. Speed is
bytes of safetensors over wall time; the median is printed with the range.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

from recipes.model.bridge.to_hf import MAX_SHARD_BYTES, export_hf
from recipes.model_folder.config import model_config
from recipes.model_folder.weights import granite_shapes

CONFIG = {
    "model_type": "granite",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 4096,
    "rope_theta": 1e7,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 1 / 64,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "tie_word_embeddings": True,
}


def make_checkpoint(params: float, folder: Path) -> None:
    """Write ``folder/nemo``, a checkpoint of a model with about ``params`` parameters (at least one
    layer).
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from recipes.model.bridge.from_hf import import_hf

    one_layer = model_config({**CONFIG, "num_hidden_layers": 1}, folder)

    def count(layers: int) -> int:
        config = replace(one_layer, num_hidden_layers=layers)
        return sum(prod(shape) for shape in granite_shapes(config).values())

    num_layers = max(1, round((params - count(0)) / (count(1) - count(0))))
    config = {**CONFIG, "num_hidden_layers": num_layers}
    torch.manual_seed(0)
    source = folder / "hf"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.1)
        for name, shape in granite_shapes(model_config(config, folder)).items()
    }
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    del tensors
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<end>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(source)
    import_hf(source, folder / "nemo")
    shutil.rmtree(source)


def speed(action: Callable[[Path], object], reads: list[Path], target: Path, size: int) -> float:
    """Return the MB/s of ``action`` on ``target`` with ``reads`` in the page cache and nothing left
    to be written.
    """
    for path in reads:
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    os.sync()
    start = time.perf_counter()
    action(target)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return size / 1e6 / seconds


def memory(field: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(
        next(line.split()[1] for line in status.splitlines() if line.startswith(field))
    )


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=float, default=1e9)
    parser.add_argument("--max-shard-bytes", type=int, default=MAX_SHARD_BYTES)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--scratch", type=Path, help="folder on the file system to measure (the temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        # in a process of its own, as it leaves NeMo and the model in memory
        builder = multiprocessing.get_context("spawn").Process(
            target=make_checkpoint, args=(options.params, folder)
        )
        builder.start()
        builder.join()
        if builder.exitcode:
            raise SystemExit(f"the checkpoint could not be made: exit status {builder.exitcode}")
        checkpoint = sorted((folder / "nemo" / "weights").iterdir())

        def export(target: Path) -> None:
            export_hf(folder / "nemo", target, max_shard_bytes=options.max_shard_bytes)

        def copy(target: Path) -> None:
            target.mkdir()
            for shard in shards:
                shutil.copyfile(shard, target / shard.name)

        # the export imports it for the tokenizer: no part of what tensors take
        from transformers import AutoTokenizer  # noqa: F401

        resident = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        export(folder / "first")
        peak = memory("VmHWM") - resident
        shards = sorted((folder / "first").glob("*.safetensors"))
        sizes = [shard.stat().st_size for shard in shards]
        contestants = [(export, checkpoint), (copy, shards)]
        speeds: dict[str, list[float]] = {"export": [], "copy": []}
        for _ in range(options.rounds):
            for action, reads in contestants:
                speeds[action.__name__].append(speed(action, reads, folder / "target", sum(sizes)))
            contestants.reverse()
    tensor = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
    print(f"{sum(sizes) / 1e9:.2f} GB of safetensors, {len(sizes)} files, {options.rounds} rounds")
    for name, found in speeds.items():
        print(f"{name}: {statistics.median(found):.0f} MB/s ({min(found):.0f} to {max(found):.0f})")
    print(
        f"export / copy: "
        f"{statistics.median(speeds['export']) / statistics.median(speeds['copy']):.2f}"
    )
    print(
        f"peak memory of the export: {peak / 1e6:.0f} MB above the {resident / 1e6:.0f} MB "
        f"before it"
    )
    print(f"largest shard: {max(sizes) / 1e6:.0f} MB; largest tensor: {tensor / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
