"""A stage trained in this process, as ``granite41 train`` does."""

from typing import Any

from recipes.training.run import prepare


def train(*arguments: Any) -> None:
    """Train a stage, if it is not finished already; the arguments are those of ``prepare``."""
    stage_run = prepare(*arguments)
    if stage_run:
        stage_run.train()
