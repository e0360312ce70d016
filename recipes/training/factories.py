"""Factories of the pre-training stages for nemo-run's command line: ``granite41_STAGE``.

``nemorun llm pretrain --factory granite41_phase3`` loads this module through the entry point
``granite41``; ``--factory "granite41_phase1(size='3b')"`` sets arguments.
"""

import nemo_run as run
from nemo.collections import llm

from recipes.registry.stages import PRETRAIN_STAGES
from recipes.training.pretraining import pretraining_recipe


def register(stage: str) -> None:
    """Register the factory ``granite41_STAGE`` of a stage.

    Its arguments are those of :func:`pretraining_recipe` but ``stage``, each with a default.
    """

    def recipe(
        size: str = "8b",
        overrides: list[str] | None = None,
        folder: str = f"runs/granite41/{stage}",
        data: list[str] | None = None,
        tokenizer: str = "ibm-granite/granite-4.1-8b-base",
        index_cache: str | None = None,
        num_nodes: int = 1,
        devices: int = 8,
    ) -> run.Partial:
        return pretraining_recipe(
            stage,
            size,
            overrides or [],
            folder=folder,
            data=data or [],
            tokenizer=tokenizer,
            index_cache=index_cache,
            num_nodes=num_nodes,
            devices=devices,
        )

    recipe.__name__ = recipe.__qualname__ = stage
    recipe.__doc__ = f"Return {stage} as a ``nemo_run`` recipe."
    run.cli.factory(target=llm.pretrain, name=f"granite41_{stage}")(recipe)


for name in PRETRAIN_STAGES:
    register(name)
