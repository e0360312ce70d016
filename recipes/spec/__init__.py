"""The plain layer: what each recipe is, as typed data with origins. Imports neither torch nor NeMo."""

from recipes.spec.errors import UserError
from recipes.spec.origin import Sourced
from recipes.spec.resolve import STAGES, Recipe, Stage, parent_of, resolve, resolve_pretraining, sizes_of
from recipes.spec.rl import RlRecipe
from recipes.spec.sft import SftRecipe
from recipes.spec.sizes import SIZES, Size, parameter_count
from recipes.spec.stages import PretrainRecipe
from recipes.spec.tree import flatten

__all__ = [
    "SIZES",
    "STAGES",
    "PretrainRecipe",
    "Recipe",
    "RlRecipe",
    "SftRecipe",
    "Size",
    "Sourced",
    "Stage",
    "UserError",
    "flatten",
    "parameter_count",
    "parent_of",
    "resolve",
    "resolve_pretraining",
    "sizes_of",
]
