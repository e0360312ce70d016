"""The registry of stages: found in the tables directly in ``recipes/``, in the order of the chain.

A stage is added by a module in that folder; nothing else names it.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import recipes
from recipes.spec.pretraining import PretrainStage
from recipes.spec.rl import RlStage
from recipes.spec.sft import SftStage
from recipes.spec.sizes import SIZES

Stage = PretrainStage | SftStage | RlStage


def _find_stages() -> list[Stage]:
    """Return the stages of every module directly in ``recipes/``."""
    found = []
    for folder in recipes.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if path.stem == "__init__":
                continue
            module = import_module(f"recipes.{path.stem}")
            for value in vars(module).values():
                if isinstance(value, Stage):
                    found.append(value)
    return found


def order_stages(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return stages by name, each after the one that it follows.

    Raises:
        ValueError: they are not one chain.
    """
    # a table that another module imports is found in both
    by_name = {stage.name: stage for stage in stages}
    successors: dict[str | None, Stage] = {}
    for stage in by_name.values():
        other = successors.setdefault(stage.follows, stage)
        if other is not stage:
            raise ValueError(
                f"stages {other.name} and {stage.name} both follow {stage.follows}; let one of "
                "them follow the other"
            )

    # the first stage follows none
    chain: dict[str, Stage] = {}
    last = None
    while last in successors:
        stage = successors.pop(last)
        chain[stage.name] = stage
        last = stage.name
    for stage in successors.values():
        raise ValueError(
            f"stage {stage.name} follows {stage.follows}, which is no stage of the chain "
            f"({', '.join(chain)}); name one of them"
        )
    return chain


STAGES = order_stages(_find_stages())
PRETRAIN_STAGES = {
    name: stage for name, stage in STAGES.items() if isinstance(stage, PretrainStage)
}


def stage_sizes(stage: str) -> tuple[str, ...]:
    """Return the names of the sizes that ``stage`` has; tiny goes through every stage."""
    published = STAGES[stage].sizes.value
    tiny = [size.name for size in SIZES.values() if size.is_tiny]
    return (*published, *tiny)


def parent_stage(stage: str, size: str) -> str | None:
    """Return the stage before ``stage`` among those that ``size`` has, or None for the first."""
    parent = STAGES[stage].follows
    while parent is not None and size not in stage_sizes(parent):
        parent = STAGES[parent].follows
    return parent


def pretraining_chain(size: str) -> list[str]:
    """Return the stages of pre-training and long-context extension that ``size`` has, in order."""
    return [name for name in PRETRAIN_STAGES if size in stage_sizes(name)]
