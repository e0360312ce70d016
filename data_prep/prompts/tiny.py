"""Prompts of size tiny: easy ones, of which its model solves some after SFT."""

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


def tiny_sources(stage: str, prompts: int) -> dict[str, int]:
    """Return generator -> how many easy prompts it makes up, an equal part of each.

    Args:
        stage: of :data:`SOURCES`.
        prompts: of all generators together.
    """
    names = SOURCES[stage]
    counts = {}
    for number, name in enumerate(names):
        # the first ones make up for what does not divide
        counts[name] = prompts // len(names) + (number < prompts % len(names))
    return {name: count for name, count in counts.items() if count}
