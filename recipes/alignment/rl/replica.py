"""What the ranks of a replica, and the replicas, tell each other."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from megatron.core import parallel_state

T = TypeVar("T")


def from_first_rank(compute: Callable[[], T]) -> T:
    """Return what ``compute`` returns on the first rank of each replica of the model.

    The other ranks of the replica do not call it.
    """
    group = parallel_state.get_model_parallel_group()
    source = parallel_state.get_model_parallel_src_rank()
    result: list[Any] = [None]
    if torch.distributed.get_rank() == source:
        result = [compute()]
    torch.distributed.broadcast_object_list(result, source, group)
    return result[0]


def from_all_replicas(value: T) -> list[T]:
    """Return what each replica has, in their order."""
    group = parallel_state.get_data_parallel_group()
    values: list[Any] = [None] * group.size()
    torch.distributed.all_gather_object(values, value, group)
    return values
