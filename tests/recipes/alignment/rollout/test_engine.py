"""Requests: their seeds, and which of them no engine can answer."""

from typing import Any

import numpy as np
import pytest

from recipes.alignment.rollout.engine import Request, check_requests
from recipes.common.errors import UserError

pytestmark = pytest.mark.fast


def request(**changed: Any) -> Request:
    fields: dict[str, Any] = {
        "prompt_id": "math-7",
        "ids": np.arange(10, dtype=np.int32),
        "samples": 16,
        "seed": 3,
        "max_tokens": 20,
    }
    return Request(**(fields | changed))


def test_seeds_differ_by_seed_prompt_and_answer() -> None:
    seeds = set()
    for seed in range(8):
        for number in range(8):
            asked = request(seed=seed, prompt_id=f"math-{number}")
            seeds |= {asked.draw_seed(sample) for sample in range(16)}
    assert len(seeds) == 8 * 8 * 16
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_seed_is_the_same_in_every_process() -> None:
    assert request().draw_seed() == request(samples=1, max_tokens=1).draw_seed(0) == 1845817198


def test_an_answer_may_fill_the_context() -> None:
    check_requests([request()], positions=30)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"max_tokens": 21},
            "its 10 tokens and an answer of up to 21 are beyond the context of 30",
        ),
        ({"ids": np.arange(31, dtype=np.int32)}, "its 31 tokens and an answer .* remove it"),
        ({"ids": np.zeros(0, dtype=np.int32)}, "has no tokens"),
        ({"samples": 0}, "0 answers of up to 20 tokens are asked for"),
        ({"max_tokens": 0}, "16 answers of up to 0 tokens are asked for"),
        ({"temperature": -0.5}, "temperature -0.5 is none"),
        ({"temperature": float("nan")}, "temperature nan is none"),
        ({"temperature": float("inf")}, "temperature inf is none"),
    ],
)
def test_requests_that_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"prompt math-7: {sentence}"):
        check_requests([request(), request(**changed)], positions=30)
