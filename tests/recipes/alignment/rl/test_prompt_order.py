"""Every prompt is drawn exactly once a pass, whatever the interruptions."""

from collections import Counter

import pytest

from recipes.alignment.rl.prompt_order import PromptOrder
from recipes.rl import RL_IDENTITY

IDENTITY = PromptOrder(prompts=1728, seed=1234)


def test_identity_stage_is_one_pass_and_a_half() -> None:
    """40 steps of 64 prompts are 1.48 passes of 1,728."""
    steps = RL_IDENTITY.steps.value
    per_step = RL_IDENTITY.train_batch_size.value // RL_IDENTITY.samples_per_prompt.value
    assert RL_IDENTITY.prompts.value == IDENTITY.prompts
    drawn = [number for step in range(steps) for number in IDENTITY.draw(step * per_step, per_step)]
    assert len(drawn) == 2560
    assert sorted(drawn[:1728]) == list(range(1728))
    assert Counter(Counter(drawn).values()) == {1: 2 * 1728 - 2560, 2: 2560 - 1728}


def test_order_depends_on_seed_and_pass() -> None:
    first = IDENTITY.draw(0, 1728)
    second = IDENTITY.draw(1728, 1728)
    other = PromptOrder(1728, seed=1235).draw(0, 1728)
    assert sorted(first) == sorted(second) == sorted(other)
    assert first != second
    assert first != other
    assert first != list(range(1728))
    assert PromptOrder(1728, seed=1234).draw(0, 1728) == first


@pytest.mark.parametrize("prompts", [1, 5, 64, 100])
def test_draws_go_on_over_any_number_of_passes(prompts) -> None:
    order = PromptOrder(prompts, seed=7)
    passes = 3
    in_one_go = order.draw(0, passes * prompts)
    in_pieces = []
    while len(in_pieces) < len(in_one_go):
        count = min(7, len(in_one_go) - len(in_pieces))
        in_pieces += order.draw(len(in_pieces), count)
    assert in_pieces == in_one_go
    assert set(Counter(in_one_go).values()) == {passes}
