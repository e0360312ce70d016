"""Advantages compare a prompt's answers with each other and with nothing else."""

import pytest
import torch

from recipes.alignment.rl.advantages import group_advantages, have_signal, overlong_punishment

pytestmark = pytest.mark.slow

EPSILON = 1e-6


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 4.0])
    groups = torch.tensor([7, 7, 7, 7, 3, 3])
    advantages = group_advantages(rewards, groups, EPSILON)
    # unbiased deviations: 1/2 of 1, 0, 0, 0 and the square root of 2 of 2, 4
    expected = torch.tensor([1.5, -0.5, -0.5, -0.5, -(0.5**0.5), 0.5**0.5], dtype=torch.float64)
    assert torch.allclose(advantages, expected, atol=4e-6, rtol=0)
    assert not torch.allclose(advantages, expected, atol=1e-8, rtol=0), "epsilon has no effect"


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e6])
def test_equal_rewards_give_exactly_nothing(reward) -> None:
    rewards = torch.full((16,), reward)
    groups = torch.zeros(16, dtype=torch.long)
    advantages = group_advantages(rewards, groups, EPSILON)
    assert torch.equal(advantages, torch.zeros(16, dtype=torch.float64))


def test_order_does_not_matter_and_the_draw_makes_the_group() -> None:
    """Answers come from several ranks in any order; two draws may be of equal tokens."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(64, generator=generator)
    groups = torch.arange(64) // 16 * 1000
    expected = group_advantages(rewards, groups, EPSILON)
    for group in range(4):
        own = slice(16 * group, 16 * group + 16)
        alone = group_advantages(rewards[own], groups[own], EPSILON)
        assert torch.allclose(expected[own], alone, atol=1e-14, rtol=0)

    shuffled = torch.randperm(64, generator=generator)
    advantages = group_advantages(rewards[shuffled], groups[shuffled], EPSILON)
    assert torch.allclose(advantages, expected[shuffled], atol=1e-14, rtol=0)


def test_groups_without_signal() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    groups = torch.tensor([5, 5, 2, 2, 9, 9])
    assert have_signal(rewards, groups).tolist() == [False, False, True, True, False, False]


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two answers or more"):
        group_advantages(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1]), EPSILON)


def test_punishment_grows_over_the_buffer() -> None:
    lengths = torch.tensor([1, 80, 81, 90, 99, 100, 120])
    punishment = overlong_punishment(lengths, limit=100, buffer=20)
    assert punishment.tolist() == [0.0, 0.0, -0.05, -0.5, -0.95, -1.0, -1.0]
