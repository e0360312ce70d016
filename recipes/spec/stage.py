"""A stage as its table in ``recipes/*.py`` states it, and how tiny takes it over."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from recipes.spec.origin import Sourced, derived
from recipes.spec.parallelism import build_parallelism
from recipes.spec.recipe import PRECISION, SEED, CommonRecipe, Kind, OptimizerState, Status
from recipes.spec.sizes import Size
from recipes.spec.tree import Rule

EVERY_PUBLISHED_SIZE: Sourced[tuple[str, ...]] = derived(
    ("3b", "8b", "30b"), "every published size went through it"
)


@dataclass(frozen=True)
class Scaling:
    """How the size tiny takes a stage over from the published size that it is scaled from.

    Attributes:
        scale_down: from that size's recipe to tiny's, both before their rules are applied.
        rules: tiny's own, applied after the stage's.
    """

    scale_down: Callable[[Any], Any]
    rules: tuple[Rule[Any], ...]


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """The part of a table that every stage has.

    Attributes:
        name: as the command line knows it.
        follows: the stage whose checkpoint it starts from, or at a size without that stage the
            nearest before it; None starts from random weights.
        sizes: the published sizes that it has.
        sequence_length: in tokens.
        rope_theta: by published size.
        optimizer_state: whether the optimizer's moments of the stage before are kept.
        gpus: of the whole job; None for those of :mod:`recipes.spec.parallelism`.
        rules: how values of the recipe follow from others, in the order of their application.
        tiny: how tiny takes the stage over.
    """

    name: str
    title: str
    kind: Kind
    status: Status
    follows: str | None
    sizes: Sourced[tuple[str, ...]]
    sequence_length: Sourced[int]
    rope_theta: dict[str, Sourced[float]]
    optimizer_state: Sourced[OptimizerState]
    gpus: Sourced[int] | None = None
    rules: tuple[Rule[Any], ...]
    tiny: Scaling

    @abstractmethod
    def build(self, size: Size, parent: str | None) -> CommonRecipe:
        """Return the recipe as the published size has it, before any rule is applied."""

    def values(self, recipe: type[CommonRecipe], size: Size, parent: str | None) -> dict[str, Any]:
        """Return the arguments of ``recipe``: what the table has under its names, and the rest."""
        columns = {field.name for field in fields(self)}
        names = [field.name for field in fields(recipe) if field.name in columns]
        return {name: getattr(self, name) for name in names} | {
            "stage": self.name,
            "size": size.name,
            "parent": parent,
            "model": size,
            "rope_theta": self.rope_theta[size.published_size],
            "parallelism": build_parallelism(size, self.sequence_length.value, self.gpus),
            "precision": PRECISION,
            "seed": SEED,
        }
