"""Phase 1, general pre-training: 10T tokens at sequence length 4,096, the power learning rate with its warm-up.

The numbers stand in ``recipes/spec/stages.py``; ``granite41 show phase1 --size 8b`` prints them with their origins.
"""

import nemo_run as run
from nemo.collections import llm

from recipes.training.pretraining import pretraining_recipe

STAGE = "phase1"


@run.cli.factory(target=llm.pretrain, name=f"granite41_{STAGE}")
def recipe(
    size: str = "8b",
    overrides: list[str] | None = None,
    folder: str = f"runs/granite41/{STAGE}",
    data: list[str] | None = None,
    tokenizer: str = "ibm-granite/granite-4.1-8b-base",
    index_cache: str | None = None,
    num_nodes: int = 1,
    devices: int = 8,
) -> run.Partial:
    """Return phase 1 as a ``nemo_run`` recipe; the arguments are those of :func:`pretraining_recipe`."""
    return pretraining_recipe(
        STAGE,
        size,
        overrides or [],
        folder=folder,
        data=data or [],
        tokenizer=tokenizer,
        index_cache=index_cache,
        num_nodes=num_nodes,
        devices=devices,
    )
