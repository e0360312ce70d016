"""A stage, a size and the user's overrides as a complete recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.common.errors import UserError, nearest
from recipes.registry.overrides import parse_overrides
from recipes.registry.stages import PRETRAIN_STAGES, STAGES, parent_stage, stage_sizes
from recipes.registry.violations import violations
from recipes.spec import parallelism, sizes
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.rl import RlRecipe
from recipes.spec.sft import SftRecipe
from recipes.spec.sizes import SIZES, Size
from recipes.spec.tree import COMPUTED, Rule, apply_rules, flatten, replace_leaf

Recipe = PretrainRecipe | SftRecipe | RlRecipe


def resolve(
    stage: str,
    size: str,
    overrides: Sequence[str] = (),
    *,
    validate: bool = True,
) -> Recipe:
    """Return the recipe of ``stage`` for ``size`` with ``overrides`` applied.

    Args:
        stage: a key of :data:`STAGES`.
        size: a key of :data:`SIZES`.
        overrides: ``key=value`` with a dot path as :func:`flatten` names it and a value in YAML,
            for example ``optimizer.betas=[0.9,0.99]``; what derives from an overridden value
            follows it.
        validate: whether to refuse values that do not fit together (see :func:`violations`).

    Raises:
        UserError: an unknown stage, size or key, a size that the stage does not have, a malformed
            or mistyped override, or values that do not fit together.
        RuntimeError: no rule of the stage computes a value that its table leaves open.
    """
    require_known("stage", stage, STAGES)
    require_known("size", size, SIZES)
    if size not in stage_sizes(stage):
        raise UserError(
            f"stage {stage} does not exist for size {size!r}; it has "
            f"{', '.join(stage_sizes(stage))}"
        )

    # first the table and what follows from it
    recipe, rules = _build(stage, SIZES[size])
    recipe = apply_rules(recipe, rules)
    for path, leaf in flatten(recipe).items():
        if leaf is COMPUTED:
            raise RuntimeError(f"stage {stage}: no rule computes {path}; add one to its rules")

    # then the user's values, which the rules leave as they are
    if overrides:
        leaves = parse_overrides(recipe, overrides)
        for path, leaf in leaves.items():
            recipe = replace_leaf(recipe, path, leaf)
        recipe = apply_rules(recipe, rules, leaves)
    if validate:
        for sentence in violations(recipe):
            raise UserError(sentence)
    return recipe


def resolve_pretraining(
    stage: str,
    size: str,
    overrides: Sequence[str] = (),
    *,
    validate: bool = True,
) -> PretrainRecipe:
    """Return :func:`resolve`'s recipe of a stage of pre-training or long-context extension.

    Raises:
        UserError: as :func:`resolve`, and for a stage of another kind.
    """
    recipe = resolve(stage, size, overrides, validate=validate)
    if not isinstance(recipe, PretrainRecipe):
        raise UserError(
            f"{stage} is no stage of pre-training; choose one of {', '.join(PRETRAIN_STAGES)}"
        )
    return recipe


def resolve_ready(stage: str, size: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return :func:`resolve`'s recipe of a stage that can be trained.

    Raises:
        UserError: as :func:`resolve`, and for a stage that is planned.
    """
    recipe = resolve(stage, size, overrides)
    if recipe.status == "planned":
        ready = [name for name, other in STAGES.items() if other.status == "ready"]
        raise UserError(
            f"{stage} is planned and cannot be trained yet; choose one of {', '.join(ready)}"
        )
    return recipe


def resolve_sft(stage: str, size: str, overrides: Sequence[str] = ()) -> SftRecipe:
    """Return :func:`resolve`'s recipe of supervised fine-tuning.

    Raises:
        UserError: as :func:`resolve`, and for a stage of another kind.
    """
    recipe = resolve(stage, size, overrides)
    if not isinstance(recipe, SftRecipe):
        raise UserError(f"{stage} is no stage of supervised fine-tuning; choose sft")
    return recipe


def resolve_rl(stage: str, size: str, overrides: Sequence[str] = ()) -> RlRecipe:
    """Return :func:`resolve`'s recipe of reinforcement learning.

    Raises:
        UserError: as :func:`resolve`, and for a stage of another kind.
    """
    recipe = resolve(stage, size, overrides)
    if not isinstance(recipe, RlRecipe):
        names = [name for name, other in STAGES.items() if other.kind == "rl"]
        raise UserError(
            f"{stage} is no stage of reinforcement learning; choose one of {', '.join(names)}"
        )
    return recipe


def require_known(what: str, name: str, known: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` unless ``name`` is a key of ``known``."""
    if name not in known:
        raise UserError(
            f"unknown {what} {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )


def _build(name: str, size: Size) -> tuple[Recipe, tuple[Rule[Any], ...]]:
    """Return the recipe of a stage before any rule is applied, and its rules in order."""
    stage = STAGES[name]
    recipe: Recipe = stage.build(size, parent_stage(name, size.name))
    # rules apply in this order, as later ones read what earlier ones compute
    rules = (
        *MODEL_RULES,
        *parallelism.build_rules(stage.gpus),
        *stage.rules,
    )
    if size.is_tiny:
        recipe = stage.tiny.scale_down(recipe)
        rules = tuple(rule for rule in rules if not rule.published_sizes_only)
        rules += stage.tiny.rules
    return recipe, rules


def _model_rule(rule: Rule[Size]) -> Rule[Any]:
    return Rule(
        f"model.{rule.path}",
        tuple(f"model.{path}" for path in rule.inputs),
        lambda recipe: rule.compute(recipe.model),
    )


MODEL_RULES = tuple(_model_rule(rule) for rule in sizes.RULES)
