"""Failures: the share of the time that becomes progress, and the best checkpoint interval.

J. W. Young 1974, "A first order approximation to the optimum checkpoint interval" (CACM 17, 530);
J. T. Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"
(Future Generation Computer Systems 22, 303). Failures are independent of each other and of time.
"""

import math
import random


def young_interval(save: float, mean_time: float) -> float:
    """Return Young's interval between checkpoints, sqrt(2 x save x mean time).

    Args:
        save: seconds that training stands still for a checkpoint.
        mean_time: seconds between failures of the whole job.
    """
    return math.sqrt(2 * save * mean_time)


def daly_interval(save: float, mean_time: float) -> float:
    """Return Daly's interval between checkpoints, without the save itself."""
    if save >= 2 * mean_time:
        return mean_time
    ratio = math.sqrt(save / (2 * mean_time))
    return young_interval(save, mean_time) * (1 + ratio / 3 + ratio**2 / 9) - save


def goodput(interval: float, save: float, restart: float, mean_time: float) -> float:
    """Return the share of the time that becomes progress (Daly's complete formula).

    Args:
        interval: seconds of training between checkpoints.
        save, mean_time: as for :func:`young_interval`.
        restart: seconds from a failure to the first new step; a failure in them starts them anew.
    """
    # a job that never gets through an interval makes no progress
    exponent = (restart + interval + save) / mean_time
    if exponent > 700:
        return 0.0
    attempts = math.exp(restart / mean_time) * math.expm1((interval + save) / mean_time)
    return interval / (mean_time * attempts)


def simulate(
    work: float, interval: float, save: float, restart: float, mean_time: float, seed: int
) -> float:
    """Simulate a run with random failures and return its goodput.

    Args:
        work: seconds of training in all.
        seed: of the failures; the others are :func:`goodput`'s.
    """
    failures = random.Random(seed)  # noqa: S311
    clock = 0.0
    next_failure = failures.expovariate(1 / mean_time)
    done = 0.0
    while done < work:
        part = min(interval, work - done)
        end = clock + part + save
        if end <= next_failure:
            clock = end
            done += part
            continue
        # what was trained since the last checkpoint is lost, and a restart may fail too
        clock = next_failure
        next_failure = clock + failures.expovariate(1 / mean_time)
        while clock + restart > next_failure:
            clock = next_failure
            next_failure = clock + failures.expovariate(1 / mean_time)
        clock += restart
    return work / clock
