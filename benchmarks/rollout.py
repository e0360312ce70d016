"""Rollouts in the trainer's process against transformers' ``generate``; refresh against a copy.

    python benchmarks/rollout.py [--prompts 16] [--samples 16] [--tokens 64] [--rounds 3]

Method: one process, one model of size tiny with random weights in fp32: Megatron's, and its export
loaded by transformers. ``--prompts`` prompts of 20 to 60 tokens with ``--samples`` answers each are
answered by :class:`InProcessEngine`, and by ``generate`` in batches of as many rows, padded on the
left, with the same threads; both draw at temperature 1, and only the former also returns
log-probabilities. With equal lengths every answer has ``--tokens`` tokens. With mixed ones it ends
at any of the first ids of the vocabulary, which come up once in ``--tokens / 2`` tokens on average,
and at most at ``2 * --tokens``. They take turns, ``--rounds`` times after one that is left out, and
who goes first alternates; tokens are those of answers, without pads. Medians; ratios are medians of
those of each round.

Refresh: a Megatron model of about ``--params`` parameters in bf16 is written as a Hugging Face
folder by ``export_live`` and opened as the engine does before a server reads it, and then its bytes
are copied by ``shutil.copytree``; medians of ``--rounds``, after ``os.sync``.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cli import report

from recipes.alignment.rollout.engine import Request
from recipes.common.cpus import usable_cpus
from recipes.model_folder.config import CONFIG
from recipes.model_folder.weights import open_granite
from recipes.spec.sizes import SIZES

ROWS = 64
POSITIONS = 1024
VOCAB_SIZE = SIZES["tiny"].vocab_size.value
# of the refresh
WIDE = {
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 64,
    "ffn_hidden_size": 5120,
    "vocab_size": 32768,
}
# parameters of a layer of it
LAYER = 42_000_000


def start_process_group() -> None:
    """Be the only rank."""
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    from recipes.compat import cpu

    cpu.install()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)


def build(folder: Path, **changed: Any) -> Any:
    """Build a model of size tiny's settings, and write its config.json."""
    from recipes.model.bridge.mapping import CONFIG_FIELDS
    from recipes.model.nemo import GraniteConfig

    settings = GraniteConfig.transformer_settings(SIZES["tiny"]) | changed
    config = GraniteConfig(**settings, seq_length=POSITIONS, rotary_base=1e4)
    values = {theirs: getattr(config, ours) for theirs, ours in CONFIG_FIELDS.items()}
    values |= {"model_type": "granite", "tie_word_embeddings": True, "eos_token_id": 0}
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(values))
    return config.configure_model().eval()


def make_requests(options: argparse.Namespace, tokens: int) -> list[Request]:
    """Return the prompts."""
    draw = np.random.default_rng(0)
    return [
        Request(
            f"prompt-{number}",
            draw.integers(VOCAB_SIZE // 2, VOCAB_SIZE, draw.integers(20, 60)).astype(np.int32),
            options.samples,
            1,
            tokens,
        )
        for number in range(options.prompts)
    ]


def ours(model: Any, requests: list[Request], stop_ids: list[int]) -> int:
    """Answer by the engine; return the tokens of the answers."""
    from recipes.alignment.rollout.in_process import InProcessEngine

    engine = InProcessEngine(model, stop_ids, ROWS)
    engine.refresh(1)
    return sum(len(sample.ids) for samples in engine.generate(requests) for sample in samples)


def theirs(model: Any, requests: list[Request], stop_ids: list[int]) -> int:
    """Answer by transformers, in batches; return the tokens of the answers."""
    import torch

    prompts = [request.ids for request in requests for _ in range(request.samples)]
    tokens = requests[0].max_tokens
    settings: dict[str, Any] = {"min_new_tokens": tokens}
    if stop_ids:
        settings = {"eos_token_id": stop_ids}
    count = 0
    for first in range(0, len(prompts), ROWS):
        batch = prompts[first : first + ROWS]
        width = max(map(len, batch))
        ids = torch.ones((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, width - len(prompt) :] = 1
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            # an id that is drawn as any other would be counted as a pad
            pad_token_id=VOCAB_SIZE - 1,
            **settings,
        )[:, width:]
        ends = torch.isin(out, torch.tensor(stop_ids, dtype=torch.long))
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, out.shape[1])
        count += int(lengths.sum())
    return count


def compare(
    sides: dict[str, Callable[[], int]], rounds: int
) -> tuple[dict[str, float], list[float]]:
    """Return side -> median of its tokens a second, and the ratios of the first to the second."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            start = time.perf_counter()
            tokens = sides[name]()
            found[name].append(tokens / (time.perf_counter() - start))
    first, second = (speeds[1:] for speeds in found.values())
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return {name: statistics.median(speeds[1:]) for name, speeds in found.items()}, ratios


def measure_generation(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    """Return a row for equal and for mixed lengths."""
    from transformers import GraniteForCausalLM

    from recipes.model.bridge.live import export_live

    model = build(folder / "tiny")
    export_live(model, folder / "tiny", folder / "hf")
    peer = GraniteForCausalLM.from_pretrained(folder / "hf", trust_remote_code=False).eval()
    rows = []
    for name, tokens, stop_ids in (
        ("equal", options.tokens, []),
        ("mixed", 2 * options.tokens, list(range(2 * VOCAB_SIZE // options.tokens))),
    ):
        requests = make_requests(options, tokens)
        sides = {
            "ours": lambda asked=requests, stops=stop_ids: ours(model, asked, stops),
            "theirs": lambda asked=requests, stops=stop_ids: theirs(peer, asked, stops),
        }
        speeds, ratios = compare(sides, options.rounds)
        rows.append(
            [
                name,
                f"{speeds['ours']:,.0f}",
                f"{speeds['theirs']:,.0f}",
                *(
                    f"{ratio:.2f}"
                    for ratio in (statistics.median(ratios), min(ratios), max(ratios))
                ),
            ]
        )
    return rows


def measure_refresh(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the row of a refresh."""
    import torch

    from recipes.model.bridge.live import export_live

    embedding = WIDE["hidden_size"] * WIDE["vocab_size"]
    layers = max(1, round((options.params - embedding) / LAYER))
    model = build(
        folder / "wide",
        **WIDE,
        num_layers=layers,
        params_dtype=torch.bfloat16,
        bf16=True,
        perform_initialization=False,
    )
    seconds: dict[str, list[float]] = {"export": [], "copy": []}
    size = 0
    for _ in range(options.rounds):
        os.sync()
        start = time.perf_counter()
        export_live(model, folder / "wide", folder / "live")
        size = sum(tensor.num_bytes for tensor in open_granite(folder / "live").tensors.values())
        seconds["export"].append(time.perf_counter() - start)

        os.sync()
        start = time.perf_counter()
        shutil.copytree(folder / "live", folder / "copy")
        seconds["copy"].append(time.perf_counter() - start)
        shutil.rmtree(folder / "live")
        shutil.rmtree(folder / "copy")
    ours, copy = (statistics.median(taken) for taken in seconds.values())
    return [
        f"{size / 1e6:,.0f} MB",
        f"{ours:.2f}",
        f"{size / 1e6 / ours:,.0f}",
        f"{copy:.2f}",
        f"{copy / ours:.2f}",
    ]


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--params", type=float, default=1e9)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    start_process_group()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        rows = measure_generation(options, Path(scratch))
        columns = ["lengths", "tokens/s", "transformers'", "ratio", "lowest", "highest"]
        report(columns, rows, f"{options.threads} threads", f"{ROWS} rows")
        row = measure_refresh(options, Path(scratch))
        report(["refresh", "seconds", "MB/s", "copy, seconds", "of its speed"], [row])


if __name__ == "__main__":
    main()
