"""Processes that have NeMo loaded: one fork server imports it once (20 s), every call is a fork of
it.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from recipes.common.cpus import usable_cpus

PRELOADED = ["recipes.training.pretraining", "lm_eval.evaluator", "lm_eval.models.huggingface"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def run(function: Callable, *args: Any, world_size: int = 1) -> Any:
    """Run ``function(*args)`` in ``world_size`` fresh processes that have torchrun's environment
    variables set.

    The function must be importable, its arguments and result picklable. Returns rank 0's result;
    raises what any rank raised.
    """
    port = _free_port()
    with ProcessPoolExecutor(world_size, mp_context=CONTEXT, max_tasks_per_child=1) as pool:
        ranks = [
            pool.submit(_as_rank, _rank_variables(rank, world_size, port), function, args)
            for rank in range(world_size)
        ]
        results = [rank.result() for rank in ranks]
    return results[0]


def start(function: Callable, *args: Any, world_size: int = 1) -> list[Any]:
    """Start what :func:`run` runs and return the processes, which may be killed."""
    port = _free_port()
    ranks = [
        CONTEXT.Process(
            target=_as_rank, args=(_rank_variables(rank, world_size, port), function, args)
        )
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _rank_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return the environment of a rank: the caller's, which the fork server may not have had."""
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {**os.environ, **{name: str(value) for name, value in variables.items()}}


def _as_rank(environment: dict[str, str], function: Callable, args: tuple) -> Any:
    import torch

    os.environ.update(environment)
    threads = int(os.environ.get("OMP_NUM_THREADS", usable_cpus()))
    torch.set_num_threads(max(1, threads // int(os.environ["WORLD_SIZE"])))
    return function(*args)
