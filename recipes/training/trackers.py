"""Experiment trackers in addition to TensorBoard: Weights & Biases and MLflow, with a lineage.

A tracker's own environment variables say where it stores runs and who may (``WANDB_PROJECT``,
``WANDB_MODE``, ``WANDB_API_KEY``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` ...): the
recipe holds none of them, so that no secret is in a file of the run.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.common.json_files import read_json_or_none, write_json
from recipes.common.versions import commit
from recipes.runs.stage_folder import RECIPE, latest_checkpoint, read_recipe
from recipes.runs.stage_manifest import MANIFEST, RANDOM_WEIGHTS, StageManifest
from recipes.training.full_disk import is_first_rank

PROJECT = "granite41"
# tracker -> the package that a user installs
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
# of a stage's folder: tracker -> id of its run, which a further start of the stage continues
RUN_IDS = "metrics/tracked_runs.json"


def check_tracker(tracker: str, is_used_here: bool = True) -> None:
    """Raise UserError unless ``tracker`` is one of :data:`TRACKERS`, and installed if used here."""
    if tracker not in TRACKERS:
        raise UserError(
            f"--log {tracker}: not one of {', '.join(TRACKERS)}{nearest(tracker, TRACKERS)}; "
            f"TensorBoard's files are written in any case"
        )
    if is_used_here and importlib.util.find_spec(tracker) is None:
        raise UserError(
            f"--log {tracker}: the package is not installed; run `pip install {TRACKERS[tracker]}`"
        )


def tracker_logger(tracker: str, folder: Path) -> Any:
    """Return ``run.Config`` of Lightning's logger for a tracker.

    Args:
        tracker: one of :data:`TRACKERS`.
        folder: of the stage; its parent is the run's.
    """
    import nemo_run as run
    from lightning.pytorch.loggers import WandbLogger

    from recipes.training.mlflow_logger import StageMLFlowLogger

    run_folder = folder.resolve().parent
    name = f"{run_folder.name}/{folder.name}"
    run_id = (read_json_or_none(folder / RUN_IDS) or {}).get(tracker)
    if tracker == "wandb":
        return run.Config(
            WandbLogger,
            name=name,
            id=run_id,
            save_dir=str(folder / "metrics"),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
        )
    return run.Config(
        StageMLFlowLogger,
        run_name=name,
        run_id=run_id,
        save_dir=str(run_folder / "mlruns"),
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
    )


def add_tracker(log_config: Any, tracker: str, folder: Path) -> None:
    """Add :func:`tracker_logger` to the ``NeMoLogger`` of a ``nemo_run`` recipe.

    Args:
        log_config: ``run.Config`` of a ``NeMoLogger``.
        tracker: one of :data:`TRACKERS`.
        folder: of the stage.
    """
    config = tracker_logger(tracker, folder)
    if tracker == "wandb":
        log_config.wandb = config
    else:
        log_config.extra_loggers = [config]


@contextmanager
def tracked(
    loggers: Sequence[Any], tracker: str | None, folder: Path, manifest: StageManifest
) -> Iterator[None]:
    """Have the tracker's run of a stage, new or continued, record its lineage and its end.

    Args:
        loggers: Lightning's, of the tracker; none without one.
        tracker: None for no tracker.
        folder: of the stage.
        manifest: of the stage, as it is at its start.

    Raises:
        UserError: the tracker cannot start a run.
    """
    for logger in loggers:
        try:
            logger.log_hyperparams(lineage(folder, manifest))
            run_id = logger.version
        except Exception as error:  # each tracker, and its transport, has exceptions of its own
            raise UserError(
                f"--log {tracker}: no run could be started ({type(error).__name__}); log in to it, "
                f"check its environment variables and the network, or leave --log out"
            ) from error
        if run_id and is_first_rank():
            write_json(folder / RUN_IDS, {str(tracker): run_id})

    exit_code = 1
    try:
        yield
        checkpoint = latest_checkpoint(folder)
        for logger in loggers:
            logger.log_hyperparams({"artifacts/checkpoint": str(checkpoint)})
        exit_code = 0
    finally:
        # a process that was forked ends without what wandb does at its exit
        if tracker == "wandb" and is_first_rank():
            for logger in loggers:
                logger.experiment.finish(exit_code=exit_code)


def lineage(folder: Path, manifest: StageManifest) -> dict[str, Any]:
    """Return what a tracker's run records of a stage: its recipe, its parent and its files.

    Args:
        folder: of the stage, with its ``recipe.yaml``.
        manifest: of the stage.
    """
    folder = folder.absolute()
    record: dict[str, Any] = {
        "stage": manifest.stage,
        "size": manifest.size,
        "code": commit(),
        "tokens": manifest.tokens,
        "tokens_before": manifest.tokens_before,
        "artifacts/recipe": str(folder / RECIPE),
        "artifacts/manifest": str(folder / MANIFEST),
        "artifacts/checkpoints": str(folder / "checkpoints"),
    }
    for name, value in read_recipe(folder).values.items():
        record[f"recipe/{name}"] = value
    for name, value in _parent(manifest).items():
        record[f"parent/{name}"] = value
    return record


def _parent(manifest: StageManifest) -> dict[str, Any]:
    """Return the checkpoint that a stage starts from, and the record of the stage that left it."""
    initial = manifest.initial_state
    parent: dict[str, Any] = {
        "checkpoint": initial.checkpoint,
        "optimizer_state": initial.optimizer_state,
    }
    if initial.checkpoint == RANDOM_WEIGHTS:
        return parent

    # STAGE/merged, or STAGE/checkpoints/NAME
    for stage_folder in list(Path(initial.checkpoint).absolute().parents)[:2]:
        path = stage_folder / MANIFEST
        if path.is_file():
            parent["stage"] = stage_folder.name
            parent["manifest"] = str(path)
            parent["manifest_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            parent["code"] = read_recipe(stage_folder).code
            break
    return parent


def tracker_loggers(nemo_logger: Any) -> list[Any]:
    """Return Lightning's loggers of the trackers in a ``NeMoLogger``."""
    loggers = [nemo_logger.wandb, *nemo_logger.extra_loggers]
    return [logger for logger in loggers if logger is not None]
