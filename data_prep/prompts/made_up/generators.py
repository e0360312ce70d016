"""The generators of prompts by name."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_prep.conversations.made_up import tasks
from data_prep.prompts.made_up import (
    arithmetic,
    in_context,
    instructions,
    logic,
    look_up,
    persona,
    structured_output,
    temporal,
    text2sql,
)
from data_prep.prompts.made_up.draft import Draft
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt

# what is made up here is as free as this project
LICENSE = "Apache-2.0"
# draws without anything new, before there is nothing new
_VAIN_DRAWS = 2000


@dataclass(frozen=True)
class Generator:
    """Makes up prompts.

    Attributes:
        domain: of a stage's table.
        reward: name of the reward function.
        draft: returns a question and its gold answer; the second argument asks for an easy one.
    """

    domain: str
    reward: str
    draft: Callable[[random.Random, bool], Draft]


GENERATORS = {
    "arithmetic": Generator("math", "math", arithmetic.draft),
    "look_up": Generator("science", "science", look_up.draft),
    "logic": Generator("logical reasoning", "logic", logic.draft),
    "instructions": Generator("instruction following", "instruction_following", instructions.draft),
    "structured_output": Generator(
        "structured output", "structured_output", structured_output.draft
    ),
    "text2sql": Generator("text2sql", "text2sql", text2sql.draft),
    "temporal": Generator("temporal reasoning", "temporal", temporal.draft),
    "in_context": Generator("in-context learning", "in_context", in_context.draft),
    "chat": Generator("general chat", "chat", persona.draft_chat),
    "identity": Generator("identity", "identity", persona.draft_identity),
    "calibration": Generator("calibration", "calibration", persona.draft_calibration),
}


def _is_evaluated(draft: Draft) -> bool:
    """Whether the suite of size tiny's conversations asks this."""
    messages = [{"role": "user", "content": draft.question}]
    is_theirs = tasks.right_reply(messages, draft.documents) is not None
    return is_theirs and tasks.is_held_out(draft.question, draft.documents)


def make_up(name: str, count: int, seed: int, is_easy: bool) -> Iterator[Prompt]:
    """Yield prompts of a generator: no two of them are the same, and no evaluation asks one.

    Args:
        name: of :data:`GENERATORS`.
        count: how many.
        seed: two runs with the same one make up the same.
        is_easy: small enough for a model of size tiny.

    Raises:
        UserError: there are not so many different ones.
    """
    generator = GENERATORS[name]
    draw = random.Random(f"{name}-{seed}")  # noqa: S311  no secret
    seen: set[str] = set()
    vain = 0
    while len(seen) < count:
        draft = generator.draft(draw, is_easy)
        content = json.dumps([draft.question, draft.documents])
        if content in seen or _is_evaluated(draft):
            vain += 1
            if vain > _VAIN_DRAWS:
                raise UserError(
                    f"--source {name}={count}: there are no more than {len(seen):,} different "
                    f"prompts; ask for fewer"
                )
            continue
        vain = 0
        seen.add(content)
        yield Prompt(
            id=f"{name}-{len(seen)}",
            domain=generator.domain,
            messages=[{"role": "user", "content": draft.question}],
            reward=generator.reward,
            gold=draft.gold,
            documents=draft.documents,
            source=name,
        )
