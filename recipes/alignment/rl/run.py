"""Reinforcement learning of one stage in its folder: check, resume, train, record."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.alignment.rewards.functions import REWARD_MODEL, require_known
from recipes.alignment.rl.inputs import Encode, StageInputs
from recipes.alignment.rl.reference import check_same_reference, reference_policy
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.registry.resolve import resolve_rl
from recipes.runs.prompts import PromptFolder, stage_prompts
from recipes.runs.stage_manifest import (
    InitialCheckpoint,
    PromptData,
    ReferencePolicy,
    StageManifest,
    read_manifest,
)
from recipes.spec.rl import RlRecipe
from recipes.training.full_disk import is_first_rank
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

# another number of passes than the recipe's is worth a warning
_PROMPTS_TOLERANCE = 0.05
# of the prompts that are too long, the ids in a message
_MOST_NAMES = 3


@dataclass(kw_only=True)
class RlRun(StageRun):
    """One start of a stage of reinforcement learning.

    Attributes:
        recipe: of the stage.
        inputs: that it reads.
    """

    recipe: RlRecipe
    inputs: StageInputs

    def fit(self) -> dict[str, Any]:
        """Train; see :meth:`StageRun.fit`."""
        # here NeMo is imported
        from recipes.alignment.rl.fit import fit

        tokens = fit(self.recipe, self.manifest, self.folder, self.inputs, self.tracker)
        return {"tokens": tokens}


def prepare(
    stage: str,
    size: str,
    run_folder: Path,
    prompts: Path,
    load_encoder: Callable[[Path], Encode],
    reward_model: tuple[str, str] | None = None,
    overrides: Sequence[str] = (),
    init: Path | None = None,
    tracker: str | None = None,
) -> RlRun | None:
    """Check all that a stage needs in ``run_folder/stage``; None where it is finished already.

    A stage starts from the weights of the stage before it, which are its reference policy too. One
    that was interrupted continues from its last whole checkpoint, with the prompts and the rewards
    it would have had anyway.

    Args:
        stage: a stage of reinforcement learning.
        size: model size.
        run_folder: the folder of the whole run.
        prompts: a folder that ``granite41 data prompts`` wrote, or of such by stage.
        load_encoder: a tokenizer's folder to what encodes prompts with it and its chat template.
        reward_model: where it is and its name; needed by prompts that ask for one.
        overrides: ``key=value`` as ``granite41 show`` names them.
        init: a NeMo checkpoint, or a finished stage's folder, to start from in place of the stage
            before.
        tracker: ``wandb`` or ``mlflow``, in addition to TensorBoard.

    Raises:
        UserError: prompts that are missing, damaged or longer than the context; a folder of another
            recipe, other prompts or another reference policy; a tracker that is not installed; and
            as :func:`recipes.training.initial_state`.
    """
    recipe = resolve_rl(stage, size, overrides)
    folder = run_folder / stage
    prompts = stage_prompts(prompts, stage)
    questions = PromptFolder(prompts)
    _check_prompts(prompts, questions, recipe, reward_model)
    check_processes(recipe)
    check_tracker(tracker)

    former = read_manifest(folder)
    _check_same_prompts(folder, former, prompts, questions)
    if is_finished(folder, recipe, former):
        return None
    continues = has_learned(folder, former)
    state = InitialState() if continues else initial_state(recipe, run_folder, init)
    reference = state.checkpoint
    if former and continues:
        reference = Path(former.initial_state.checkpoint)
    if reference is None:
        raise UserError(f"{stage} starts from a checkpoint: name one with --init")
    tokenizer = _tokenizer(reference)
    check_loader(tokenizer)
    encode = load_encoder(tokenizer.folder)
    # one rank is enough, and the others wait for it
    identity = None
    if is_first_rank():
        _check_lengths(prompts, questions, encode, recipe)
        identity = reference_policy(reference)
        if former and continues:
            check_same_reference(folder, former, identity)

    manifest = _new_manifest(recipe, questions, tokenizer, state, identity)
    if former:
        manifest = continued_manifest(manifest, former, keeps_initial_state=continues)
    return RlRun(
        recipe=recipe,
        folder=folder,
        former_manifest=former,
        manifest=manifest,
        tracker=tracker,
        inputs=StageInputs(questions, encode, reference, tokenizer, reward_model),
    )


def _check_prompts(
    prompts: Path,
    questions: PromptFolder,
    recipe: RlRecipe,
    reward_model: tuple[str, str] | None,
) -> None:
    """Raise UserError where prompts are of another domain than the stage's, or cannot be scored."""
    manifest = questions.manifest
    require_known(manifest.rewards, str(prompts))
    foreign = sorted(set(manifest.domains) - set(recipe.domains.value))
    if foreign:
        raise UserError(
            f"{prompts}: has prompts of the domain {foreign[0]!r}, expected those of "
            f"{recipe.stage}: {', '.join(recipe.domains.value)}; prepare prompts for this stage, "
            f"or set domains"
        )
    if REWARD_MODEL in manifest.rewards and reward_model is None:
        raise UserError(
            f"{prompts}: {manifest.rewards[REWARD_MODEL]:,} prompts are scored by a reward model: "
            f"name it with --reward-model"
        )


def _check_same_prompts(
    folder: Path, former: StageManifest | None, prompts: Path, questions: PromptFolder
) -> None:
    """Raise UserError where a stage's folder was begun with other prompts."""
    if former is None:
        return
    if former.prompts is None or former.prompts.fingerprint != questions.manifest.fingerprint:
        raise UserError(
            f"{folder}: began on other prompts than {prompts} holds now; name the former, or "
            f"another --run-dir"
        )


def _tokenizer(checkpoint: Path) -> TokenizerFolder:
    from recipes.model.bridge.to_hf import read_context

    _, folder = read_context(checkpoint / "context")
    return TokenizerFolder(folder)


def _check_lengths(
    prompts: Path, questions: PromptFolder, encode: Encode, recipe: RlRecipe
) -> None:
    """Raise UserError where a prompt leaves no room for an answer."""
    context = recipe.sequence_length.value
    lengths = {prompt.id: len(encode(prompt)) for prompt in questions}
    too_long = [name for name, length in lengths.items() if length >= context]
    if too_long:
        names = ", ".join(too_long[:_MOST_NAMES])
        raise UserError(
            f"{prompts}: {len(too_long):,} of {len(lengths):,} prompts leave no room for an answer "
            f"in sequence_length {context:,} ({names} ...); prepare prompts without them"
        )


def _new_manifest(
    recipe: RlRecipe,
    questions: PromptFolder,
    tokenizer: TokenizerFolder,
    state: InitialState,
    reference: ReferencePolicy | None,
) -> StageManifest:
    """Return the manifest of a stage's first start; log what the stage answers."""
    manifest = questions.manifest
    passes = recipe.steps.value * recipe.prompts_per_step.value / manifest.prompts
    log.info(
        "%s: %s prompts of %s; %d steps are %.2f passes over them",
        recipe.stage,
        f"{manifest.prompts:,}",
        ", ".join(f"{domain} ({count:,})" for domain, count in manifest.domains.items()),
        recipe.steps.value,
        passes,
    )
    expected = recipe.prompts.value
    if abs(manifest.prompts / expected - 1) > _PROMPTS_TOLERANCE:
        log.warning(
            "%s: %s prompts, the recipe has %s; steps=%d would be one pass",
            recipe.stage,
            f"{manifest.prompts:,}",
            f"{expected:,}",
            max(1, round(manifest.prompts / recipe.prompts_per_step.value)),
        )
    return StageManifest(
        stage=recipe.stage,
        size=recipe.size,
        status="running",
        parent=recipe.parent,
        # known at the end, as answers are as long as they are
        tokens=0,
        tokens_before=state.tokens,
        tokenizer_fingerprint=tokenizer.fingerprint,
        initial_state=InitialCheckpoint(str(state.checkpoint)),
        data={},
        prompts=PromptData(manifest.fingerprint, manifest.prompts, manifest.domains, passes),
        reference=reference,
        num_starts=1,
    )
