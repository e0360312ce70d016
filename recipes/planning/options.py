"""What a plan is made for: GPUs, share of their peak, prices, limits."""

from dataclasses import dataclass

from recipes.common.errors import UserError
from recipes.planning.hardware import Network, network
from recipes.spec.origin import Sourced, assumed, derived

# of every job of a chain, unless it is given; the cluster files' time limit
TIME_LIMIT_HOURS = assumed(4.0, "the time limit of the cluster files in slurm/clusters")
FAILURE_HOURS = derived(
    54 * 24 * 16384 / 419,
    "Llama 3 (arXiv 2407.21783, section 3.3.4): 419 unexpected interruptions of 16,384 GPUs in 54 "
    "days",
)


@dataclass(frozen=True)
class PlanOptions:
    """The user's choices.

    Attributes:
        gpu: name of the GPU; None for the recipes'.
        gpus: of every stage; None for the recipes' own numbers.
        mfu: share of the GPU's dense bf16 peak; None for the published one.
        price: of a GPU for an hour, in any currency; None for no cost.
        time_limit_hours: of a job.
        failure_hours: mean time between failures of one GPU.
    """

    gpu: str | None = None
    gpus: int | None = None
    mfu: float | None = None
    price: float | None = None
    time_limit_hours: float = TIME_LIMIT_HOURS.value
    failure_hours: Sourced[float] = FAILURE_HOURS
    network: Network | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            UserError: one is.
        """
        _require("--gpus", self.gpus, 1, 1_000_000)
        _require("--mfu", self.mfu, 0.01, 1)
        _require("--price", self.price, 0, 1000)
        _require("--time-limit", self.time_limit_hours, 0.5, 720)
        _require("--failure-hours", self.failure_hours.value, 100, 1e9)

    @property
    def between_nodes(self) -> Network:
        """The network between nodes."""
        return self.network or network("ndr")

    def overrides(self) -> list[str]:
        """Return the choices as overrides of a recipe."""
        words = []
        if self.gpu is not None:
            words.append(f"parallelism.gpu_type={self.gpu}")
        if self.gpus is not None:
            words.append(f"parallelism.gpus={self.gpus}")
        return words


def _require(option: str, value: float | None, low: float, high: float) -> None:
    # NaN is in no range
    if value is not None and not low <= value <= high:
        raise UserError(f"{option} is {value:g}, expected {low:g} to {high:g}")
