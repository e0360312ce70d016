"""The part of a stage of supervised fine-tuning that needs NeMo-Aligner."""

import logging
from pathlib import Path
from typing import Any

import fiddle
from lightning.pytorch.loggers import TensorBoardLogger
from megatron.core import parallel_state
from torch.utils.data import DataLoader

from recipes.alignment.checkpoint import CheckpointWriter, Training, load_training, load_weights
from recipes.alignment.model import GraniteSFTModel, build_model
from recipes.alignment.optimizer import make_trainable
from recipes.alignment.processes import process_groups
from recipes.alignment.sequence_order import SequenceOrder, TrainBatches, ValidationBatches
from recipes.alignment.sft_data import loader
from recipes.alignment.sft_trainer import StageTrainer
from recipes.runs.packed_folder import PackedFolder
from recipes.runs.stage_folder import latest_checkpoint
from recipes.runs.stage_manifest import StageManifest
from recipes.spec.sft import SftRecipe
from recipes.training.fit import quiet_libraries
from recipes.training.full_disk import is_first_rank
from recipes.training.stage_run import METRICS
from recipes.training.step_log import StepLog
from recipes.training.trackers import tracked, tracker_logger

log = logging.getLogger(__name__)


def fit(
    recipe: SftRecipe,
    manifest: StageManifest,
    folder: Path,
    packed: PackedFolder,
    checkpoint: Path,
    tracker: str | None = None,
) -> None:
    """Train a stage to its end, from its last checkpoint if it has one.

    Args:
        recipe: of the stage.
        manifest: of the stage, as it is at its start.
        folder: of the stage.
        packed: the conversations.
        checkpoint: that the stage continues from: its own last one, or the one it starts from.
        tracker: in addition to TensorBoard, see :mod:`recipes.training.trackers`.

    Raises:
        SystemExit: a signal stopped the stage.
    """
    quiet_libraries()
    with process_groups(recipe.parallelism):
        trackers = tracker_loggers(tracker, folder)
        with tracked(trackers, tracker, folder, manifest):
            training = build_training(recipe, folder, checkpoint)
            trainer = StageTrainer(
                recipe,
                training,
                loaders(recipe, packed),
                CheckpointWriter(folder, recipe, checkpoint).save,
                step_log(recipe, folder),
                [*trackers, *tensorboard(folder)],
            )
            own = latest_checkpoint(folder)
            if own:
                trainer.load_state_dict(load_training(training, own))
            trainer.fit()
            if trainer.stopped_by:
                raise SystemExit(128 + trainer.stopped_by)


def build_training(recipe: SftRecipe, folder: Path, checkpoint: Path) -> Training:
    """Return the model with its optimizer, as it is at the start of a stage.

    The weights of a stage that continues are loaded together with the rest of its checkpoint.
    """
    # weights first: the optimizer makes its own copies of them
    model = build_model(GraniteSFTModel, recipe, recipe.global_batch_size.value)
    if latest_checkpoint(folder) is None:
        log.info("%s: starts from %s", recipe.stage, checkpoint)
        load_weights(model, checkpoint)
    optimizer, scheduler = make_trainable(model, recipe, recipe.schedule, _tokens_per_step(recipe))
    return Training(model, optimizer, scheduler)


def loaders(recipe: SftRecipe, packed: PackedFolder) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of this rank's training and validation batches."""
    order = SequenceOrder(len(packed), recipe.seed.value, recipe.validation_share.value)
    size = recipe.global_batch_size.value
    rank = parallel_state.get_data_parallel_rank()
    ranks = parallel_state.get_data_parallel_world_size()
    training = TrainBatches(order, recipe.steps.value, size, rank, ranks)
    validation = ValidationBatches(order, size, rank, ranks)
    return (
        loader(packed, training, recipe.parallelism),
        loader(packed, validation, recipe.parallelism),
    )


def step_log(recipe: SftRecipe, folder: Path) -> StepLog:
    """Return the writer of the stage's metrics."""
    return StepLog(recipe.stage, recipe.steps.value, _tokens_per_step(recipe), folder / METRICS)


def _tokens_per_step(recipe: SftRecipe) -> int:
    return recipe.global_batch_size.value * recipe.sequence_length.value


def tracker_loggers(tracker: str | None, folder: Path) -> list[Any]:
    """Return Lightning's loggers of a tracker; none without one, or on another rank."""
    if tracker is None or not is_first_rank():
        return []
    return [fiddle.build(tracker_logger(tracker, folder))]


def tensorboard(folder: Path) -> list[Any]:
    """Return TensorBoard's logger; none on another rank than the first."""
    if not is_first_rank():
        return []
    return [TensorBoardLogger(save_dir=folder, name="metrics", version="tensorboard")]
