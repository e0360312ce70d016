"""Tokens are drawn from the distribution at the temperature."""

import pytest
import torch

from recipes.alignment.rollout.drawing import draw, uniforms

pytestmark = pytest.mark.slow

ROWS = 100_000


def test_frequencies_and_log_probabilities_are_those_of_the_temperature() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, float("-inf"), 1.0])
    numbers = torch.from_numpy(uniforms(5, ROWS))
    ids, log_probabilities = draw(logits.expand(ROWS, -1), torch.full((ROWS,), 0.7), numbers)

    expected = torch.softmax(logits / 0.7, dim=0)
    frequencies = ids.bincount(minlength=5) / ROWS
    # five standard deviations of a frequency
    assert torch.all((frequencies - expected).abs() <= 5 * (expected / ROWS).sqrt())
    assert torch.allclose(log_probabilities, expected.log()[ids], atol=1e-6)


def test_a_row_depends_on_its_own_number_and_temperature() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    temperatures = torch.tensor([0.0, 0.5, 2.0])
    numbers = torch.tensor([0.99, 0.3, 0.6], dtype=torch.float64)
    ids, log_probabilities = draw(logits, temperatures, numbers)
    assert ids[0] == logits[0].argmax()
    # temperature 0 is scored at 1
    assert log_probabilities[0] == torch.log_softmax(logits[0], dim=0).max()
    for row in range(3):
        one, value = draw(logits[[row]], temperatures[[row]], numbers[[row]])
        assert one == ids[row]
        assert value == log_probabilities[row]


def test_the_ends_of_the_range_are_tokens_that_can_come() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    numbers = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    ids, _ = draw(logits, torch.ones(2), numbers)
    assert ids.tolist() == [1, 2]


def test_unlikely_tokens_of_a_large_vocabulary_are_reached() -> None:
    # half the mass is on the first token, the rest is even: the last token has its share
    logits = torch.zeros(1, 100_352)
    logits[0, 0] = torch.tensor(100_351.0).log()
    share = 0.5 / 100_351
    ids, _ = draw(logits, torch.ones(1), torch.tensor([1 - share / 2], dtype=torch.float64))
    assert ids.item() == 100_351


def test_numbers_are_those_of_the_seed() -> None:
    assert uniforms(5, 10).tolist() == uniforms(5, 20)[:10].tolist()
    assert uniforms(5, 10).tolist() != uniforms(6, 10).tolist()
