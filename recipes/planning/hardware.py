"""GPUs and networks, read from ``hardware.yaml``."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.registry.resolve import require_known
from recipes.spec.parallelism import GPU_MEMORY, USABLE_MEMORY

HARDWARE = Path(__file__).with_name("hardware.yaml")


@dataclass(frozen=True)
class Gpu:
    """A GPU and its share of the system around it; the units are those of ``hardware.yaml``."""

    name: str
    peak_tflops: float
    bandwidth_tb_s: float
    nvlink_gb_s: float
    node_gpus: int
    domain_gpus: int
    kilowatts: float
    mfu: float
    source: str
    mfu_source: str

    @property
    def flops(self) -> float:
        """FLOP/s of dense bf16 matrix multiplication."""
        return self.peak_tflops * 1e12

    @property
    def bandwidth(self) -> float:
        """Bytes/s of the memory."""
        return self.bandwidth_tb_s * 1e12

    @property
    def usable_bytes(self) -> float:
        """Memory that a training process can fill."""
        return USABLE_MEMORY.value * GPU_MEMORY[self.name].value * 1e9  # type: ignore[index]


@dataclass(frozen=True)
class Network:
    """The network between nodes; ``gb_s`` is one GPU's, in one direction."""

    name: str
    gb_s: float
    source: str


@functools.cache
def _read() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(HARDWARE.read_text(encoding="utf-8"))


def gpu(name: str) -> Gpu:
    """Return a GPU by its name.

    Raises:
        UserError: an unknown one.
    """
    known = _read()["gpus"]
    require_known("GPU", name, known)
    return Gpu(name=name, **known[name])


def network(name: str) -> Network:
    """Return a network by its name.

    Raises:
        UserError: an unknown one.
    """
    known = _read()["networks"]
    require_known("network", name, known)
    return Network(name=name, **known[name])
