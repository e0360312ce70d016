"""One process as a rank of a large job: process groups without processes, a model without memory.

Nothing of Megatron-Core is patched. Torch's fake process group, in whose collectives nobody else
takes part, belongs to torch's own tests (``torch.testing._internal``), and so may change:
:func:`recipes.compat.cpu.check_versions` refuses any version but the one it was read in.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from recipes.common.errors import UserError
from recipes.compat import patching


def without_gpus() -> None:
    """Keep torch off this machine's GPUs: models are built on the meta device by the CPU backend.

    Raises:
        UserError: torch was loaded before and has found GPUs, or a library is not of the CPU
            backend's version.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from recipes.compat import cpu

    if torch.cuda.is_available():
        raise UserError(
            "models are built here without GPUs, but torch has found some; set "
            "CUDA_VISIBLE_DEVICES=''"
        )
    try:
        cpu.check_versions()
    except RuntimeError as error:
        raise UserError(f"{error}; the environment of `make setup` has the pinned ones") from error
    cpu.install()


@contextmanager
def rank_of_world(rank: int, world_size: int, tp: int, pp: int, cp: int) -> Iterator[None]:
    """Be a rank with Megatron's parallel groups set up.

    Args:
        rank: 0 to ``world_size - 1``.
        world_size: a multiple of ``tp * pp * cp``, the sizes of the parallel groups.
    """
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            context_parallel_size=cp,
            create_gloo_process_groups=False,
        )
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def without_random_states() -> None:
    """Let Megatron neither read nor set random states, whose tensors are never fake ones.

    Granite draws no random number in a step: it has no dropout.
    """
    # megatron/core/tensor_parallel/random.py
    from megatron.core.tensor_parallel import random

    def replace(target: object, name: str, value: object) -> None:
        patching.replace(target, name, value, patched_by="recipes/compat/fake_world.py")

    replace(random, "_get_all_rng_states", lambda: (None, None, None))
    replace(random, "_set_all_rng_states", lambda *states: None)
    replace(random.CudaRNGStatesTracker, "fork", lambda self, *name: nullcontext())
