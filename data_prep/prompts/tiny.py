"""Prompts of size tiny: easy ones, of which its model solves some after SFT."""

from pathlib import Path

from data_prep.prompts.preparation import Settings, prepare
from data_prep.prompts.sources import Source
from recipes.runs.prompts import PromptManifest

# stage -> generators; a reward model is not needed, and SQL is beyond such a model
SOURCES = {
    "rl_multi_domain": (
        "arithmetic",
        "look_up",
        "logic",
        "structured_output",
        "temporal",
        "chat",
        "in_context",
    ),
    "rl_rlhf": ("chat",),
    "rl_identity": ("identity", "calibration"),
    "rl_math": ("arithmetic",),
}


def prepare_tiny(stage: str, prompts: int, output: Path) -> PromptManifest:
    """Write a folder of easy prompts.

    Args:
        stage: of :data:`SOURCES`.
        prompts: how many, an equal part of each generator.
        output: a folder without prompts.

    Raises:
        UserError: ``output`` has prompts, or there are not so many different ones.
    """
    names = SOURCES[stage]
    sources = []
    for number, name in enumerate(names):
        # the first ones make up for what does not divide
        count = prompts // len(names) + (number < prompts % len(names))
        if count:
            sources.append(Source(name, count))
    return prepare(sources, output, Settings(is_easy=True), workers=1)
