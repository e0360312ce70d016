"""The part of a stage that needs NeMo: build its ``nemo_run`` recipe and run it in this process."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.runs.stage_folder import latest_checkpoint
from recipes.runs.stage_manifest import StageManifest
from recipes.training.initial_state import InitialState

if TYPE_CHECKING:
    import nemo_run as run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """How far a stage has read its data.

    Attributes:
        read: prefix of each shard -> ``next_document`` and ``epochs`` after the stage.
        repeated_components: component -> epochs, for those that the stage reads more than once.
    """

    read: dict[str, dict[str, Any]]
    repeated_components: dict[str, float]


def fit(
    manifest: StageManifest,
    overrides: Sequence[str],
    folder: Path,
    data: Path,
    tokenizer: Path,
    initial_state: InitialState,
    tracker: str | None = None,
) -> FitResult:
    """Train a stage, from its last checkpoint if it has one.

    Args:
        manifest: of the stage, as it is at its start.
        overrides: of the recipe.
        folder: of the stage.
        data: the data folder, to which the shards' prefixes are relative.
        tokenizer: its folder.
        initial_state: what the stage starts from where it has no checkpoint of its own yet.
        tracker: in addition to TensorBoard, see :mod:`recipes.training.trackers`.
    """
    import fiddle

    from recipes.training.trackers import add_tracker, tracked, tracker_loggers

    # the recipe is plain configuration until fiddle builds it
    quiet_libraries()
    recipe = _build_recipe(manifest, overrides, folder, data, tokenizer)
    _set_environment(recipe)
    _set_checkpoint(recipe, manifest.stage, folder, initial_state)
    if tracker:
        add_tracker(recipe.log, tracker, folder)

    # from here on NeMo's objects exist: model, data module, trainer, loggers
    pretrain = fiddle.build(recipe)
    loggers = tracker_loggers(pretrain.keywords["log"])
    with tracked(loggers, tracker, folder, manifest), _log_file_errors_ignored():
        pretrain()

    # the data module has counted the documents that its samples touched
    module = pretrain.keywords["data"]
    read = {prefix: module.read[str(data / prefix)] for prefix in manifest.data}
    return FitResult(read, module.repeats)


def _build_recipe(
    manifest: StageManifest, overrides: Sequence[str], folder: Path, data: Path, tokenizer: Path
) -> "run.Partial":
    """Return the stage's ``nemo_run`` recipe for the processes that the launcher has started."""
    from recipes.training.pretraining import pretraining_recipe

    # Megatron's form of a blend: weight, prefix, weight, prefix, ...
    blend: list[str | float] = []
    for prefix, shard in manifest.data.items():
        blend += [shard.weight, str(data / prefix)]
    # torchrun's variables; without them this process is the only one
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    recipe = pretraining_recipe(
        manifest.stage,
        manifest.size,
        list(overrides),
        folder=str(folder),
        data=blend,
        tokenizer=str(tokenizer),
        index_cache=str(folder / "index"),
        devices=devices,
        num_nodes=int(os.environ.get("WORLD_SIZE", "1")) // devices,
    )
    states = _shard_states(manifest)
    recipe.data.shards = {str(data / prefix): state for prefix, state in states.items()}
    return recipe


def _set_environment(recipe: "run.Partial") -> None:
    """Have Lightning take this process for the only one, unless torchrun has started it.

    In an allocation (salloc, JupyterHub) it would look for as many as Slurm has tasks.
    """
    import nemo_run as run
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from torch.distributed import is_torchelastic_launched

    if is_torchelastic_launched():
        return
    precision = recipe.trainer.plugins
    recipe.trainer.plugins = [run.Config(LightningEnvironment)]
    if precision:
        recipe.trainer.plugins.append(precision)


def _set_checkpoint(
    recipe: "run.Partial", stage: str, folder: Path, initial_state: InitialState
) -> None:
    """Let a recipe resume the stage's last checkpoint, or else start from its initial state."""
    import nemo_run as run
    from nemo import lightning as nl

    # own progress first: the initial state is for a stage that has none
    checkpoint = latest_checkpoint(folder)
    if checkpoint:
        recipe.resume.resume_from_path = str(checkpoint)
    elif initial_state.checkpoint:
        recipe.resume.restore_config = run.Config(
            nl.RestoreConfig,
            path=str(initial_state.checkpoint),
            load_optim_state=initial_state.optimizer_state == "carry",
        )
        log.info(
            "%s: starts from %s, optimizer moments %s",
            stage,
            initial_state.checkpoint,
            initial_state.optimizer_state,
        )


def _shard_states(manifest: StageManifest) -> Mapping[str, dict[str, Any]]:
    """Return prefix -> ``component``; ``next_document`` and ``epochs`` where it was read before."""
    states: dict[str, dict[str, Any]] = {}
    for prefix, shard in manifest.data.items():
        states[prefix] = {"component": shard.component}
        # by content, not by name: a shard may have moved since an earlier stage read it
        progress = manifest.data_progress_before.get(shard.bin_sha256)
        if progress:
            states[prefix]["next_document"] = progress.next_document
            states[prefix]["epochs"] = progress.epochs
    return states


def quiet_libraries() -> None:
    """Leave the terminal to progress lines and errors; NeMo logs everything in ``folder/logs``."""
    from nemo.utils import logging as nemo_logging

    nemo_logging.set_verbosity(nemo_logging.ERROR)
    # Lightning prints what it finds and does not find on the machine
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _log_file_errors_ignored() -> Iterator[None]:
    """Keep a log file that does not fit on a full disk from hiding the error that says so."""
    former = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = former
