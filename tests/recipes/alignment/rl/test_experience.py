"""What the policy is trained on follows from answers and rewards, token by token."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.alignment.rewards.reward import Outcome, Reward
from recipes.alignment.rl.experience import (
    Answer,
    Scores,
    advantages,
    engine_scores,
    lay_rows,
    trained_tokens,
    with_known,
)
from recipes.alignment.rollout.engine import Sample
from recipes.registry.resolve import resolve_rl
from recipes.runs.prompts import Prompt

pytestmark = pytest.mark.slow


def answer(draw: int, ids: list[int], reward: float, is_finished: bool = True) -> Answer:
    prompt = Prompt("p", "math", [], "math")
    prompt_ids = np.array([90 + draw, 91], dtype=np.int32)
    scores = -np.array(ids, dtype=np.float32) / 10
    sample = Sample(np.array(ids, dtype=np.int32), scores, is_finished, weight_version=0)
    return Answer(draw, prompt, prompt_ids, sample, Reward(reward, Outcome.RIGHT))


ANSWERS = [
    answer(0, [1, 2, 3], 1.0),
    answer(0, [4], 0.0),
    answer(1, [5, 6], 0.0, is_finished=False),
    answer(1, [7, 8], 1.0),
]


def recipe(*overrides: str) -> Any:
    return resolve_rl("rl_math", "tiny", ["sequence_length=12", *overrides])


def test_rows_hold_prompts_and_answers_in_order() -> None:
    laid = lay_rows(ANSWERS, capacity=12, multiple=4)
    assert laid.answers == [[0, 1], [2, 3]]
    assert [row.tokens.shape for row in laid.rows] == [(1, 8), (1, 8)]
    assert laid.padding == 0
    first = laid.rows[0]
    assert first.tokens.tolist() == [[90, 91, 1, 2, 3, 90, 91, 4]]
    # what predicts an answer's token
    assert first.labels[first.loss_mask].tolist() == [1, 2, 3, 4]
    assert first.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]


def test_each_token_has_what_is_known_of_its_answer() -> None:
    laid = lay_rows(ANSWERS, capacity=12, multiple=1)
    engine = engine_scores(laid, ANSWERS)
    assert engine[1].tolist() == pytest.approx([-0.5, -0.6, -0.7, -0.8])
    scores = Scores([scores + 1 for scores in engine], engine, engine, engine)
    rows = with_known(
        laid,
        ANSWERS,
        scores,
        advantages=torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64),
        weights=torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
        importance_cap=2.0,
    )
    known = rows[0].known
    assert known is not None and known.importance is not None
    assert known.advantages.tolist() == [1, 1, 1, -1]
    assert known.weights.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.2])
    # e, capped
    assert known.importance.tolist() == [2] * 4


def test_truncated_answers() -> None:
    kept = recipe()
    assert [trained_tokens(answer, kept) for answer in ANSWERS] == [3, 1, 2, 2]
    masked = recipe("truncated_answers=mask")
    assert [trained_tokens(answer, masked) for answer in ANSWERS] == [3, 1, 0, 2]
    assert torch.equal(advantages(ANSWERS, kept), advantages(ANSWERS, masked))

    # ten tokens are left for an answer: 2 are right at the buffer's start, 3 a tenth into it
    punished = recipe("truncated_answers=punish", "overlong_buffer=8")
    expected = [
        answer(0, [1, 2, 3], 1.0 - 1 / 8),
        answer(0, [4], 0.0),
        answer(1, [5, 6], 0.0),
        answer(1, [7, 8], 1.0),
    ]
    assert torch.equal(advantages(ANSWERS, punished), advantages(expected, kept))


def test_sums_of_scores() -> None:
    scores = Scores(
        policy=[torch.tensor([-1.0]), torch.tensor([-2.0])],
        reference=[torch.tensor([-1.0]), torch.tensor([-3.0])],
        engine=[torch.tensor([-1.5]), torch.tensor([-2.0])],
        entropies=[torch.tensor([0.25]), torch.tensor([0.5])],
    )
    tokens, kl, entropy, gap, divergence = scores.sums().tolist()
    assert tokens == 2
    # k3 of a difference of -1, and the engine's of 0.5
    assert kl == pytest.approx(np.exp(-1))
    assert entropy == 0.75
    assert gap == 0.5
    assert divergence == pytest.approx(np.exp(0.5) - 1.5)
    assert not Scores([], [], [], []).sums().any()
