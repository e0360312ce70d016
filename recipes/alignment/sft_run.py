"""Supervised fine-tuning of one stage in its folder: check, resume, train, record."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.chat_template import read_chat_template, template_sha256
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.registry.resolve import resolve_sft
from recipes.runs.packed_folder import PackedFolder
from recipes.runs.packed_manifest import check_packed, num_held_out
from recipes.runs.stage_folder import latest_checkpoint
from recipes.runs.stage_manifest import (
    InitialCheckpoint,
    PackedData,
    StageManifest,
    read_manifest,
)
from recipes.spec.sft import SftRecipe
from recipes.training.initial_state import InitialState, initial_state
from recipes.training.preconditions import check_loader, check_processes
from recipes.training.stage_run import (
    StageRun,
    check_tracker,
    continued_manifest,
    has_learned,
    is_finished,
)

log = logging.getLogger(__name__)

# another number of epochs than the recipe's is worth a warning
_EPOCHS_TOLERANCE = 0.05


@dataclass(kw_only=True)
class SftRun(StageRun):
    """One start of a stage of supervised fine-tuning.

    Attributes:
        recipe: of the stage.
        packed: the packed conversations.
        checkpoint: what this start continues from: the stage's own or the initial one.
    """

    recipe: SftRecipe
    packed: PackedFolder
    checkpoint: Path

    def fit(self) -> dict[str, Any]:
        """Train; see :meth:`StageRun.fit`."""
        # here NeMo is imported
        from recipes.alignment.sft_fit import fit

        fit(
            self.recipe,
            self.manifest,
            self.folder,
            self.packed,
            self.checkpoint,
            self.tracker,
        )
        return {}


def prepare(
    stage: str,
    size: str,
    run_folder: Path,
    packed: Path,
    overrides: Sequence[str] = (),
    init: Path | None = None,
    tracker: str | None = None,
) -> SftRun | None:
    """Check all that a stage needs in ``run_folder/stage``; None where it is finished already.

    A stage that was interrupted continues from its last whole checkpoint, with the losses it would
    have had anyway.

    Args:
        packed: a folder that ``granite41 data pack`` wrote.
        stage, size, run_folder, overrides, init, tracker: see :func:`recipes.training.run.prepare`.

    Raises:
        UserError: packed conversations that are missing, damaged or do not fit; a folder of
            another recipe or other conversations; another tokenizer or chat template than the
            checkpoint has; a tracker that is not installed; and as
            :func:`recipes.training.initial_state`.
    """
    recipe = resolve_sft(stage, size, overrides)
    folder = run_folder / stage
    sequences = PackedFolder(packed)
    check_packed(packed, sequences.manifest, recipe)
    check_processes(recipe)
    check_tracker(tracker)

    # what a stage has learned is its own
    former = read_manifest(folder)
    continues = has_learned(folder, former)
    state = InitialState() if continues else initial_state(recipe, run_folder, init)
    checkpoint = latest_checkpoint(folder) or state.checkpoint
    if checkpoint is None:
        raise UserError(f"{folder}: holds no checkpoint to continue from; remove it to start again")

    _check_same_packed(folder, former, sequences)
    tokenizer = _check_tokenizer(checkpoint, sequences)
    if is_finished(folder, recipe, former):
        return None

    check_loader(tokenizer)
    manifest = _new_manifest(recipe, sequences, state)
    if former:
        manifest = continued_manifest(manifest, former, keeps_initial_state=continues)
    return SftRun(
        recipe=recipe,
        folder=folder,
        former_manifest=former,
        manifest=manifest,
        tracker=tracker,
        packed=sequences,
        checkpoint=checkpoint,
    )


def _check_same_packed(folder: Path, former: StageManifest | None, packed: PackedFolder) -> None:
    """Raise UserError where a stage's folder was begun with other conversations."""
    if former and (former.packed is None or former.packed.fingerprint != packed.fingerprint):
        raise UserError(
            f"{folder}: began on other conversations than {packed.folder} holds now; name the "
            f"former, or another --run-dir"
        )


def _check_tokenizer(checkpoint: Path, packed: PackedFolder) -> TokenizerFolder:
    """Return a checkpoint's tokenizer, which must have encoded the conversations.

    Raises:
        UserError: another tokenizer or another chat template has.
    """
    from recipes.model.bridge.to_hf import read_context

    _, folder = read_context(checkpoint / "context")
    tokenizer = TokenizerFolder(folder)
    stated = packed.manifest.tokenizer.fingerprint
    if not tokenizer.has_fingerprint(stated):
        raise UserError(
            f"{packed.folder}: packed with tokenizer {stated[:12]} but {checkpoint} has "
            f"{tokenizer.fingerprint[:12]}; pack the conversations with the checkpoint's "
            f"({folder})"
        )
    source, file = read_chat_template(folder)
    if template_sha256(source) != packed.manifest.template_sha256:
        raise UserError(
            f"{packed.folder}: packed with another chat template than {file}, which the trained "
            f"model would be used with; pack the conversations with {folder}"
        )
    return tokenizer


def _new_manifest(recipe: SftRecipe, packed: PackedFolder, state: InitialState) -> StageManifest:
    """Return the manifest of a stage's first start; log what the stage reads."""
    manifest = packed.manifest
    held_out = num_held_out(manifest.sequences, recipe.validation_share.value)
    trained = manifest.sequences - held_out
    epochs = recipe.steps.value * recipe.global_batch_size.value / trained
    log.info(
        "%s: %s conversations in %s sequences, %s of them held out; %.1f %% of the tokens are "
        "trained; %.2f epochs",
        recipe.stage,
        f"{manifest.conversations:,}",
        f"{manifest.sequences:,}",
        f"{held_out:,}",
        100 * manifest.trained_share,
        epochs,
    )
    expected = recipe.epochs.value
    if abs(epochs / expected - 1) > _EPOCHS_TOLERANCE:
        log.warning(
            "%s: %d steps read these sequences %.2f times, where the recipe has %d epochs; "
            "steps=%d would be as many",
            recipe.stage,
            recipe.steps.value,
            epochs,
            expected,
            round(expected * trained / recipe.global_batch_size.value),
        )
    return StageManifest(
        stage=recipe.stage,
        size=recipe.size,
        status="running",
        parent=recipe.parent,
        tokens=recipe.tokens.value,
        tokens_before=state.tokens,
        tokenizer_fingerprint=manifest.tokenizer.fingerprint,
        initial_state=InitialCheckpoint(str(state.checkpoint)),
        data={},
        packed=PackedData(
            fingerprint=packed.fingerprint,
            sequences=manifest.sequences,
            held_out=held_out,
            conversations=manifest.conversations,
            trained_share=manifest.trained_share,
            epochs=epochs,
        ),
        num_starts=1,
    )
