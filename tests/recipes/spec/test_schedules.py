"""The learning-rate curves against values computed by hand."""

import itertools
import math

import pytest

from recipes.registry.resolve import resolve
from recipes.spec.origin import assumed
from recipes.spec.schedules import ConstantSchedule, ExponentialDecay, LinearDecay


def value(number):
    return assumed(number, "a test's value")


# 4096 n^-0.51 = 4096 / 10^(0.51 log10 n): log10 is 10.41497, 11 and 13, the powers are 204948,
# 407380 and 4265795
@pytest.mark.parametrize(
    ("tokens", "lr"),
    [(1e9, 0.02), (2.6e10, 0.019985), (1e11, 0.0100545), (1e13, 9.6020e-4), (1.2e13, 8.7494e-4)],
)
def test_power_schedule(tokens: float, lr: float) -> None:
    assert resolve("phase1", "8b").schedule.lr(tokens) == pytest.approx(lr, rel=1e-4)


def test_power_schedule_is_capped_before_the_curve_falls_below() -> None:
    schedule = resolve("phase1", "8b").schedule
    assert schedule.lr(2.5e10) == 0.02
    assert schedule.lr(2.6e10) < 0.02


def test_power_schedule_at_the_end_of_phase2() -> None:
    # 4096 x (12e12)^-0.51
    assert resolve("phase2", "8b").schedule.lr(2e12) == pytest.approx(8.7494e-4, rel=1e-4)


def test_power_schedule_warms_up_linearly_from_zero() -> None:
    schedule = resolve("phase1", "8b").schedule
    assert schedule.lr(0) == 0
    assert schedule.lr(0.25e9) == pytest.approx(0.005)
    assert schedule.lr(1e9 - 1) == pytest.approx(0.02)


def test_phase1_continues_into_phase2_and_so_on() -> None:
    chain = [resolve(f"phase{number}", "8b") for number in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(chain):
        assert after.schedule.lr(0) == pytest.approx(
            before.schedule.lr(before.tokens.value), rel=1e-12
        )


@pytest.mark.parametrize("size", ["3b", "8b", "30b", "tiny"])
def test_phase4_and_lce_end_at_exactly_zero(size: str) -> None:
    for stage in ("phase4", "lce_32k", "lce_128k"):
        recipe = resolve(stage, size)
        assert recipe.schedule.lr(recipe.tokens.value) == 0


def test_lce_starts_at_exactly_the_published_rate() -> None:
    assert resolve("lce_32k", "8b").schedule.lr(0) == 1e-4


def test_exponential_decay() -> None:
    schedule = ExponentialDecay(lr_start=value(1e-3), lr_end=value(1e-4), tokens=value(100))
    assert schedule.lr(0) == 1e-3
    assert schedule.lr(100) == 1e-4
    # (exp(0.5) - 1) / (e - 1) = 0.3775407
    assert schedule.lr(50) == pytest.approx(1e-4 + 9e-4 * 0.3775407, rel=1e-6)
    assert schedule.lr(50) == pytest.approx(1e-4 + 9e-4 * (math.exp(0.5) - 1) / (math.e - 1))
    assert schedule.lr(-5) == 1e-3
    assert schedule.lr(1000) == 1e-4


def test_linear_decay_with_warmup() -> None:
    schedule = LinearDecay(
        lr_start=value(1.0), lr_end=value(0.2), tokens=value(110), warmup_tokens=value(10)
    )
    assert [schedule.lr(tokens) for tokens in (0, 5, 10, 60, 110, 500)] == pytest.approx(
        [0, 0.5, 1, 0.6, 0.2, 0.2]
    )


def test_constant_schedule() -> None:
    schedule = ConstantSchedule(learning_rate=value(5e-7))
    assert schedule.lr(0) == schedule.lr(1e12) == 5e-7


def test_sft_warms_up_over_three_percent_and_decays_to_zero() -> None:
    recipe = resolve("sft", "8b")
    tokens = recipe.tokens.value
    assert recipe.schedule.lr(0) == 0
    assert recipe.schedule.lr(0.015 * tokens) == pytest.approx(2.5e-6)
    assert recipe.schedule.lr(0.03 * tokens) == pytest.approx(5e-6)
    assert recipe.schedule.lr(0.515 * tokens) == pytest.approx(2.5e-6)
    assert recipe.schedule.lr(tokens) == 0


def test_tiny_follows_the_full_size_curve() -> None:
    for stage in ("phase1", "phase2", "phase3", "phase4", "lce_32k", "lce_512k"):
        tiny, full = resolve(stage, "tiny"), resolve(stage, "8b")
        for fraction in (0.1, 0.3, 0.7, 1.0):
            assert tiny.schedule.lr(fraction * tiny.tokens.value) == pytest.approx(
                full.schedule.lr(fraction * full.tokens.value), rel=1e-9
            ), (stage, fraction)


def test_tiny_warms_up_over_a_tenth_of_phase1() -> None:
    schedule = resolve("phase1", "tiny").schedule
    peak = max(schedule.lr(tokens) for tokens in range(0, 1_250_001, 12_500))
    assert peak == schedule.lr(125_000)
    assert schedule.lr(62_500) == pytest.approx(peak / 2)


def test_mup_divides_the_hidden_matrices_rate_in_pretraining_only() -> None:
    assert {
        size: resolve("phase1", size).hidden_lr_divisor.value
        for size in ("3b", "8b", "30b", "tiny")
    } == {
        "3b": 10,
        "8b": 16,
        "30b": 16,
        "tiny": 0.25,
    }
    assert resolve("lce_128k", "3b").hidden_lr_divisor.value == 10
    assert resolve("sft", "8b").hidden_lr_divisor.value == 1
    assert resolve("rl_math", "8b").hidden_lr_divisor.value == 1
