"""The checkpoint that a stage starts from: its parent's in the run, or one that the user names."""

import math
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import UserError
from recipes.registry.resolve import resolve
from recipes.runs.stage_folder import MERGED, final_checkpoint, finished_manifest
from recipes.runs.stage_manifest import StageManifest
from recipes.spec.pretraining import stage_merge
from recipes.spec.recipe import CommonRecipe, OptimizerState
from recipes.spec.sizes import Size


@dataclass(frozen=True)
class InitialState:
    """The state that a stage starts from.

    Attributes:
        checkpoint: the NeMo checkpoint whose weights it takes; None for random weights.
        optimizer_state: whether the optimizer's moments come from it too (``carry``) or start at
            zero (``fresh``).
        tokens: that the run has seen before the stage.
        manifest: of the stage that left the checkpoint; None where no stage did.
    """

    checkpoint: Path | None = None
    optimizer_state: OptimizerState = "fresh"
    tokens: int = 0
    manifest: StageManifest | None = None


def initial_state(recipe: CommonRecipe, run_folder: Path, init: Path | None) -> InitialState:
    """Return the state that ``recipe`` starts from: ``init``, or the end of its parent in the run.

    Args:
        init: a NeMo checkpoint or the folder of a finished stage, of this or another run.

    Raises:
        UserError: no parent in the run and no ``init``; a stage that has not finished, or not been
            merged; another size's checkpoint; a theta above this stage's.
    """
    if init is None and recipe.parent is None:
        return InitialState()

    # --init wins over the parent in the run's folder
    source = init or run_folder / str(recipe.parent)
    manifest = finished_manifest(source)
    if not manifest and init is None:
        raise UserError(
            f"{run_folder}: {recipe.stage} starts from {recipe.parent}, which this run has not "
            f"trained; run it first, or name a checkpoint with --init"
        )
    if manifest:
        _check_merged(source, manifest)

    # a stage's folder leads to its merge or last checkpoint, anything else is a checkpoint itself
    checkpoint = final_checkpoint(source) or source
    has_optimizer = _check_model(checkpoint, recipe.model)
    _check_config(checkpoint, recipe)
    # an imported model or a merge has weights only
    carries = recipe.optimizer_state.value == "carry" and has_optimizer
    return InitialState(
        checkpoint=checkpoint,
        optimizer_state="carry" if carries else "fresh",
        tokens=manifest.tokens_before + manifest.tokens if manifest else 0,
        manifest=manifest,
    )


def _check_merged(folder: Path, manifest: StageManifest) -> None:
    """Raise where a stage ends with a merge that has not been made."""
    merge = stage_merge(resolve(manifest.stage, manifest.size))
    if merge and not (folder / MERGED).exists():
        raise UserError(
            f"{folder}: is trained but not merged, as a long-context stage ends; "
            f"`granite41 run {manifest.stage}` merges it, or name one of its checkpoints with "
            f"--init"
        )


def _check_model(checkpoint: Path, model: Size) -> bool:
    """Raise where a checkpoint is of another model; return whether it has an optimizer's state."""
    from recipes.model.bridge.torch_dist import TorchDistCheckpoint

    weights = TorchDistCheckpoint(checkpoint / "weights")
    expected = (model.num_layers.value, model.hidden_size.value, model.ffn_hidden_size.value)
    found = weights.shape("decoder.layers.mlp.linear_fc2.weight")
    if found != expected:
        raise UserError(
            f"{checkpoint}: (layers, hidden size, MLP width) are {found}, expected {expected} for "
            f"{model.name}; name a checkpoint of that size"
        )
    return weights.holds_optimizer


def _check_config(checkpoint: Path, recipe: CommonRecipe) -> None:
    """Raise where a model was trained to compute otherwise than the stage's, though its weights
    fit; or where theta would go down: positions that the model knows would turn faster.
    """
    from recipes.model.bridge.to_hf import read_context

    config, _ = read_context(checkpoint / "context")
    model = recipe.model
    numbers = {
        "num_attention_heads": (config.num_attention_heads, model.num_attention_heads.value),
        "num_query_groups": (config.num_key_value_heads, model.num_query_groups.value),
        "embedding_multiplier": (config.embedding_multiplier, model.embedding_multiplier.value),
        "attention_multiplier": (config.attention_multiplier, model.attention_multiplier.value),
        "residual_multiplier": (config.residual_multiplier, model.residual_multiplier.value),
        "logits_scaling": (config.logits_scaling, model.logits_scaling.value),
    }
    for name, (found, expected) in numbers.items():
        if not math.isclose(found, expected, rel_tol=1e-6):
            raise UserError(
                f"{checkpoint}: has {name} {found:.15g}, expected {expected:.15g} for "
                f"{model.name}; name a checkpoint of that size, or set model.{name}={found:.15g}"
            )

    former = config.rope_theta
    theta = recipe.rope_theta.value
    if former > theta:
        raise UserError(
            f"{checkpoint}: has rope_theta {former:.15g}, and {recipe.stage} {theta:.15g}; theta "
            f"must not go down, so raise rope_theta (rope_theta={former:.15g} keeps it)"
        )
