"""A step of supervised fine-tuning of size tiny against its forward, backward and optimizer alone.

    python benchmarks/sft.py [--steps 5] [--blocks 5] [--threads 1]

Method: one process with one model takes turns. In a block of the stage, NeMo-Aligner's trainer does
``--steps`` steps as ``granite41 train sft`` does: batches of a packed folder, loss over all trained
tokens, metrics, TensorBoard, the check for signals; without validation and checkpoints. In the
block after it the same number of steps is Megatron's schedule and optimizer alone, on a batch that
is ready. The first block of each warms up and is left out. A figure is processor time, the median
over the blocks, the ratio the median over the pairs.

The sequences hold conversations of 20 to 200 random ids, filled to the stage's length.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cli import report

sys.path.insert(0, str(Path(__file__).parents[1]))

# the CPU backend must be on before anything of Megatron runs
from recipes.alignment import sft_fit  # isort: skip
from recipes.alignment.checkpoint import Training
from recipes.alignment.model import GraniteSFTModel, build_model
from recipes.alignment.optimizer import make_trainable
from recipes.alignment.processes import process_groups
from recipes.alignment.sft_trainer import StageTrainer
from recipes.registry.resolve import resolve_sft
from recipes.runs.packed_folder import PackedFolder, PackedSequence
from recipes.spec.sft import SftRecipe
from recipes.training.fit import quiet_libraries
from tests.helpers.packed_folders import write_packed

STAGE, ALONE = "stage", "forward, backward, optimizer"


class Blocks(StageTrainer):
    """The stage's trainer, a block of steps at a time."""

    def train(self, steps: int) -> float:
        """Do some steps; return the seconds that they took."""
        self.max_steps = self.step + steps
        start = time.process_time()
        self.fit()
        if self.stopped_by:
            raise SystemExit(128 + self.stopped_by)
        return time.process_time() - start

    def run_validation(self) -> tuple[float, dict[str, float]]:
        """Do nothing."""
        return 0.0, {}


def no_checkpoint(*arguments: Any) -> None:
    """Write nothing."""


def alone(training: Training, batch: list[Any], steps: int) -> float:
    """Do steps with nothing around them; return the seconds that they took."""
    start = time.process_time()
    for _ in range(steps):
        training.optimizer.zero_grad()
        training.model.prepare_for_training_step()
        training.model.run_schedule(batch, forward_only=False)
        training.optimizer.step()
    return time.process_time() - start


def write_conversations(folder: Path, recipe: SftRecipe) -> PackedFolder:
    """Write four batches of packed sequences."""
    generator = np.random.default_rng(0)
    length = recipe.sequence_length.value
    sequences = []
    for _ in range(4 * recipe.global_batch_size.value):
        bounds = [0]
        while bounds[-1] < length:
            end = bounds[-1] + int(generator.integers(20, 200))
            bounds.append(min(end, length))
        trained = generator.random(length) < 0.5
        trained[bounds[:-1]] = False
        sequences.append(
            PackedSequence(
                generator.integers(0, 320, length, dtype=np.int32), trained, np.array(bounds)
            )
        )
    return write_packed(folder, sequences)


@contextmanager
def trainer(recipe: SftRecipe, folder: Path) -> Iterator[tuple[Blocks, Training, list[Any]]]:
    """Yield the stage's trainer, its model and a batch."""
    packed = write_conversations(folder / "packed", recipe)
    with process_groups(recipe.parallelism):
        model = build_model(GraniteSFTModel, recipe, recipe.global_batch_size.value)
        tokens = recipe.global_batch_size.value * recipe.sequence_length.value
        training = Training(model, *make_trainable(model, recipe, recipe.schedule, tokens))
        loaders = sft_fit.loaders(recipe, packed)
        lines = sft_fit.step_log(recipe, folder)
        loggers = sft_fit.tensorboard(folder)
        made = Blocks(recipe, training, loaders, no_checkpoint, lines, loggers)
        yield made, training, next(iter(loaders[0]))


def main() -> None:
    """Print a table of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()

    recipe = resolve_sft("sft", "tiny", [f"steps={options.steps * options.blocks + 1}"])
    seconds: dict[str, list[float]] = {STAGE: [], ALONE: []}
    with tempfile.TemporaryDirectory() as folder, trainer(recipe, Path(folder)) as made:
        blocks, training, batch = made
        for block in range(options.blocks):
            stage = blocks.train(options.steps)
            core = alone(training, batch, options.steps)
            if block:
                seconds[STAGE].append(stage / options.steps)
                seconds[ALONE].append(core / options.steps)

    ratios = [one / other for one, other in zip(seconds[STAGE], seconds[ALONE], strict=True)]
    medians = [f"{1000 * statistics.median(found):.1f}" for found in seconds.values()]
    size = f"{options.blocks - 1} blocks of {options.steps} steps"
    report(
        ["a step", *seconds, "ratio"],
        [["ms", *medians, f"{statistics.median(ratios):.3f}"]],
        f"{options.threads} torch threads",
        size,
    )


if __name__ == "__main__":
    main()
