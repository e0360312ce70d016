"""Train one stage in its folder: check, resume, train, record. NeMo is imported when it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import read_json
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import (
    UNIGRAM_COUNTS,
    DataManifest,
    blend,
    component_weights,
    read_data_manifest,
)
from recipes.runs.stage_manifest import (
    RANDOM_WEIGHTS,
    InitialCheckpoint,
    ShardProgress,
    StageManifest,
    TrainingShard,
    read_manifest,
)
from recipes.runs.unigram_entropy import blend_entropy
from recipes.spec.pretraining import PretrainRecipe
from recipes.training.fit import fit
from recipes.training.initial_state import InitialState, initial_state
from recipes.training.preconditions import (
    check_checkpoint_tokenizer,
    check_data,
    check_data_tokenizer,
    check_loader,
    check_processes,
    check_same_data,
    check_stage_tokenizer,
)
from recipes.training.stage_run import (
    StageRun,
    check_tracker,
    continued_manifest,
    has_learned,
    is_finished,
)


@dataclass(kw_only=True)
class PretrainRun(StageRun):
    """One start of a stage of pre-training or long-context extension.

    Attributes:
        recipe: of the stage.
        overrides: that the recipe was resolved with.
        data: the folder of prepared data.
        data_manifest: of that folder.
        initial_state: what the stage starts from where it has no checkpoint of its own yet.
    """

    recipe: PretrainRecipe
    overrides: Sequence[str]
    data: Path
    data_manifest: DataManifest
    initial_state: InitialState

    def fit(self) -> dict[str, Any]:
        """Train; see :meth:`StageRun.fit`."""
        fitted = fit(
            self.manifest,
            self.overrides,
            self.folder,
            self.data,
            self.data / self.data_manifest.tokenizer.folder,
            self.initial_state,
            self.tracker,
        )

        # shards that this stage does not read keep their progress for the next stages
        progress = dict(self.manifest.data_progress_before)
        for prefix, read in fitted.read.items():
            shard = self.manifest.data[prefix]
            progress[shard.bin_sha256] = ShardProgress(prefix, **read)
        return {
            "unigram_entropy": unigram_entropy(self.data, self.data_manifest, self.recipe),
            "data_progress": progress,
            "repeated_components": fitted.repeated_components,
        }


def prepare(
    stage: str,
    size: str,
    run_folder: Path,
    data: Path,
    overrides: Sequence[str] = (),
    init: Path | None = None,
    tracker: str | None = None,
) -> PretrainRun | None:
    """Check all that a stage needs in ``run_folder/stage``; None where it is finished already.

    A stage starts from the weights of the stage before it, its own learning rate, and no sample
    consumed; it continues to read each shard where the stages before it have stopped. One that was
    interrupted continues from its last whole checkpoint, with the losses it would have had anyway.

    Args:
        stage: a stage whose recipe is ready.
        size: model size.
        run_folder: the folder of the whole run.
        data: a folder of prepared data with its manifest.
        overrides: ``key=value`` as ``granite41 show`` names them.
        init: a NeMo checkpoint, or a finished stage's folder, to start from in place of the stage
            before.
        tracker: ``wandb`` or ``mlflow``, in addition to TensorBoard.

    Raises:
        UserError: no recipe yet, data that is missing or does not fit, a folder of another recipe
            or other data, another tokenizer than the data, the folder or the parent stage has, a
            tracker that is not installed; and as :func:`recipes.training.initial_state`.
    """
    recipe = resolve_pretraining(stage, size, overrides)
    folder = run_folder / stage
    data_manifest = read_data_manifest(data)
    shards = _training_shards(recipe, data_manifest)
    tokenizer = TokenizerFolder(data / data_manifest.tokenizer.folder)
    check_data(data, data_manifest, tokenizer, list(shards), recipe)
    check_processes(recipe)
    check_tracker(tracker)

    # what a stage has learned is its own
    former = read_manifest(folder)
    continues = has_learned(folder, former)
    state = InitialState() if continues else initial_state(recipe, run_folder, init)

    _check_tokenizers(data, data_manifest, tokenizer, folder, former, state)
    check_same_data(folder, former, data, shards)
    if is_finished(folder, recipe, former):
        return None

    check_loader(tokenizer)
    manifest = _new_manifest(recipe, data_manifest, shards, state)
    if former:
        manifest = continued_manifest(manifest, former, keeps_initial_state=continues)
    return PretrainRun(
        recipe=recipe,
        folder=folder,
        former_manifest=former,
        manifest=manifest,
        tracker=tracker,
        overrides=overrides,
        data=data,
        data_manifest=data_manifest,
        initial_state=state,
    )


def _check_tokenizers(
    data: Path,
    data_manifest: DataManifest,
    tokenizer: TokenizerFolder,
    folder: Path,
    former: StageManifest | None,
    state: InitialState,
) -> None:
    """Check that the data, the stage's folder and its initial checkpoint have one tokenizer."""
    # the data with its own tokenizer, then each of the others with the data
    check_data_tokenizer(data, data_manifest, tokenizer)
    if former:
        check_stage_tokenizer(folder, former, data, tokenizer)
    if state.checkpoint and state.manifest:
        check_stage_tokenizer(state.checkpoint, state.manifest, data, tokenizer)
    if state.checkpoint:
        check_checkpoint_tokenizer(state.checkpoint, data, tokenizer)


def _training_shards(
    recipe: PretrainRecipe, data_manifest: DataManifest
) -> dict[str, TrainingShard]:
    """Return prefix -> shard, for those that the recipe's mixture reads."""
    shards = data_manifest.shards()
    result = {}
    # a component's weight is divided over its shards by their tokens
    for weight, path in blend(data_manifest, recipe.mixture_percent):
        prefix = str(path)
        component, shard = shards[prefix]
        result[prefix] = TrainingShard(weight, component, shard.bin_sha256, shard.idx_sha256)
    return result


def _new_manifest(
    recipe: PretrainRecipe,
    data_manifest: DataManifest,
    shards: dict[str, TrainingShard],
    state: InitialState,
) -> StageManifest:
    """Return the manifest of a stage's first start."""
    return StageManifest(
        stage=recipe.stage,
        size=recipe.size,
        status="running",
        parent=recipe.parent,
        tokens=recipe.tokens_per_batch.value * recipe.steps.value,
        tokens_before=state.tokens,
        tokenizer_fingerprint=data_manifest.tokenizer.fingerprint,
        initial_state=InitialCheckpoint(
            str(state.checkpoint or RANDOM_WEIGHTS), state.optimizer_state
        ),
        data=shards,
        data_progress_before=state.manifest.data_progress if state.manifest else {},
        num_starts=1,
    )


def unigram_entropy(
    data: Path, data_manifest: DataManifest, recipe: PretrainRecipe
) -> float | None:
    """Return the blend's unigram entropy in nats per token; None where the data has no counts.

    Raises:
        UserError: the file of counts is damaged.
    """
    counts = data / UNIGRAM_COUNTS
    if not counts.exists():
        return None
    # the entropy of the blend that was read, not of the files as they are
    weights = component_weights(data_manifest, recipe.mixture_percent)
    occurrences = read_json(counts, "prepare the data again")
    try:
        for component in weights:
            # numpy takes null for a number
            if not all(type(count) is int for count in occurrences[component]):
                raise TypeError(f"{component}: not only whole numbers")
        return blend_entropy(occurrences, weights)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{counts}: is damaged ({error}), expected the count of each token id for every "
            f"component; prepare the data again"
        ) from error
