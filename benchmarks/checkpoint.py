"""Saving and loading a stage's checkpoint against a plain copy and a plain read of its bytes, on
the CPU.

    python benchmarks/checkpoint.py [--params 2e8] [--saves 5] [--scratch FOLDER]

Method: the recipe of phase 1, built and run as ``granite41 train`` does it, without validation. The
model is tiny with every dimension but the vocabulary ``n`` times as large, in fp32, so that weights
and Adam's two moments take 12 bytes a parameter; a step is one sequence of 32 tokens, and every
third step ends with a save. The first three saves fill the three checkpoints that are kept and are
left out; each of the ``--saves`` after them also removes the oldest one. A step is timed from its
start to the start of the next.

A save is NeMo's, from the marker of an unfinished checkpoint to its removal; Megatron's writers
call fsync on each data file, and so does the copy, on every file, by ``shutil.copyfile``, right
after each save and outside of every step. ``os.sync`` goes before each step and each copy. The
stall is the time of a step with a save less the median of those without. Its parts are timers
around calls, each without what another one has; ``other`` is what they leave of it.
Memory is of the last save that is left out: the machine's anonymous pages (Megatron's writers are
processes of their own, which share most of theirs), sampled every 5 ms, less those before the save;
nothing else may run then.

A load is a resume in a fresh process, from where Lightning begins to restore until all is restored,
``--saves`` times with the checkpoint in the page cache (warm) and as often without (cold: dropped
by ``posix_fadvise``; what the host of a virtual machine keeps, stays). A plain read of every file
goes before each of them, in the same state. A ratio is that
of two medians: save and stall to the copy, a load to the read in its state.
"""

import argparse
import functools
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cli import report
from data_module import write_shards

from data_prep import tokenizer
from recipes.common import tokenizer_files
from recipes.common.tables import print_table
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import TOKENIZER
from recipes.spec.sizes import SIZES

SIDES = ("hidden_size", "num_layers", "num_attention_heads", "num_query_groups", "ffn_hidden_size")
SEQUENCE_LENGTH, STEPS_A_SAVE, KEPT = 32, 3, 3
WRITING = "Megatron: writer processes, fsync"
PLANNING = "Megatron: plan, checks, copies of views"
CONTEXT = "NeMo: context"
MARKERS = "NeMo: markers and barriers"
REST = "NeMo, Lightning: rest of the save"
REMOVAL = "removal of the oldest"
PARTS = (WRITING, PLANNING, CONTEXT, MARKERS, REST, REMOVAL)
COLD, WARM = "cold", "warm"
# a process that has NeMo imported and forks one that is as good as fresh
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["recipes.training.pretraining"])


def elsewhere(function: Callable, *args: Any) -> Any:
    """Return ``function(*args)`` of a process of its own."""
    with ProcessPoolExecutor(1, mp_context=FORKSERVER, max_tasks_per_child=1) as pool:
        return pool.submit(function, *args).result()


def overrides_of(params: float, saves: int) -> list[str]:
    """Return the overrides of tiny for about ``params`` parameters and ``saves`` measured saves."""
    tiny = SIZES["tiny"]
    matrices = tiny.parameter_count.value - tiny.vocab_size.value * tiny.hidden_size.value
    times = max(1, round((params / matrices) ** (1 / 3)))
    interval = STEPS_A_SAVE * SEQUENCE_LENGTH
    return [
        *(f"model.{side}={times * getattr(tiny, side).value}" for side in SIDES),
        f"sequence_length={SEQUENCE_LENGTH}",
        f"tokens_per_batch={SEQUENCE_LENGTH}",
        f"checkpoint_every_tokens={interval}",
        # a last step, as the save at the end of a stage is outside of every step
        f"tokens={interval * (KEPT + saves) + SEQUENCE_LENGTH}",
    ]


def built(folder: Path, overrides: list[str], checkpoint: Path | None = None) -> Any:
    """Return the stage, ready to be called, that writes to ``folder/run``; its output goes to
    ``folder/log`` from now.

    Args:
        checkpoint: what it resumes from.
    """
    with (folder / "log").open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import fiddle
    from nemo.utils import logging

    from recipes.training.pretraining import pretraining_recipe

    logging.set_verbosity(logging.ERROR)
    recipe = pretraining_recipe(
        "phase1",
        "tiny",
        overrides,
        folder=str(folder / "run"),
        data=[1.0, str(folder / "shard-00000")],
        tokenizer=str(folder / TOKENIZER),
        index_cache=str(folder / "index"),
        devices=1,
    )
    recipe.trainer.limit_val_batches = 0
    if checkpoint:
        recipe.resume.resume_from_path = str(checkpoint)
    return fiddle.build(recipe)


class Timers:
    """Seconds of parts that call each other: each has its own time only."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)

    def timed(self, part: str, function: Callable) -> Callable:
        """Return ``function`` with the seconds that it takes added to ``part``."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            others, start = sum(self.seconds.values()), time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[part] += (
                time.perf_counter() - start - (sum(self.seconds.values()) - others)
            )
            return result

        return wrapper


def memory() -> int:
    """Return the bytes of anonymous memory that all processes of the machine have, pages that they
    share once.
    """
    return 1024 * int(Path("/proc/meminfo").read_text().partition("AnonPages:")[2].split()[0])


@contextmanager
def peak_memory(found: dict[str, int]) -> Iterator[None]:
    """Put the memory ``before`` and, when the context ends, its ``peak`` into ``found``."""
    samples = [memory()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(memory())

    thread = threading.Thread(target=sample)
    thread.start()
    yield
    done.set()
    thread.join()
    found |= {"before": samples[0], "peak": max(samples)}


def train(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train with saves; return ``steps`` (seconds, and of their parts), ``copies`` (seconds) and
    ``memory`` (bytes).
    """
    import lightning.pytorch as pl
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
    from nemo.lightning.io.pl import TrainerContext

    from recipes.training.callbacks import StageCheckpoint

    stage = built(folder, overrides)
    timers = Timers()
    steps: list[dict[str, float]] = []
    copies: list[float] = []
    found: dict[str, int] = {}

    for owner, name, part in (
        (AsyncCallsQueue, "schedule_async_request", WRITING),
        (AsyncCallsQueue, "maybe_finalize_async_calls", WRITING),
        (dist_checkpointing, "save", PLANNING),
        (TrainerContext, "io_dump", CONTEXT),
        (StageCheckpoint, "_save_checkpoint", REST),
        (StageCheckpoint, "_remove_checkpoint", REMOVAL),
    ):
        setattr(owner, name, timers.timed(part, getattr(owner, name)))
    for name in ("set_checkpoint_unfinished_marker", "remove_checkpoint_unfinished_marker"):
        setattr(
            StageCheckpoint,
            name,
            staticmethod(timers.timed(MARKERS, getattr(StageCheckpoint, name))),
        )
    save = StageCheckpoint._save_checkpoint

    def save_checkpoint(self: StageCheckpoint, trainer: pl.Trainer, filepath: str) -> None:
        if trainer.global_step == KEPT * STEPS_A_SAVE:
            with peak_memory(found):
                save(self, trainer, filepath)
        else:
            save(self, trainer, filepath)

    StageCheckpoint._save_checkpoint = save_checkpoint

    class Steps(pl.Callback):
        started = 0.0

        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            seconds = time.perf_counter() - self.started
            saved = WRITING in timers.seconds
            if trainer.global_step > KEPT * STEPS_A_SAVE:
                steps.append(
                    {"step": seconds, **{part: timers.seconds[part] for part in PARTS if saved}}
                )
                if saved:
                    copies.append(copy(newest(folder), folder / "copy"))
            os.sync()
            timers.seconds.clear()
            self.started = time.perf_counter()

    stage.keywords["trainer"].callbacks.append(Steps())
    stage()
    return {"steps": steps, "copies": copies, "memory": found}


def newest(folder: Path) -> Path:
    """Return the newest checkpoint."""
    return max((folder / "run" / "checkpoints").iterdir())


def files_of(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint."""
    return [path for path in checkpoint.rglob("*") if path.is_file()]


def copy(checkpoint: Path, target: Path) -> float:
    """Return the seconds that copying ``checkpoint`` takes, each file with fsync; the copy is
    removed again.
    """
    os.sync()
    start = time.perf_counter()
    for source in files_of(checkpoint):
        path = target / source.relative_to(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def put(checkpoint: Path, state: str) -> None:
    """Put a checkpoint into the page cache (warm), or drop it from there (cold)."""
    if state == WARM:
        read(checkpoint)
        return
    os.sync()
    for path in files_of(checkpoint):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(checkpoint: Path) -> float:
    """Return the seconds that reading every file of ``checkpoint`` takes."""
    buffer = bytearray(2**20)
    start = time.perf_counter()
    for path in files_of(checkpoint):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


class Restored(Exception):
    """Ends a resume before its first step."""


def load(folder: Path, overrides: list[str], checkpoint: Path) -> float:
    """Return the seconds that a resume from ``checkpoint`` takes; no step is trained."""
    from lightning.pytorch.trainer.connectors.checkpoint_connector import (
        _CheckpointConnector as Connector,
    )

    stage = built(folder, overrides, checkpoint)
    moments = []
    restore, resume_end = Connector._restore_modules_and_callbacks, Connector.resume_end

    def begin(self: Connector, path: Any) -> None:
        if not path:
            raise RuntimeError(f"{checkpoint} is not resumed from")
        moments.append(time.perf_counter())
        restore(self, path)

    def end(self: Connector) -> None:
        resume_end(self)
        moments.append(time.perf_counter())
        raise Restored

    Connector._restore_modules_and_callbacks, Connector.resume_end = begin, end
    with suppress(Restored):
        stage()
    started, ended = moments
    return ended - started


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=float, default=2e8, help="parameters, about (2e8)")
    parser.add_argument(
        "--saves", type=int, default=5, help="measured ones, and loads of each kind (5)"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder on the file system to measure (the temporary one)"
    )
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    overrides = overrides_of(options.params, options.saves)
    parameters = resolve_pretraining("phase1", "tiny", overrides).model.parameter_count.value
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        write_shards(folder, 1, documents=100)
        tokenizer.train(
            [tokenizer_files.FINGERPRINT_TEXT], tokenizer.MINIMUM_VOCAB_SIZE, folder / TOKENIZER
        )
        trained = elsewhere(train, folder, overrides)
        checkpoint = newest(folder)
        size = sum(path.stat().st_size for path in files_of(checkpoint))
        loads: dict[str, list[float]] = {COLD: [], WARM: []}
        reads: dict[str, list[float]] = {COLD: [], WARM: []}
        for _ in range(options.saves):
            for state in (COLD, WARM):
                put(checkpoint, state)
                reads[state].append(read(checkpoint))
                put(checkpoint, state)
                loads[state].append(elsewhere(load, folder, overrides, checkpoint))

    plain = [step["step"] for step in trained["steps"] if WRITING not in step]
    saves = [step for step in trained["steps"] if WRITING in step]
    stalls = [step["step"] - statistics.median(plain) for step in saves]

    def row(name: str, seconds: list[float], limit: list[float] | None = None) -> list[str]:
        median = statistics.median(seconds)
        times = f"{median / statistics.median(limit):.2f}" if limit else "-"
        figures = (f"{value:.4g}" for value in (median, min(seconds), max(seconds)))
        return [name, *figures, f"{size / 1e6 / median:,.1f}", times]

    rows = [
        row(
            "save",
            [sum(step[part] for part in PARTS if part != REMOVAL) for step in saves],
            trained["copies"],
        ),
        row("stall of training", stalls, trained["copies"]),
        row("copy with fsync", trained["copies"]),
    ]
    for state in (COLD, WARM):
        rows += [
            row(f"load, {state}", loads[state], reads[state]),
            row(f"plain read, {state}", reads[state]),
        ]
    columns = [f"{size / 1e6:,.1f} MB", "median s", "lowest", "highest", "MB/s", "time / limit"]
    report(columns, rows, f"{parameters / 1e6:,.1f}M parameters", f"{len(saves)} saves")
    parts = {part: [step[part] for step in saves] for part in PARTS}
    parts["other"] = [
        stall - sum(step[part] for part in PARTS) for stall, step in zip(stalls, saves, strict=True)
    ]
    parts |= {"the stall": stalls, "step without a save": plain}
    rows = [
        [
            name,
            *(
                f"{1000 * value:,.2f}"
                for value in (statistics.median(seconds), min(seconds), max(seconds))
            ),
        ]
        for name, seconds in parts.items()
    ]
    print_table(["of the stall", "median ms", "lowest", "highest"], rows)
    before, peak = trained["memory"]["before"], trained["memory"]["peak"]
    print(
        f"peak memory of a save: {(peak - before) / 1e6:,.1f} MB above the {before / 1e6:,.1f} "
        f"MB before it"
    )


if __name__ == "__main__":
    main()
