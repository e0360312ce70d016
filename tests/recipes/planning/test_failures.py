"""The formulas of goodput and checkpoint intervals against a simulation."""

import math

import pytest

from recipes.planning.failures import daly_interval, goodput, simulate, young_interval
from recipes.planning.options import PlanOptions
from recipes.planning.stage_plan import plan_stage

# save, restart and mean time between failures in seconds
JOBS = [(2.35, 146.0, 178_000.0), (30.0, 300.0, 20_000.0), (60.0, 600.0, 5000.0)]


@pytest.mark.parametrize(("save", "restart", "mean_time"), JOBS)
def test_goodput_is_that_of_a_simulation(save: float, restart: float, mean_time: float) -> None:
    interval = young_interval(save, mean_time)
    expected = goodput(interval, save, restart, mean_time)
    simulated = simulate(20_000 * interval, interval, save, restart, mean_time, seed=1)
    assert simulated == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("save", "restart", "mean_time"), JOBS)
def test_dalys_interval_is_the_best(save: float, restart: float, mean_time: float) -> None:
    best = daly_interval(save, mean_time)
    share = goodput(best, save, restart, mean_time)
    assert all(
        goodput(factor * best, save, restart, mean_time) <= share * (1 + 1e-6)
        for factor in (0.5, 0.8, 0.9, 1.1, 1.25, 2)
    )
    assert best == pytest.approx(young_interval(save, mean_time), rel=0.1)


def test_without_failures_only_saves_cost() -> None:
    assert goodput(100, 1, 10, 1e12) == pytest.approx(100 / 101)
    assert simulate(1000, 100, 1, 10, 1e12, seed=1) == pytest.approx(1000 / 1010)


def test_a_job_that_never_ends_an_interval_makes_no_progress() -> None:
    assert goodput(1e6, 1, 1, 10) == 0
    assert daly_interval(100, 10) == 10


def test_a_simulation_repeats_with_its_seed() -> None:
    runs = [simulate(1e5, 1000, 10, 100, 3000, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("size", ["3b", "8b", "30b"])
def test_the_10t_tokens_of_phase_1_as_the_plan_has_them(size: str) -> None:
    figures = plan_stage("phase1", size, PlanOptions()).figures
    save = figures["save"].value
    restart = figures["restart"].value
    mean_time = 3600 * figures["time between failures"].value
    interval = 3600 * figures["checkpoint interval"].value
    work = 3600 * figures["time"].value

    # the whole phase has tens to hundreds of failures: the mean of 20 runs
    runs = [simulate(work, interval, save, restart, mean_time, seed) for seed in range(20)]
    assert math.fsum(runs) / 20 == pytest.approx(figures["goodput"].value, abs=0.003)
    # the recipe's interval loses little against the best
    best = goodput(3600 * figures["best checkpoint interval"].value, save, restart, mean_time)
    assert 0 <= best - figures["goodput"].value < 0.005
