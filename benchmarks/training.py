"""Phase 1 of size tiny through NeMo and Megatron against the same model in plain transformers, on
the CPU.

    python benchmarks/training.py [--steps 20] [--blocks 7] [--data FOLDER] [--threads N]

Method: two fresh processes take turns on the machine, the one waiting while the other trains
``--steps`` steps. One is the project's recipe of phase 1, built and run as ``granite41 train`` does
it, with its progress lines, metrics
and TensorBoard logs but without validation and checkpoints. The other is a plain loop:
``GraniteForCausalLM`` of the same dimensions and multipliers, eager, sdpa attention, torch's AdamW
with the same settings and parameter groups, gradient clipping, the same learning rates, micro-batch
and global batch, and sequences cut at random out of the same ``.bin`` files in the same mixture.
Both are in fp32 with the same number of threads. The first of ``--blocks`` blocks warms up and is
left out; who goes first alternates. A figure is the median over the blocks, a ratio the median over
the pairs of blocks that ran one after the other.

The parts of a step are timers around calls: ``forward`` is the model's (with the loss),
``backward`` autograd's, ``optimizer`` zeroing, clipping and the update, ``data`` the next batch;
``rest`` is what the step takes beyond them, on NeMo's side Lightning, NeMo, logging and metrics.

The second table is Megatron-Core alone, without Lightning, in the first process once it has
trained: forward and backward of its last micro-batch, in turn with the CPU backend's torch function
mode and with torch functions undisturbed, ``--steps`` times each, medians. What the mode costs is
mostly too little to be seen in that, so an addition of two numbers is timed in the same two ways,
10,000 times in each of nine turns; the number of calls that the mode sees in the forward and
backward says what that amounts to.
"""

import argparse
import functools
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cli import report

from data_prep import tiny
from recipes.common.cpus import usable_cpus
from recipes.common.tables import print_table
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import TOKENIZER, blend, read_data_manifest
from recipes.spec.pretraining import PretrainRecipe

PARTS = ("forward", "backward", "optimizer", "data")
NEMO, PEER = "NeMo and Megatron", "transformers"


class Turns:
    """One side's end of the taking of turns, and the timers of its blocks."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.seconds = Counter[str]()
        self.started: float | None = None

    def timed(self, part: str, function: Callable) -> Callable:
        """Return ``function`` with the seconds it takes added to ``part``."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - start
            return result

        return wrapper

    def begin(self) -> None:
        """Wait for this side's turn."""
        self.pipe.recv()
        self.seconds.clear()
        self.started = time.perf_counter()

    def end(self, **more: Any) -> None:
        """Send the seconds of the block, if one was begun, and of its parts."""
        if self.started is not None:
            self.seconds["step"] = time.perf_counter() - self.started
            self.seconds["rest"] = self.seconds["step"] - sum(self.seconds[part] for part in PARTS)
            self.pipe.send({"seconds": dict(self.seconds), **more})


def start(
    side: Callable,
    options: argparse.Namespace,
    overrides: list[str],
    folder: Path,
    pipe: Connection,
    log: Path,
) -> None:
    """Run a side in this fresh process, with its output in ``log``."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(options.threads)
    prepared = read_data_manifest(options.data)
    recipe = resolve_pretraining("phase1", "tiny", overrides)
    blended = blend(prepared, recipe.mixture_percent)
    side(options, recipe, overrides, blended, folder, Turns(pipe))


def nemo_side(
    options: argparse.Namespace,
    recipe: PretrainRecipe,
    overrides: list[str],
    blended: list[tuple[float, Path]],
    folder: Path,
    turns: Turns,
) -> None:
    """Train with the recipe."""
    # the CPU backend must be on before anything of Megatron runs
    from recipes.training.pretraining import pretraining_recipe  # isort: skip
    import fiddle
    import lightning.pytorch as pl
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.pipeline_parallel import schedules
    from nemo.utils import logging
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    logging.set_verbosity(logging.ERROR)
    made = pretraining_recipe(
        "phase1",
        "tiny",
        overrides,
        folder=str(folder),
        data=[part for weight, prefix in blended for part in (weight, str(options.data / prefix))],
        tokenizer=str(options.data / TOKENIZER),
        index_cache=str(folder / "index"),
        devices=1,
    )
    made.trainer.limit_val_batches = 0
    made.trainer.enable_checkpointing = False
    made.log.ckpt = None
    train = fiddle.build(made)

    last_call: list[Callable] = []
    forward = turns.timed("forward", GPTModel.forward)

    def remembering_forward(model: GPTModel, *args: Any, **kwargs: Any) -> Any:
        last_call[:] = [functools.partial(model, *args, **kwargs)]
        return forward(model, *args, **kwargs)

    class Blocks(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
            optimizer = trainer.optimizers[0].mcore_optimizer
            optimizer.step = turns.timed("optimizer", optimizer.step)
            optimizer.zero_grad = turns.timed("optimizer", optimizer.zero_grad)

        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step % options.steps == 0:
                turns.end()
                turns.begin()

        def on_train_end(self, trainer: pl.Trainer, *args: Any) -> None:
            turns.end(loss=float(trainer.callback_metrics["reduced_train_loss"]))
            turns.pipe.recv()
            turns.pipe.send(core_alone(last_call[0], options.steps))

    GPTModel.forward = remembering_forward
    schedules.backward_step = turns.timed("backward", schedules.backward_step)
    _BaseDataLoaderIter.__next__ = turns.timed("data", _BaseDataLoaderIter.__next__)
    train.keywords["trainer"].callbacks.append(Blocks())
    train()


def core_alone(losses: Callable, repetitions: int) -> dict[str, Any]:
    """Return median seconds with and without the CPU backend's mode: of forward and backward, and
    of a small call.

    Under ``calls`` stands how many calls the mode sees in a forward and backward.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Count(TorchFunctionMode):
        calls = 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def forward_and_backward() -> None:
        losses().mean().backward()

    one = torch.ones(())

    def small_calls() -> None:
        for _ in range(10_000):
            torch.add(one, one)

    def medians(function: Callable, turns: int) -> list[float]:
        seconds: list[list[float]] = [[], []]
        for _ in range(turns):
            for mode, taken in zip(
                (nullcontext, torch._C.DisableTorchFunction), seconds, strict=True
            ):
                with mode():
                    start = time.perf_counter()
                    function()
                    taken.append(time.perf_counter() - start)
        return [statistics.median(taken) for taken in seconds]

    with Count() as count:
        forward_and_backward()
    with Count() as disabled, torch._C.DisableTorchFunction():
        small_calls()
    if disabled.calls:
        raise RuntimeError("torch functions are not undisturbed under DisableTorchFunction")
    return {
        "step": medians(forward_and_backward, repetitions),
        "call": [seconds / 10_000 for seconds in medians(small_calls, 9)],
        "calls": count.calls,
    }


def peer_side(
    options: argparse.Namespace,
    recipe: PretrainRecipe,
    overrides: list[str],
    blended: list[tuple[float, Path]],
    folder: Path,
    turns: Turns,
) -> None:
    """Train in a plain loop."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from transformers import GraniteConfig, GraniteForCausalLM

    size, settings = recipe.model, recipe.optimizer
    sequence_length, global_batch_size = (
        recipe.sequence_length.value,
        recipe.global_batch_size.value,
    )
    micro_batch_size = recipe.parallelism.micro_batch_size.value
    random = np.random.default_rng(recipe.seed.value)
    torch.manual_seed(recipe.seed.value)
    model = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=size.vocab_size.value,
            hidden_size=size.hidden_size.value,
            intermediate_size=size.ffn_hidden_size.value,
            num_hidden_layers=size.num_layers.value,
            num_attention_heads=size.num_attention_heads.value,
            num_key_value_heads=size.num_query_groups.value,
            max_position_embeddings=sequence_length,
            rope_theta=recipe.rope_theta.value,
            rms_norm_eps=size.rms_norm_eps.value,
            embedding_multiplier=size.embedding_multiplier.value,
            attention_multiplier=size.attention_multiplier.value,
            residual_multiplier=size.residual_multiplier.value,
            logits_scaling=size.logits_scaling.value,
            initializer_range=size.initializer_std.value,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation="sdpa",
        )
    ).train()
    parameters = dict(model.named_parameters())
    hidden = [p for name, p in parameters.items() if p.dim() == 2 and "embed" not in name]
    embedding = [p for name, p in parameters.items() if "embed" in name]
    norms = [p for p in parameters.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": hidden, "lr_mult": 1 / recipe.hidden_lr_divisor.value},
            {"params": embedding, "lr_mult": 1.0},
            {"params": norms, "lr_mult": 1.0, "weight_decay": 0.0},
        ],
        betas=settings.betas.value,
        eps=settings.eps.value,
        weight_decay=settings.weight_decay.value,
    )
    # two bytes a token is Megatron's choice for a vocabulary this small
    files = [
        np.memmap(options.data / f"{prefix}.bin", dtype=np.uint16, mode="r")
        for _, prefix in blended
    ]
    weights = [weight for weight, _ in blended]

    def micro_batch() -> torch.Tensor:
        chosen = [files[i] for i in random.choice(len(files), micro_batch_size, p=weights)]
        starts = [random.integers(len(file) - sequence_length) for file in chosen]
        cut = [file[at : at + sequence_length + 1] for file, at in zip(chosen, starts, strict=True)]
        return torch.from_numpy(np.stack(cut).astype(np.int64))

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=tokens[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def update(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = (
                recipe.schedule.lr(step * recipe.tokens_per_batch.value) * group["lr_mult"]
            )
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.gradient_clip.value)
        optimizer.step()
        optimizer.zero_grad()

    next_batch, forward = turns.timed("data", micro_batch), turns.timed("forward", loss_of)
    backward, update = (
        turns.timed("backward", torch.Tensor.backward),
        turns.timed("optimizer", update),
    )
    micro_batches = global_batch_size // micro_batch_size
    for block in range(options.blocks):
        turns.begin()
        for step in range(block * options.steps, (block + 1) * options.steps):
            loss = 0.0
            for _ in range(micro_batches):
                part = forward(next_batch()) / micro_batches
                backward(part)
                loss += part.item()
            update(step)
        turns.end(loss=loss)


def take_turn(pipe: Connection, log: Path) -> dict[str, Any]:
    """Let a side work and return what it sends; end with its output if it died."""
    try:
        pipe.send("go")
        return pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(f"{log.stem} ended early:\n{log.read_text()[-4000:]}")


def main() -> None:
    """Run the comparison and print its figures."""
    cores = usable_cpus()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="of a block (20)")
    parser.add_argument(
        "--blocks", type=int, default=7, help="of each side, the first of them left out (7)"
    )
    parser.add_argument(
        "--data", type=Path, help="a folder of prepared data (prepared in a temporary folder)"
    )
    parser.add_argument(
        "--threads", type=int, default=cores, help=f"of torch, on each side ({cores})"
    )
    options = parser.parse_args()
    if options.blocks < 2:
        parser.error("--blocks: at least 2, as the first is left out")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tokens_per_step = resolve_pretraining("phase1", "tiny").tokens_per_batch.value
    overrides = [f"tokens={options.blocks * options.steps * tokens_per_step}"]
    fresh = multiprocessing.get_context("spawn")
    blocks: dict[str, list[dict[str, float]]] = {NEMO: [], PEER: []}
    losses = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.data is None:
            options.data = folder / "data"
            tiny.prepare(options.data)
        pipes, logs, processes = {}, {}, []
        for name, side in ((NEMO, nemo_side), (PEER, peer_side)):
            logs[name] = folder / f"{name}.log"
            pipes[name], other_end = fresh.Pipe()
            arguments = (side, options, overrides, folder / "run", other_end, logs[name])
            processes.append(fresh.Process(target=start, args=arguments, daemon=True))
            processes[-1].start()
            other_end.close()
        order = [NEMO, PEER]
        for block in range(options.blocks):
            for name in order:
                turn = take_turn(pipes[name], logs[name])
                losses[name] = turn.get("loss", math.nan)
                if block:
                    blocks[name].append(
                        {part: s / options.steps for part, s in turn["seconds"].items()}
                    )
            order.reverse()
        core = take_turn(pipes[NEMO], logs[NEMO])
        for process in processes:
            process.join()

    def row(label: str, digits: int, figures: dict[str, list[float]]) -> list[str]:
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(figures[NEMO], figures[PEER], strict=True)
        )
        medians = [f"{statistics.median(figures[name]):,.{digits}f}" for name in (NEMO, PEER)]
        return [label, *medians, f"{ratio:.2f}"]

    rows = [
        row(
            f"{part}, ms",
            3,
            {name: [1000 * block[part] for block in blocks[name]] for name in blocks},
        )
        for part in (*PARTS, "rest", "step")
    ]
    speeds = {name: [tokens_per_step / block["step"] for block in blocks[name]] for name in blocks}
    rows.append(row("tokens/s", 0, speeds))
    for label, extreme in (("lowest", min), ("highest", max)):
        rows.append(
            [
                f"tokens/s, {label} block",
                *(f"{extreme(found):,.0f}" for found in speeds.values()),
                "-",
            ]
        )
    rows.append(["loss of the last step", f"{losses[NEMO]:.3f}", f"{losses[PEER]:.3f}", "-"])
    size = f"{options.blocks - 1} blocks of {options.steps} steps of {tokens_per_step:,} tokens"
    report(["a step", NEMO, PEER, "ratio"], rows, f"{options.threads} torch threads", size)
    rows = []
    for label, seconds, unit in (
        ("forward and backward, ms", core["step"], 1e3),
        ("small call, us", core["call"], 1e6),
    ):
        rows.append(
            [label, *(f"{unit * value:.3f}" for value in seconds), f"{seconds[0] / seconds[1]:.3f}"]
        )
    rows.append(["calls in forward and backward", f"{core['calls']:,}", f"{core['calls']:,}", "-"])
    print_table(["Megatron-Core alone", "with the CPU backend", "without", "ratio"], rows)


if __name__ == "__main__":
    main()
