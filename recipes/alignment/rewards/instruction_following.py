"""Instruction following: the checks of IFEval (Zhou et al. 2023) as lm-eval has them, strict."""

from dataclasses import dataclass
from typing import Any

from recipes.alignment.rewards.reward import RIGHT, BadGold, Outcome, Reward


@dataclass(frozen=True)
class Gold:
    """What an answer has to follow.

    Attributes:
        instructions: ids of IFEval, such as ``length_constraints:number_words``.
        arguments: of each; null values count as missing.
    """

    instructions: list[str]
    arguments: list[dict[str, Any]]


def example(gold: Gold) -> str:
    """Return "", as what is right is not known.

    Raises:
        BadGold: an instruction is unknown, has other arguments, or needs what is not here.
    """
    if not gold.instructions or len(gold.instructions) != len(gold.arguments):
        raise BadGold("it has no instructions, or not arguments for each")
    _followed("A sentence with words. Another one.", gold, "What?")
    return ""


def score(answer: str, gold: Gold, question: str) -> Reward:
    """Return the share of the instructions that are followed; right are all of them."""
    followed = _followed(answer, gold, question)
    if all(followed):
        return RIGHT
    missed = []
    for name, is_followed in zip(gold.instructions, followed, strict=True):
        if not is_followed:
            missed.append(name)
    return Reward(
        sum(followed) / len(followed), Outcome.WRONG, f"it does not follow {', '.join(missed)}"
    )


def _followed(answer: str, gold: Gold, question: str) -> list[bool]:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    # makes langdetect, which some checks use, say the same of a text each time
    from recipes.alignment.rewards import language  # noqa: F401

    followed = []
    for name, arguments in zip(gold.instructions, gold.arguments, strict=True):
        if name not in INSTRUCTION_DICT:
            raise BadGold(f"its instruction {name!r:.60} is unknown")
        instruction = INSTRUCTION_DICT[name](name)
        given = {key: value for key, value in arguments.items() if value is not None}
        instruction.build_description(**given)
        known = instruction.get_instruction_args()
        if known and "prompt" in known:
            instruction.build_description(prompt=question)
        followed.append(bool(instruction.check_following(answer)))
    return followed
