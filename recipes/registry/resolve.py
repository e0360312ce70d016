"""From a stage, a size and the user's overrides to a complete recipe."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from recipes.common.errors import UserError, nearest
from recipes.spec import mixtures, parallelism, pretraining, rl, sft, sizes, tiny
from recipes.spec.origin import Sourced
from recipes.spec.pretraining import PretrainRecipe, PretrainStage
from recipes.spec.recipe import (
    DocumentMasking,
    GpuType,
    MergeMethod,
    OptimizerState,
    Precision,
    Recompute,
)
from recipes.spec.rl import RlRecipe, RlStage
from recipes.spec.schedules import LinearDecay, PowerSchedule
from recipes.spec.sft import SftRecipe, SftStage
from recipes.spec.sizes import SIZES
from recipes.spec.tree import Rule, apply_rules, flatten, replace_leaf

Stage = PretrainStage | SftStage | RlStage
Recipe = PretrainRecipe | SftRecipe | RlRecipe

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (*pretraining.PRETRAIN_STAGES, sft.SFT, *rl.RL_STAGES)
}

CHOICES = {
    "gpu_type": get_args(GpuType),
    "method": get_args(MergeMethod),
    "optimizer_state": get_args(OptimizerState),
    "precision": get_args(Precision),
    "recompute": get_args(Recompute),
    "document_masking": get_args(DocumentMasking),
}
# every other number must be positive; the power schedule's exponent may have any sign
MAY_BE_ZERO = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "warmup_tokens",
    "warmup_fraction",
    "start_tokens",
    "lr_end",
    "weight_decay",
    "betas",
    "kl_beta",
    "temperature",
    "seed",
}


def stage_sizes(stage: str) -> tuple[str, ...]:
    """Return the names of the sizes that ``stage`` has; tiny goes through every stage."""
    return (*STAGES[stage].sizes.value, "tiny")


def parent_stage(stage: str, size: str) -> str | None:
    """Return the stage before ``stage`` among those that ``size`` has, or None for the first."""
    chain = [name for name in STAGES if size in stage_sizes(name)]
    position = chain.index(stage)
    return chain[position - 1] if position else None


def resolve(
    stage: str, size: str, overrides: Sequence[str] = (), *, validate: bool = True
) -> Recipe:
    """Return the recipe of ``stage`` for ``size`` with ``overrides`` applied.

    Args:
        stage: a key of :data:`STAGES`.
        size: a key of :data:`SIZES`.
        overrides: ``key=value`` with a dot path as :func:`flatten` names it and a value in YAML, for example
            ``optimizer.betas=[0.9,0.99]``; what derives from an overridden value follows it.
        validate: whether to refuse values that do not fit together (see :func:`violations`).

    Raises:
        UserError: an unknown stage, size or key, a size that the stage does not have, a malformed or mistyped
            override, or values that do not fit together.
    """
    require_known("stage", stage, STAGES)
    require_known("size", size, SIZES)
    if size not in stage_sizes(stage):
        raise UserError(
            f"stage {stage} does not exist for size {size!r}; it has {', '.join(stage_sizes(stage))}"
        )
    recipe, rules = _build(stage, size)
    recipe = apply_rules(recipe, rules)
    if overrides:
        leaves = _parse(recipe, overrides)
        for path, leaf in leaves.items():
            recipe = replace_leaf(recipe, path, leaf)
        recipe = apply_rules(recipe, rules, leaves)
    misfit = next(violations(recipe), None)
    if validate and misfit:
        raise UserError(misfit)
    return recipe


def resolve_pretraining(
    stage: str, size: str, overrides: Sequence[str] = (), *, validate: bool = True
) -> PretrainRecipe:
    """Return :func:`resolve`'s recipe of a stage of pre-training or long-context extension.

    Raises:
        UserError: as :func:`resolve`, and for a stage of another kind.
    """
    recipe = resolve(stage, size, overrides, validate=validate)
    if not isinstance(recipe, PretrainRecipe):
        raise UserError(
            f"{stage} is no stage of pre-training; choose phase1 to phase4 or lce_32k to lce_512k"
        )
    return recipe


def require_known(what: str, name: str, known: dict[str, Any]) -> None:
    """Raise :class:`UserError` unless ``name`` is a key of ``known``."""
    if name not in known:
        raise UserError(
            f"unknown {what} {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )


def _build(stage: str, size: str) -> tuple[Recipe, tuple[Rule[Any], ...]]:
    row, model, parent = STAGES[stage], SIZES[size], parent_stage(stage, size)
    is_tiny = size == "tiny"
    recipe: Recipe
    own: tuple[Rule[Any], ...]
    if isinstance(row, PretrainStage):
        recipe, own = pretraining.build(row, model, parent), pretraining.RULES
        if not isinstance(row.schedule, PowerSchedule):
            own = (*own, pretraining.DECAY_TOKENS)
            if row is pretraining.PHASE3 and not is_tiny:
                own = (*own, pretraining.POWER_END)
        elif not is_tiny:
            own = (*own, pretraining.POWER_BATCH)
        elif recipe.parent is None:
            own = (*own, tiny.POWER_WARMUP)
        if is_tiny:
            recipe, own = tiny.pretrain(recipe), (*own, *tiny.PRETRAIN_RULES)
    elif isinstance(row, SftStage):
        recipe, own = sft.build(row, model, parent), sft.RULES
        if is_tiny:
            recipe, own = tiny.sft(recipe), (*own, *tiny.SFT_RULES)
    else:
        recipe, own = rl.build(row, model, parent), rl.RULES
        if is_tiny:
            recipe, own = tiny.rl(recipe), (*own, *tiny.RL_RULES)
    return recipe, (*MODEL_RULES, *parallelism.RULES, *own)


def _model_rule(rule: Rule[sizes.Size]) -> Rule[Any]:
    return Rule(
        f"model.{rule.path}",
        tuple(f"model.{path}" for path in rule.inputs),
        lambda recipe: rule.compute(recipe.model),
    )


MODEL_RULES = tuple(_model_rule(rule) for rule in sizes.RULES)


def _parse(recipe: Recipe, overrides: Sequence[str]) -> dict[str, Sourced[Any]]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    known = flatten(recipe)
    leaves = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} has no '='; write key=value, such as seed=1")
        if key not in known:
            raise UserError(
                f"unknown key {key!r} in override {override!r}{nearest(key, known)}; "
                f"`granite41 show {recipe.stage} --size {recipe.size}` lists every key"
            )
        try:
            value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, YAMLError) as error:
            raise UserError(
                f"override {override!r}: {text!r} cannot be read as YAML; quote it or correct it"
            ) from error
        for name in key.split("."):
            value = value[name]
        value = _typed(key, value, known[key].value)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not isinstance(item, bool):
                _in_range(key, item)
        leaves[key] = Sourced(value, "override", f"set on the command line: {override}")
    return leaves


def _typed(key: str, value: Any, like: Any) -> Any:
    """Return ``value`` as the type of ``like``, the value that it replaces."""
    name = key.rpartition(".")[2]
    if name in CHOICES:
        if str(value) not in CHOICES[name]:
            raise UserError(f"{key} is {value!r}, expected one of {', '.join(CHOICES[name])}")
        return str(value)
    if isinstance(like, tuple):
        items = value if isinstance(value, list) else []
        # a list of numbers is a fixed set of coefficients, a list of names may have any length
        if not items or (not isinstance(like[0], str) and len(items) != len(like)):
            count = "one or more" if isinstance(like[0], str) else str(len(like))
            raise UserError(
                f"{key} is {value!r}, expected a list of {count} values such as [{','.join(map(str, like))}]"
            )
        return tuple(_typed(key, item, like[0]) for item in items)
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if type(like) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not type(like):
        kinds = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
        raise UserError(
            f"{key} is {value!r}, expected {kinds[type(like)]} such as {str(like).lower()}"
        )
    return value


def _in_range(key: str, number: float) -> None:
    zero_allowed = key.rpartition(".")[2] in MAY_BE_ZERO or key.startswith("mixture.")
    if key == "schedule.b":
        expected, fits = "a finite number", True
    elif zero_allowed:
        expected, fits = "zero or a positive number", number >= 0
    else:
        expected, fits = "a positive number", number > 0
    if not (math.isfinite(number) and fits):
        raise UserError(f"{key} is {number}, expected {expected}")


def violations(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each pair of values that do not fit together."""
    if max(recipe.optimizer.betas.value) >= 1:
        yield f"optimizer.betas is {list(recipe.optimizer.betas.value)}, expected two numbers below 1"

    value = {path: leaf.value for path, leaf in flatten(recipe).items()}
    # training and validation are always read, so neither part may be empty
    if "split" in value and not re.fullmatch(r"[1-9]\d*,[1-9]\d*,\d+", value["split"]):
        yield f"split is {value['split']!r}, expected three whole numbers such as 950,50,0, only the last 0"

    def divides(divisor: str, *multiples: str) -> Iterator[str]:
        for multiple in multiples:
            if value[multiple] % value[divisor]:
                yield f"{divisor} {value[divisor]} does not divide {multiple} {value[multiple]}; choose a divisor"

    yield from divides("model.num_query_groups", "model.num_attention_heads")
    yield from divides(
        "parallelism.tensor_model_parallel_size",
        "model.num_attention_heads",
        "model.num_query_groups",
        "model.ffn_hidden_size",
        "model.vocab_size",
    )
    yield from divides("parallelism.pipeline_model_parallel_size", "model.num_layers")
    context_parallel_size = value["parallelism.context_parallel_size"]
    if context_parallel_size > 1 and value["sequence_length"] % (2 * context_parallel_size):
        yield (
            f"parallelism.context_parallel_size {context_parallel_size} cannot cut sequence_length "
            f"{value['sequence_length']} into two equal parts per GPU; choose a smaller power of two"
        )
    if value["parallelism.sequence_parallel"]:
        if value["parallelism.tensor_model_parallel_size"] == 1:
            yield "parallelism.sequence_parallel is true, but parallelism.tensor_model_parallel_size is 1; raise it"
        elif value["sequence_length"] % (
            context_parallel_size * value["parallelism.tensor_model_parallel_size"]
        ):
            yield (
                f"parallelism.tensor_model_parallel_size {value['parallelism.tensor_model_parallel_size']} does not "
                f"divide sequence_length {value['sequence_length']} / context_parallel_size {context_parallel_size}, "
                f"as sequence parallelism asks; choose a divisor, or parallelism.sequence_parallel=false"
            )
    if isinstance(recipe, RlRecipe):
        yield from divides("samples_per_prompt", "train_batch_size")
        yield from divides("parallelism.micro_batch_size", "train_batch_size")
    else:
        yield from divides("parallelism.micro_batch_size", "global_batch_size")
    if isinstance(recipe, PretrainRecipe):
        if value["tokens_per_batch"] != value["global_batch_size"] * value["sequence_length"]:
            yield (
                f"tokens_per_batch is {value['tokens_per_batch']}, but global_batch_size x sequence_length is "
                f"{value['global_batch_size'] * value['sequence_length']}; set only one of the two"
            )
        if recipe.merge and recipe.merge.weight.value > 1:
            yield f"merge.weight is {recipe.merge.weight.value:g}, expected at most 1, the stage's checkpoint alone"
        total = sum(percent.value for percent in recipe.mixture.values())
        if abs(total - 100) > mixtures.TOLERANCE:
            yield f"mixture sums to {total:g} percent, expected 100; set its other components as well"
    if (
        isinstance(recipe.schedule, LinearDecay)
        and value["schedule.warmup_tokens"] >= value["schedule.tokens"]
    ):
        yield (
            f"schedule.warmup_tokens is {value['schedule.warmup_tokens']}, expected fewer than schedule.tokens "
            f"{value['schedule.tokens']}"
        )
