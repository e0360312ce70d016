"""One start of a stage whose checks have passed, of any kind: locked, trained, recorded."""

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.common.errors import LockedError
from recipes.registry.resolve import Recipe
from recipes.runs.stage_folder import latest_checkpoint, locked, write_recipe
from recipes.runs.stage_manifest import StageManifest, read_manifest
from recipes.spec.parallelism import cuda_device_max_connections
from recipes.training.full_disk import disk_full_as_user_error, is_first_rank
from recipes.training.metrics import read_metrics
from recipes.training.stage_record import StageRecord, failures_recorded

log = logging.getLogger(__name__)

METRICS = "metrics/steps.jsonl"


@dataclass(kw_only=True)
class StageRun(ABC):
    """One start of a stage whose checks have passed.

    Attributes:
        recipe: of the stage.
        folder: of the stage.
        former_manifest: what the folder held before; None where it held nothing.
        manifest: of this start.
        tracker: an experiment tracker in addition to TensorBoard.
        has_begun: whether this process has written the manifest of this start.
    """

    recipe: Recipe
    folder: Path
    former_manifest: StageManifest | None
    manifest: StageManifest
    tracker: str | None = None
    has_begun: bool = False

    @abstractmethod
    def fit(self) -> dict[str, Any]:
        """Train the stage to its end, from its last checkpoint if it has one.

        Returns:
            Fields that only a finished stage's manifest has, besides those of :meth:`train`.

        Raises:
            SystemExit: a signal stopped the stage.
        """

    def train(self) -> None:
        """Train the stage to its end; on the first rank also lock its folder and record the result.

        The manifest of a stage that is finished names its last checkpoint and validation loss.

        Raises:
            UserError: another process trains in the folder, or the disk is full.
            SystemExit: a signal stopped the stage.
        """
        # CUDA reads it when it starts; a cluster file may say otherwise
        connections = cuda_device_max_connections(self.recipe.parallelism)
        if connections:
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", connections)

        # the other ranks train only: the first one locks and records
        if not is_first_rank():
            with disk_full_as_user_error(self.folder):
                self.fit()
            return

        with locked(self.folder):
            if read_manifest(self.folder) != self.former_manifest:
                raise LockedError(
                    f"{self.folder}: another process trained in this folder until just now; run "
                    f"again to continue"
                )
            # the manifest says running before the first step, so that a kill leaves it so
            write_recipe(self.folder, self.recipe)
            record = StageRecord(self.folder, self.manifest)
            record.begin()
            self.has_begun = True
            with failures_recorded(record), disk_full_as_user_error(self.folder):
                results = self.fit()
                record.finish(**self._last_results(), **results)

    def _last_results(self) -> dict[str, Any]:
        # the last checkpoint is of the last step: training saves there in any case
        checkpoint = latest_checkpoint(self.folder)
        lines = read_metrics(self.folder / METRICS)
        validation_losses = [line["val_loss"] for line in lines if "val_loss" in line]
        return {
            "checkpoint": str(checkpoint.relative_to(self.folder)) if checkpoint else None,
            # a kind of stage may have no validation
            "validation_loss": validation_losses[-1] if validation_losses else None,
        }


def is_finished(folder: Path, recipe: Recipe, former: StageManifest | None) -> bool:
    """Whether a stage has finished already, with this recipe; log that there is nothing to do.

    Raises:
        UserError: it has finished with another recipe.
    """
    if former is None or not former.is_finished:
        return False
    write_recipe(folder, recipe)
    log.info("%s: finished already, nothing to do (%s)", recipe.stage, folder)
    return True


def has_learned(folder: Path, former: StageManifest | None) -> bool:
    """Whether a stage has a state of its own to continue from; before, it starts again."""
    if former is None:
        return False
    return former.is_finished or latest_checkpoint(folder) is not None


def continued_manifest(
    manifest: StageManifest, former: StageManifest, keeps_initial_state: bool
) -> StageManifest:
    """Return the manifest of a further start.

    A stage that continues keeps its initial state even if its parent's folder has changed.
    """
    manifest = replace(
        manifest,
        data_progress_before=former.data_progress_before,
        num_starts=former.num_starts + 1,
        seconds=former.seconds,
    )
    if not keeps_initial_state:
        return manifest
    return replace(manifest, initial_state=former.initial_state, tokens_before=former.tokens_before)


def check_tracker(tracker: str | None) -> None:
    """Raise UserError where a tracker is not installed."""
    if tracker:
        from recipes.training import trackers

        trackers.check_tracker(tracker)
