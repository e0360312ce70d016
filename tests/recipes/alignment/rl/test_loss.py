"""The loss is TRL's on the same numbers, its KL terms descend the divergence they name, and no
split of a batch changes it.

TRL's values are kept in ``trl_fixture.json``. Where ``GRANITE41_TRL_PYTHON`` names the Python of an
environment with TRL (``pip install trl==1.16.0``), TRL also computes others now.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from recipes.alignment.rl.loss import (
    AnswerTokens,
    Objective,
    answer_weights,
    clipped_shares,
    dapo_loss,
    kl_estimate,
    policy_loss,
    truncated_importance,
)

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FIXTURE = json.loads((HERE / "trl_fixture.json").read_text())
TRL_PYTHON = os.environ.get("GRANITE41_TRL_PYTHON")
NO_TRL = "GRANITE41_TRL_PYTHON does not name the Python of an environment with TRL"

# a mean over micro-batches of answers: the same data by hand, in fp64
BY_HAND = [
    ("micro_batch", 1, 0.0, -0.002847314),
    ("micro_batch", 1, 0.05, 0.000857949),
    ("micro_batch", 2, 0.0, 0.073714851),
    ("micro_batch", 2, 0.05, 0.077585800),
    ("micro_batch", 2, 0.09, 0.080682559),
    ("micro_batch", 4, 0.09, -0.029185092),
]


class Batch:
    """Arrays of answers by tokens, as TRL has them."""

    def __init__(self, arrays: dict) -> None:
        self.mask = torch.tensor(arrays["mask"], dtype=torch.float64)
        self.log_probabilities = torch.tensor(arrays["log_probabilities"], dtype=torch.float64)
        self.old = torch.tensor(arrays["old"], dtype=torch.float64)
        self.reference = torch.tensor(arrays["reference"], dtype=torch.float64)
        self.advantages = torch.tensor(arrays["advantages"], dtype=torch.float64)

    def tokens(self, reduction: str = "token", micro_batch_size: int = 1) -> AnswerTokens:
        lengths = self.mask.sum(dim=1).long()
        weights = answer_weights(lengths, reduction, micro_batch_size)
        return AnswerTokens(
            old=self.old,
            reference=self.reference,
            advantages=self.advantages[:, None].expand_as(self.old),
            weights=weights[:, None] * self.mask,
        )

    def loss(self, reduction: str, objective: Objective, micro_batch_size: int = 1) -> float:
        tokens = self.tokens(reduction, micro_batch_size)
        return dapo_loss(self.log_probabilities, tokens, objective).item()


def objective(kl_beta: float, kl_estimator: str = "k3") -> Objective:
    return Objective(0.2, 0.28, kl_beta, kl_estimator)


def expect_trl(arrays: dict, tolerance: float) -> None:
    batch = Batch(arrays)
    for case in arrays["losses"]:
        loss = batch.loss(case["reduction"], objective(case["kl_beta"], case["kl_estimator"]))
        assert loss == pytest.approx(case["loss"], abs=tolerance), case


def test_losses_are_those_that_trl_computed() -> None:
    assert len(FIXTURE["losses"]) == 9
    expect_trl(FIXTURE, 1e-6)


@pytest.mark.skipif(not TRL_PYTHON, reason=NO_TRL)
def test_losses_are_those_that_trl_computes_now(tmp_path) -> None:
    output = tmp_path / "losses.json"
    command = [str(TRL_PYTHON), str(HERE / "trl_losses.py"), str(output)]
    subprocess.run(command, check=True, timeout=600, cwd=tmp_path)
    arrays = json.loads(output.read_text())
    assert arrays["log_probabilities"] != FIXTURE["log_probabilities"]
    expect_trl(arrays, 1e-6)


@pytest.mark.parametrize(("reduction", "size", "beta", "expected"), BY_HAND)
def test_means_over_micro_batches(reduction, size, beta, expected) -> None:
    loss = Batch(FIXTURE).loss(reduction, objective(beta), size)
    assert loss == pytest.approx(expected, abs=1e-7)


def test_skyrl_form_has_other_weights_for_its_kl_term() -> None:
    batch = Batch(FIXTURE)
    by_token = batch.tokens("token")
    by_sequence = batch.tokens("sequence")
    policy = policy_loss(batch.log_probabilities, by_token, objective(0.0))
    kl = kl_estimate(batch.log_probabilities, batch.reference, batch.old, "k3")
    kl_by_sequence = (kl * by_sequence.weights).sum()
    assert (kl * by_token.weights).sum().item() == pytest.approx(0.0773210, abs=1e-7)
    assert kl_by_sequence.item() == pytest.approx(0.0741042, abs=1e-7)

    policy_by_token = (policy * by_token.weights).sum()
    for beta, expected in ((0.05, -0.032438785), (0.09, -0.029474619)):
        loss = policy_by_token + beta * kl_by_sequence
        assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_clip_stops_three_of_seventeen_tokens_at_either_bound() -> None:
    batch = Batch(FIXTURE)
    low, high = clipped_shares(batch.log_probabilities, batch.tokens(), objective(0.05))
    assert low.sum() == high.sum() == 3

    # where it says so, and nowhere else, the policy's term has no gradient
    free = batch.log_probabilities.clone().requires_grad_()
    (policy_loss(free, batch.tokens(), objective(0.0)) * batch.mask).sum().backward()
    assert torch.equal(free.grad == 0, low | high | (batch.mask == 0))


@pytest.mark.parametrize("reduction", ["token", "sequence", "micro_batch"])
@pytest.mark.parametrize("kl_estimator", ["k3", "k2", "k3_ratio"])
def test_no_split_changes_loss_or_gradient(reduction, kl_estimator) -> None:
    batch = Batch(FIXTURE)
    tokens = batch.tokens(reduction, micro_batch_size=2)
    fields = {name: value for name, value in vars(tokens).items() if value is not None}
    results = []
    for split in ([4], [2, 2], [1, 1, 1, 1], [3, 1]):
        free = batch.log_probabilities.clone().requires_grad_()
        loss = 0.0
        for rows in torch.arange(4).split(split):
            fields = {
                name: value[rows] for name, value in vars(tokens).items() if value is not None
            }
            part = dapo_loss(free[rows], AnswerTokens(**fields), objective(0.05, kl_estimator))
            part.backward()
            loss += part.item()
        results.append((loss, free.grad))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-15)
        assert torch.allclose(gradient, results[0][1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", ["token", "sequence", "micro_batch"])
def test_a_masked_answer_counts_neither_above_nor_below(reduction) -> None:
    """The loss of a batch with masked answers is that of the batch without them."""
    whole = Batch(FIXTURE)
    whole.mask[2] = 0
    whole.mask[3] = 0
    left = Batch({name: rows[:2] for name, rows in FIXTURE.items() if name != "losses"})
    for size in (1, 2):
        expected = left.loss(reduction, objective(0.05), size)
        assert whole.loss(reduction, objective(0.05), size) == pytest.approx(expected, abs=1e-15)

    whole.mask[:] = 0
    assert whole.loss(reduction, objective(0.05)) == 0


# -- which divergence a KL term descends, by exact expectation over eight tokens ------------------


def _categorical() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, dtype=torch.float64, generator=generator).requires_grad_()
    reference = torch.randn(8, dtype=torch.float64, generator=generator).log_softmax(-1)
    return logits, reference


def _gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


@pytest.mark.parametrize(
    ("estimator", "direction"),
    [("k3", "ref || pi"), ("k2", "pi || ref"), ("k3_ratio", "pi || ref")],
)
def test_gradient_of_a_kl_term_is_that_of_the_divergence_it_names(estimator, direction) -> None:
    logits, reference = _categorical()
    policy = logits.log_softmax(-1)
    divergences = {
        "pi || ref": (policy.exp() * (policy - reference)).sum(),
        "ref || pi": (reference.exp() * (reference - policy)).sum(),
    }
    expected = {name: _gradient(value, logits) for name, value in divergences.items()}

    estimates = kl_estimate(policy, reference, policy.detach(), estimator)
    # the tokens are sampled: their probability is no part of what is differentiated
    gradient = _gradient((policy.detach().exp() * estimates).sum(), logits)
    assert torch.allclose(gradient, expected.pop(direction), rtol=0, atol=1e-14)
    (other,) = expected.values()
    assert (gradient - other).abs().max() > 1e-2


@pytest.mark.parametrize("estimator", ["k3", "k3_ratio"])
def test_k3_is_unbiased_in_value(estimator) -> None:
    logits, reference = _categorical()
    policy = logits.detach().log_softmax(-1)
    estimate = (policy.exp() * kl_estimate(policy, reference, policy, estimator)).sum()
    exact = (policy.exp() * (policy - reference)).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=1e-14)


# -- on-policy, and the engine's log-probabilities -----------------------------------------------


def test_gradient_of_the_policy_itself_is_the_policy_gradient() -> None:
    batch = Batch(FIXTURE)
    batch.old = batch.log_probabilities.clone()
    tokens = batch.tokens()
    free = batch.log_probabilities.clone().requires_grad_()
    dapo_loss(free, tokens, objective(0.0)).backward()
    assert torch.allclose(free.grad, -tokens.advantages * tokens.weights, rtol=1e-15, atol=0)
    low, high = clipped_shares(batch.log_probabilities, tokens, objective(0.0))
    assert not (low | high).any()


def test_importance_is_capped_and_a_constant() -> None:
    old = torch.log(torch.tensor([0.5, 0.5, 0.2])).requires_grad_()
    engine = torch.log(torch.tensor([0.5, 0.1, 0.4]))
    weights = truncated_importance(old, engine, cap=2.0)
    assert torch.allclose(weights, torch.tensor([1.0, 2.0, 0.5]))
    assert not weights.requires_grad

    batch = Batch(FIXTURE)
    tokens = batch.tokens()
    halved = AnswerTokens(**{**vars(tokens), "importance": torch.full_like(batch.old, 0.5)})
    plain = policy_loss(batch.log_probabilities, tokens, objective(0.0))
    assert torch.equal(policy_loss(batch.log_probabilities, halved, objective(0.0)), plain / 2)
