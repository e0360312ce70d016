"""The CPU backend: NeMo and Megatron-Core, unchanged, on a machine without CUDA.

Megatron-Core 0.13.1 and NeMo 2.4.1 ask for ``device="cuda"``, for CUDA streams and for CUDA random states even where
the arithmetic would run anywhere. :func:`install` answers those requests with the CPU. It does nothing where CUDA is
available, and refuses to patch versions it was not written for.
"""

import contextlib
import importlib.metadata
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# The versions whose sources were read for the patches below.
WRITTEN_FOR = {"torch": "2.13.0", "megatron-core": "0.13.1", "nemo-toolkit": "2.4.1"}

CPU = torch.device("cpu")

_installed: "list[_CudaRequestsOnCpu]" = []


def install() -> None:
    """Send every CUDA request of this process to the CPU; nothing where CUDA is available, or the second time.

    Raises:
        RuntimeError: an installed library is not the version that the patches were written for, or lacks a name.
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
    for package, expected in WRITTEN_FOR.items():
        found = importlib.metadata.version(package).split("+")[0]
        if found != expected:
            raise RuntimeError(
                f"recipes/compat/cpu.py patches {package} {expected} but {found} is installed: "
                f"install the pinned version, or review the patches and update WRITTEN_FOR"
            )


class _CudaRequestsOnCpu(TorchFunctionMode):
    """Rewrite the device of every torch call that names CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to:
            args = (
                args[0],
                *(_place(a) if isinstance(a, str | torch.device) else a for a in args[1:]),
            )
        elif func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Float16Module and the optimizers tell parameters apart by 'torch.cuda.FloatTensor'
            return func(*args).replace("torch.", "torch.cuda.")
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": _place(kwargs["device"])}
        if kwargs.get("pin_memory"):
            # page-locked memory exists only where there is an accelerator to copy it to
            kwargs = {**kwargs, "pin_memory": False}
        return func(*args, **kwargs)


def _place(device: Any) -> Any:
    """Return the CPU for a CUDA device (an integer index is one), any other device as it is."""
    return CPU if isinstance(device, int) or torch.device(device).type == "cuda" else device


class _NoStream:
    """A CUDA stream or event on a machine where everything is already in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait = _nothing

    def record_event(self, *args: Any) -> "_NoStream":
        return self

    def query(self) -> bool:
        return True


def _replace(owner: Any, name: str, new: Any) -> None:
    if not hasattr(owner, name):
        raise RuntimeError(
            f"recipes/compat/cpu.py patches {owner.__name__}.{name}, which is not there any more"
        )
    setattr(owner, name, new)


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
    # megatron/core/tensor_parallel/random.py indexes torch.cuda.default_generators, which is empty without CUDA
    from megatron.core.tensor_parallel import random

    _replace(random, "_get_cuda_rng_state", lambda *args, **kwargs: torch.get_rng_state())
    _replace(
        random, "_set_cuda_rng_state", lambda state, *args, **kwargs: torch.set_rng_state(state)
    )


def _patch_nemo() -> None:
    # nemo/lightning/io/pl.py asserts that CUDA is initialised before it moves loaded tensors between GPUs
    from nemo.lightning.io import pl

    _replace(pl, "_fix_tensors_device", lambda checkpoint: checkpoint)
