"""From rewards to advantages: GRPO's comparison within a group, and how long answers fare."""

import torch


def group_advantages(rewards: torch.Tensor, groups: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return how far each answer's reward is from its group's mean, in the group's deviations.

    ``(reward - mean) / (deviation + epsilon)`` with the unbiased deviation: outcome supervision of
    GRPO (arXiv 2402.03300, section 4.1.2). It is exactly 0 in a group of equal rewards.

    Args:
        rewards: shape (answers,).
        groups: int64, shape (answers,), in any order: which draw of a prompt is answered. Equal
            tokens do not make a group, for two prompts may have the same text.
        epsilon: keeps the quotient finite.

    Returns:
        float64, shape (answers,).

    Raises:
        ValueError: a group has one answer only.
    """
    values = rewards.double()
    _, members, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    if (sizes < 2).any():
        raise ValueError("a group needs two answers or more, or they compare with nothing")

    sums = values.new_zeros(len(sizes))
    centered = values - (sums.index_add(0, members, values) / sizes)[members]
    variances = sums.index_add(0, members, centered.square()) / (sizes - 1)
    advantages = centered / (variances.sqrt() + epsilon)[members]
    # a mean of equal numbers is rounded, so the difference from it need not be 0
    return advantages.where(have_signal(rewards, groups), 0.0)


def have_signal(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return whether the rewards of each answer's group differ: bool, shape (answers,).

    A group without signal moves the policy nowhere. DAPO's dynamic sampling (arXiv 2503.14476,
    section 3.2) draws another prompt for it.
    """
    _, members = torch.unique(groups, return_inverse=True)
    room = rewards.new_zeros(int(members.max()) + 1)
    highest = room.scatter_reduce(0, members, rewards, "amax", include_self=False)
    lowest = room.scatter_reduce(0, members, rewards, "amin", include_self=False)
    return (highest > lowest)[members]


def overlong_punishment(lengths: torch.Tensor, limit: int, buffer: int) -> torch.Tensor:
    """Return what is added to the rewards of long answers: from 0 down to -1.

    0 up to ``limit - buffer`` tokens, linear over the buffer, -1 from ``limit`` on: DAPO's soft
    overlong punishment (arXiv 2503.14476, equation 13).

    Args:
        lengths: tokens of each answer, shape (answers,).
        limit: the most tokens an answer may have.
        buffer: its last tokens, over which the punishment grows.
    """
    return ((limit - buffer - lengths).double() / buffer).clamp(-1.0, 0.0)
