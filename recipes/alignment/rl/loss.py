"""The DAPO loss with a KL term, on log-probabilities of answer tokens; nothing here knows a model.

Symbols as in the papers: pi is the policy in training, old the policy that sampled, ref the
reference policy, and a ratio is ``pi / old`` of one token.
"""

from dataclasses import dataclass

import torch

from recipes.spec.rl import KlEstimator, LossReduction


@dataclass(frozen=True)
class Objective:
    """What is minimized for a token.

    Attributes:
        clip_ratio_low, clip_ratio_high: a ratio counts as at least ``1 - low`` and at most
            ``1 + high``.
        kl_beta: weight of the KL term.
        kl_estimator: see :func:`kl_estimate`.
    """

    clip_ratio_low: float
    clip_ratio_high: float
    kl_beta: float
    kl_estimator: KlEstimator = "k3"


@dataclass(frozen=True)
class AnswerTokens:
    """What is known of answer tokens before the policy is differentiated; all of one shape.

    Attributes:
        old: log-probabilities under the policy that sampled, by the trainer.
        reference: log-probabilities under the reference policy.
        advantages: the answer's, at each of its tokens.
        weights: see :func:`answer_weights`; 0 at every token that is not trained.
        importance: see :func:`truncated_importance`; None leaves it out.
    """

    old: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    importance: torch.Tensor | None = None

    def to(self, device: torch.device) -> "AnswerTokens":
        """Return them on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return AnswerTokens(**moved)


def dapo_loss(
    log_probabilities: torch.Tensor, tokens: AnswerTokens, objective: Objective
) -> torch.Tensor:
    """Return the loss of some tokens of a batch; the sum over all of them is the batch's loss.

    ``log_probabilities`` are the policy's, of the shape of ``tokens``. The KL term has the weights
    of the policy's term.
    """
    losses = policy_loss(log_probabilities, tokens, objective)
    divergence = kl_estimate(
        log_probabilities, tokens.reference, tokens.old, objective.kl_estimator
    )
    return ((losses + objective.kl_beta * divergence) * tokens.weights).sum()


def policy_loss(
    log_probabilities: torch.Tensor, tokens: AnswerTokens, objective: Objective
) -> torch.Tensor:
    """Return each token's loss by the ratio with decoupled clipping (arXiv 2503.14476, equation 8).

    Where old is pi itself its gradient is the policy gradient's.
    """
    ratios = (log_probabilities - tokens.old).exp()
    clipped = ratios.clamp(1 - objective.clip_ratio_low, 1 + objective.clip_ratio_high)
    losses = -torch.minimum(ratios * tokens.advantages, clipped * tokens.advantages)
    if tokens.importance is None:
        return losses
    return losses * tokens.importance


def kl_estimate(
    log_probabilities: torch.Tensor,
    reference: torch.Tensor,
    old: torch.Tensor,
    estimator: KlEstimator,
) -> torch.Tensor:
    """Return an estimate of the divergence between pi and ref at each token that pi sampled.

    All three estimate KL(pi || ref) in value, but differ in what their gradient descends:

    - ``k3`` is ``ref / pi - log(ref / pi) - 1`` (Schulman, "Approximating KL Divergence", 2020;
      GRPO, arXiv 2402.03300, equation 4). Its gradient is that of KL(ref || pi), the other
      direction.
    - ``k2`` is ``log(ref / pi)^2 / 2``, biased in value. Its gradient is that of KL(pi || ref).
    - ``k3_ratio`` is k3 times the ratio. Its gradient is that of KL(pi || ref).

    The difference of log-probabilities itself, k1, has a gradient of zero mean and is not offered.
    """
    difference = reference - log_probabilities
    if estimator == "k2":
        return difference.square() / 2
    k3 = difference.exp() - difference - 1
    if estimator == "k3":
        return k3
    return k3 * (log_probabilities - old).exp()


def answer_weights(
    trained_tokens: torch.Tensor, reduction: LossReduction, answers_per_mean: int = 1
) -> torch.Tensor:
    """Return what a token of each answer weighs in the loss of the global batch.

    A token mean is taken over some answers at a time, then the mean of these means:

    - ``token``: over all answers of the global batch, DAPO's (arXiv 2503.14476, section 3.3).
    - ``sequence``: over each answer for itself, GRPO's.
    - ``micro_batch``: over ``answers_per_mean`` successive answers.

    Weights are fixed before the batch is split, so that the split into ranks, micro-batches or
    packed sequences does not change the loss.

    Args:
        trained_tokens: int64, shape (answers of the global batch,), in the batch's order; 0 for a
            masked answer, which counts in no mean.
        reduction: which answers share a mean.
        answers_per_mean: of the last kind.

    Returns:
        float64, shape (answers,).
    """
    answers = len(trained_tokens)
    sizes = {"token": max(1, answers), "sequence": 1, "micro_batch": answers_per_mean}
    means = torch.arange(answers, device=trained_tokens.device) // sizes[reduction]
    totals = torch.bincount(means, weights=trained_tokens.double())[means]
    counted = torch.unique(means[totals > 0]).numel()
    # a mean over masked answers only has no tokens to weigh
    return (totals.clamp(min=1) * max(1, counted)).reciprocal().where(totals > 0, 0.0)


def truncated_importance(old: torch.Tensor, engine: torch.Tensor, cap: float) -> torch.Tensor:
    """Return how much likelier the trainer finds each token than the engine that sampled it.

    At most ``cap``, and a constant for the gradient: truncated importance sampling, which corrects
    an engine of lower precision. Both arguments are log-probabilities.
    """
    return (old - engine).exp().clamp(max=cap).detach()


def clipped_shares(
    log_probabilities: torch.Tensor, tokens: AnswerTokens, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the clip stops the gradient, at the lower and at the upper bound: two bools."""
    ratios = (log_probabilities - tokens.old).exp()
    trained = tokens.weights > 0
    low = (ratios < 1 - objective.clip_ratio_low) & (tokens.advantages < 0) & trained
    high = (ratios > 1 + objective.clip_ratio_high) & (tokens.advantages > 0) & trained
    return low, high
