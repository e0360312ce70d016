"""The CPU backend: NeMo and Megatron-Core, unchanged, on a machine without CUDA.

Megatron-Core 0.13.1 and NeMo 2.4.1 ask for ``device="cuda"``, for CUDA streams and for CUDA random
states even where the arithmetic would run anywhere. :func:`install` answers those requests with the
CPU. It does nothing where CUDA is available, and refuses to patch versions it was not written for.
"""

import contextlib
import functools
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from recipes.compat import patching

# The versions whose sources were read for the patches below.
WRITTEN_FOR = {"torch": "2.13.0", "megatron-core": "0.13.1", "nemo-toolkit": "2.4.1"}
PATCHED_BY = "recipes/compat/cpu.py"

CPU = torch.device("cpu")

_replace = functools.partial(patching.replace, patched_by=PATCHED_BY)

_installed: "list[_CudaRequestsOnCpu]" = []


def install() -> None:
    """Send every CUDA request of this process to the CPU, once; do nothing where CUDA is available.

    Raises:
        RuntimeError: an installed library is not the version that the patches were written for, or
            lacks a name.
    """
    if torch.cuda.is_available() or _installed:
        return
    check_versions()
    _patch_torch()
    _patch_megatron()
    _patch_nemo()
    mode = _CudaRequestsOnCpu()
    mode.__enter__()
    _installed.append(mode)


def check_versions() -> None:
    """Raise RuntimeError unless the installed libraries are the ones in :data:`WRITTEN_FOR`."""
    patching.require_versions(WRITTEN_FOR, PATCHED_BY)


class _CudaRequestsOnCpu(TorchFunctionMode):
    """Rewrite the device of every torch call that names CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to:
            # a device may be anywhere among the arguments, which also have types and flags
            tensor, *options = args
            args = (tensor, *map(_without_cuda, options))
        elif func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Float16Module and the optimizers tell parameters apart by 'torch.cuda.FloatTensor'
            return func(*args).replace("torch.", "torch.cuda.")
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": _cpu_for_cuda(kwargs["device"])}
        if kwargs.get("pin_memory"):
            # page-locked memory exists only where there is an accelerator to copy it to
            kwargs = {**kwargs, "pin_memory": False}
        return func(*args, **kwargs)


def _cpu_for_cuda(device: Any) -> Any:
    """Return the CPU for a CUDA device (an integer index is one), any other device as it is."""
    is_cuda = isinstance(device, int) or torch.device(device).type == "cuda"
    return CPU if is_cuda else device


def _without_cuda(option: Any) -> Any:
    """Return an argument of ``Tensor.to`` with the CPU for a CUDA device."""
    return _cpu_for_cuda(option) if isinstance(option, str | torch.device) else option


class _NoStream:
    """A CUDA stream or event on a machine where everything is already in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait = _nothing

    def record_event(self, *args: Any) -> "_NoStream":
        return self

    def query(self) -> bool:
        return True


def _patch_torch() -> None:
    cuda = torch.cuda
    # Megatron passes current_device() on as device=...
    _replace(cuda, "current_device", lambda: CPU)
    _replace(cuda, "device_count", lambda: 1)
    for name in ("synchronize", "set_device", "empty_cache"):
        _replace(cuda, name, lambda *args, **kwargs: None)
    for name in ("max_memory_reserved", "max_memory_allocated"):
        _replace(cuda, name, lambda *args, **kwargs: 0)
    for name in ("Stream", "Event", "current_stream", "default_stream"):
        _replace(cuda, name, _NoStream)
    _replace(cuda, "stream", lambda stream: contextlib.nullcontext())
    _replace(cuda, "get_rng_state", lambda *args, **kwargs: torch.get_rng_state())
    _replace(cuda, "set_rng_state", lambda state, *args, **kwargs: torch.set_rng_state(state))
    _replace(cuda, "manual_seed", torch.manual_seed)
    _replace(torch.nn.Module, "cuda", lambda self, *args, **kwargs: self)


def _patch_megatron() -> None:
    # megatron/core/tensor_parallel/random.py indexes torch.cuda.default_generators, which is empty
    # without CUDA
    from megatron.core.tensor_parallel import random

    _replace(random, "_get_cuda_rng_state", lambda *args, **kwargs: torch.get_rng_state())
    _replace(
        random,
        "_set_cuda_rng_state",
        lambda state, *args, **kwargs: torch.set_rng_state(state),
    )


def _patch_nemo() -> None:
    # nemo/lightning/io/pl.py asserts that CUDA is initialized before it moves loaded tensors
    # between GPUs
    from nemo.lightning.io import pl

    _replace(pl, "_fix_tensors_device", lambda checkpoint: checkpoint)
