"""Overrides of a recipe's values: ``key=value`` on the command line, read as YAML and checked."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from recipes.common.errors import UserError, nearest
from recipes.spec.origin import Sourced, assumed
from recipes.spec.recipe import (
    CommonRecipe,
    DocumentMasking,
    GpuType,
    MergeMethod,
    OptimizerState,
    Precision,
    Recompute,
)
from recipes.spec.rl import KlEstimator, LossReduction, TruncatedAnswers
from recipes.spec.tree import flatten

CHOICES = {
    "gpu_type": get_args(GpuType),
    "method": get_args(MergeMethod),
    "optimizer_state": get_args(OptimizerState),
    "precision": get_args(Precision),
    "recompute": get_args(Recompute),
    "document_masking": get_args(DocumentMasking),
    "kl_estimator": get_args(KlEstimator),
    "loss_reduction": get_args(LossReduction),
    "truncated_answers": get_args(TruncatedAnswers),
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
    "importance_cap",
    "temperature",
    "seed",
}
# of every number; larger ones do not fit into a tensor
LIMIT = 2**63
# similarity of names: cod and code have 0.86, my_code and code 0.73
_SLIP = 0.8
_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
}


def parse_overrides(recipe: CommonRecipe, overrides: Sequence[str]) -> dict[str, Sourced[Any]]:
    """Return dot path -> the leaf that replaces the recipe's.

    Raises:
        UserError: an unknown key, a value that is no YAML, of another type or out of range.
    """
    current = flatten(recipe)
    leaves = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} has no '='; write key=value, such as seed=1")
        if _is_new_component(key, current):
            # its data is looked up by this name
            current[key] = assumed(0.0, "not in the recipe")
        if key not in current:
            raise UserError(
                f"unknown key {key!r} in override {override!r}{nearest(key, current)}; "
                f"`granite41 show {recipe.stage} --size {recipe.size}` lists every key"
            )

        value = _as_type(
            key,
            _read_value(key, text, override),
            current[key].value,
        )
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not isinstance(item, bool):
                _require_in_range(key, item)
        leaves[key] = Sourced(
            value,
            "override",
            f"set on the command line: {override}",
        )
    return leaves


def _is_new_component(key: str, current: Mapping[str, Any]) -> bool:
    """Whether ``key`` adds a component of the user's own to a recipe's mixture."""
    prefix, _, name = key.partition(".")
    if prefix != "mixture" or not re.fullmatch(r"\w+", name):
        return False
    components = [known.partition(".")[2] for known in current if known.startswith("mixture.")]
    # what differs in a letter is a slip
    is_slip = bool(difflib.get_close_matches(name, components, cutoff=_SLIP))
    return bool(components) and not is_slip


def _read_value(key: str, text: str, override: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(
            f"override {override!r}: {text!r} cannot be read as YAML; quote it or correct it"
        ) from error
    # a dot path is a nested mapping
    for name in key.split("."):
        value = value[name]
    return value


def _as_type(key: str, value: Any, current: Any) -> Any:
    """Return ``value`` as the type of ``current``, the value that it replaces."""
    if isinstance(value, int | float) and abs(value) >= LIMIT:
        raise UserError(f"{key} is {value!r:.60}, expected a number below 2^63")
    name = key.rpartition(".")[2]
    if name in CHOICES:
        if str(value) not in CHOICES[name]:
            raise UserError(f"{key} is {value!r}, expected one of {', '.join(CHOICES[name])}")
        return str(value)
    if isinstance(current, tuple):
        return _as_tuple(key, value, current)

    # 1 is an integer in YAML, also where a number is expected
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if type(current) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not type(current):
        raise UserError(
            f"{key} is {value!r}, expected {_TYPE_NAMES[type(current)]} such as "
            f"{str(current).lower()}"
        )
    return value


def _as_tuple(key: str, value: Any, current: tuple[Any, ...]) -> tuple[Any, ...]:
    items = value if isinstance(value, list) else []
    # a list of names may have any length, a list of numbers is a fixed set of coefficients
    is_names = isinstance(current[0], str)
    if not items or (not is_names and len(items) != len(current)):
        count = "one or more" if is_names else str(len(current))
        example = ",".join(map(str, current))
        raise UserError(
            f"{key} is {value!r}, expected a list of {count} values such as [{example}]"
        )
    return tuple(_as_type(key, item, current[0]) for item in items)


def _require_in_range(key: str, number: float) -> None:
    name = key.rpartition(".")[2]
    # a component of the mixture may be left out
    may_be_zero = name in MAY_BE_ZERO or key.startswith("mixture.")
    if key == "schedule.b":
        expected = "a finite number"
        fits = True
    elif may_be_zero:
        expected = "zero or a positive number"
        fits = number >= 0
    else:
        expected = "a positive number"
        fits = number > 0
    if not (math.isfinite(number) and fits):
        raise UserError(f"{key} is {number}, expected {expected}")
