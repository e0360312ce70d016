"""The process groups of a training, and how many processes there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import unset_num_microbatches_calculator

from recipes.compat import cpu
from recipes.spec.recipe import Parallelism


def world_size() -> int:
    """Return the number of processes that the launcher has started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes on this machine, 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def process_groups(parallelism: Parallelism) -> Iterator[None]:
    """Set up torch's and Megatron's process groups for the processes that torchrun has started.

    Models are built, trained and saved within the block.
    """
    cpu.install()
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # a single process needs no port to find the others
    if "RANK" in os.environ:
        torch.distributed.init_process_group(backend)
    else:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallelism.tensor_model_parallel_size.value,
        pipeline_model_parallel_size=parallelism.pipeline_model_parallel_size.value,
        context_parallel_size=parallelism.context_parallel_size.value,
    )
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        unset_num_microbatches_calculator()
        torch.distributed.destroy_process_group()
