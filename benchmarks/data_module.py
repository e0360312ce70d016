"""Set-up time of the data module over many shards, against NeMo's own data module on the same
files.

    python benchmarks/data_module.py [--shards 10 100 1000] [--documents 20] [--rounds 3]

Method: the wall time of the data module's ``build``, as the trainer calls it: read every shard's
index, choose its documents, build the training and validation samples and blend them. Half of the
shards are a component ``a`` of 60 % of
the tokens, the others ``b``. Cold: Megatron's folder of cached indices does not exist; warm: a new
data module finds what the cold one left there. Both sides take turns, cold and then warm,
``--rounds`` times, in one process, with the files in the page cache; one round with two shards goes
first and is left out. The table gives medians.
"""

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cli import report

OURS, PEER = "this project", "NeMo"
SEQUENCE_LENGTH, BATCH, VALIDATION_BATCHES = 64, 4, 2
MEAN_TOKENS = 100  # of a document


def write_shards(folder: Path, shards: int, documents: int) -> list[Path]:
    """Write ``shards`` shards of ``documents`` documents of about :data:`MEAN_TOKENS` tokens;
    return their prefixes.
    """
    import numpy as np

    from data_prep.indexed import Writer

    random = np.random.default_rng(shards)
    prefixes = [folder / f"shard-{index:05d}" for index in range(shards)]
    for prefix in prefixes:
        lengths = random.integers(MEAN_TOKENS // 2, MEAN_TOKENS * 3 // 2, documents)
        with Writer(prefix, 512) as writer:
            writer.add(random.integers(2, 512, lengths.sum()), lengths)
            writer.finish()
    return prefixes


def seconds_to_set_up(
    side: str, prefixes: list[Path], documents: int, tokenizer: Any, cache: Path
) -> float:
    """Return the seconds that ``build`` of a new data module takes."""
    from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule

    from recipes.training.data import GraniteDataModule

    half = len(prefixes) // 2
    names = ["a"] * half + ["b"] * (len(prefixes) - half)
    weights = [0.6 / half if name == "a" else 0.4 / (len(prefixes) - half) for name in names]
    settings: dict[str, Any] = {
        "paths": [
            part
            for weight, prefix in zip(weights, prefixes, strict=True)
            for part in (weight, str(prefix))
        ],
        "seq_length": SEQUENCE_LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": BATCH,
        "tokenizer": tokenizer,
        "split": "900,100,0",
        "index_mapping_dir": str(cache),
    }
    if side == OURS:
        shards = {
            str(prefix): {"component": name} for prefix, name in zip(prefixes, names, strict=True)
        }
        module = GraniteDataModule(**settings, shards=shards)
    else:
        module = PreTrainingDataModule(**settings)
    # a third of the tokens, so that no shard is read twice
    steps = max(1, len(prefixes) * documents * MEAN_TOKENS // 3 // (SEQUENCE_LENGTH * BATCH))
    gc.collect()  # closes the files of the module before
    start = time.perf_counter()
    module.build(steps, steps, VALIDATION_BATCHES, 0)
    return time.perf_counter() - start


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shards", type=int, nargs="+", default=[10, 100, 1000], help="how many (10 100 1000)"
    )
    parser.add_argument("--documents", type=int, default=20, help="of each shard (20)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (3)")
    options = parser.parse_args()

    # the CPU backend must be on before anything of Megatron runs
    import recipes.training.pretraining  # noqa: F401  # isort: skip
    import torch
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from data_prep import tokenizer
    from recipes.common import tokenizer_files

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Megatron asks for the rank where it caches indices
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group", rank=0, world_size=1
        )
        tokenizer.train(
            [tokenizer_files.FINGERPRINT_TEXT], tokenizer.MINIMUM_VOCAB_SIZE, folder / "tokenizer"
        )
        loaded = AutoTokenizer(str(folder / "tokenizer"))
        for turn, shards in enumerate((2, *options.shards)):
            data = folder / str(turn)
            data.mkdir()
            prefixes = write_shards(data, shards, options.documents)
            seconds: dict[tuple[str, str], list[float]] = {}
            for number in range(options.rounds if turn else 1):
                for side in (OURS, PEER):
                    cache = data / f"{side}_{number}"
                    for state in ("cold", "warm"):
                        taken = seconds_to_set_up(side, prefixes, options.documents, loaded, cache)
                        seconds.setdefault((side, state), []).append(taken)
            if turn == 0:
                continue
            for state in ("cold", "warm"):
                ours, peer = (statistics.median(seconds[side, state]) for side in (OURS, PEER))
                figures = (
                    f"{value:.3f}"
                    for value in (ours, 1000 * ours / shards, peer, 1000 * peer / shards)
                )
                rows.append([f"{shards:,} shards, {state}", *figures, f"{ours / peer:.2f}"])
    columns = ["set-up", f"{OURS} s", "ms a shard", f"{PEER} s", "ms a shard", "ratio"]
    report(columns, rows, f"{options.documents} documents a shard")


if __name__ == "__main__":
    main()
