"""Megatron's checkpoint writer, without the process that it starts to hold a queue.

megatron/core/dist_checkpointing/strategies/filesystem_async.py of Megatron-Core 0.13.1 passes the
results of its writers through a queue of a process of its own (``_get_write_results_queue``), on
GPUs as on a CPU. That process takes 3 s to import torch and outlives a training that is killed.
"""

import os
import pickle
import queue
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async

from recipes.compat.patching import replace, require_versions

WRITTEN_FOR = {"megatron-core": "0.13.1"}
PATCHED_BY = "recipes/compat/megatron_checkpoint.py"


def install() -> None:
    """Give the checkpoint writer a new :class:`SharedMemoryResultQueue`.

    Raises:
        RuntimeError: another version of Megatron-Core, or one without these names.
    """
    require_versions(WRITTEN_FOR, PATCHED_BY)
    results = SharedMemoryResultQueue()
    replace(filesystem_async, "_results_queue", results, PATCHED_BY)

    # the name alone does nothing: the function that hands the queue out must read it
    get_queue = "_get_write_results_queue"
    if "_results_queue" not in getattr(filesystem_async, get_queue).__code__.co_names:
        raise RuntimeError(f"{PATCHED_BY} patches {get_queue}, which reads no _results_queue")


class SharedMemoryResultQueue:
    """A queue for one result, from the checkpoint writer to the trainer that has forked it."""

    def __init__(self) -> None:
        self._memory = os.fdopen(os.memfd_create("checkpoint_results"), "r+b", buffering=0)

    def put(self, result: Any) -> None:
        """Write the result; called by one process at a time."""
        self._memory.write(pickle.dumps(result))

    def get_nowait(self) -> Any:
        """Return the result and forget it.

        Raises:
            queue.Empty: nothing was put.
        """
        self._memory.seek(0)
        content = self._memory.read()
        self._memory.seek(0)
        self._memory.truncate()
        if not content:
            raise queue.Empty
        # from this process's own child
        return pickle.loads(content)  # noqa: S301
