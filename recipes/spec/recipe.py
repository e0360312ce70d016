"""Types and values that the recipes of every stage share."""

from dataclasses import dataclass
from typing import Literal

from recipes.spec.origin import Sourced, assumed
from recipes.spec.sizes import Size

Kind = Literal["pretrain", "long_context", "sft", "rl"]
Status = Literal["ready", "planned"]
OptimizerState = Literal["fresh", "carry"]
Precision = Literal["bf16-mixed", "32"]
GpuType = Literal["h100", "h200", "b200", "gb200", "cpu"]
Recompute = Literal["none", "full"]
DocumentMasking = Literal["none"]
MergeMethod = Literal["linear", "slerp"]


@dataclass(frozen=True)
class Optimizer:
    """Adam with decoupled weight decay.

    Attributes:
        gradient_clip: bound of the gradient's global norm.
    """

    betas: Sourced[tuple[float, float]]
    eps: Sourced[float]
    weight_decay: Sourced[float]
    gradient_clip: Sourced[float]


@dataclass(frozen=True)
class Parallelism:
    """How the model is split over GPUs.

    Attributes:
        gpu_type: the GPU that it is made for.
        gpus: of the whole job; over ``gpus_per_replica`` they are the data-parallel replicas.
        micro_batch_size: in sequences.
        recompute: the activations that are computed again in the backward pass: none, or every
            layer's.
    """

    gpu_type: Sourced[GpuType]
    gpus: Sourced[int]
    tensor_model_parallel_size: Sourced[int]
    pipeline_model_parallel_size: Sourced[int]
    context_parallel_size: Sourced[int]
    sequence_parallel: Sourced[bool]
    micro_batch_size: Sourced[int]
    recompute: Sourced[Recompute]

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that hold one replica of the model."""
        return (
            self.tensor_model_parallel_size.value
            * self.pipeline_model_parallel_size.value
            * self.context_parallel_size.value
        )

    @property
    def data_parallel_size(self) -> int:
        """Replicas of the model that share a batch; zero where the GPUs do not hold one."""
        return self.gpus.value // self.gpus_per_replica


@dataclass(frozen=True, kw_only=True)
class CommonRecipe:
    """The part of a resolved recipe that every stage has.

    Attributes:
        parent: the stage whose final checkpoint this one starts from; None starts from random
            weights.
        hidden_lr_divisor: the hidden matrices' learning rate is the schedule's divided by this; all
            others' is the schedule's.
        optimizer_state: carry the parent's optimizer moments on, or start with fresh ones.
        sequence_length: in tokens.
    """

    stage: str
    size: str
    title: str
    kind: Kind
    status: Status
    parent: str | None
    sequence_length: Sourced[int]
    model: Size
    rope_theta: Sourced[float]
    hidden_lr_divisor: Sourced[float]
    optimizer: Optimizer
    optimizer_state: Sourced[OptimizerState]
    parallelism: Parallelism
    precision: Sourced[Precision]
    seed: Sourced[int]


_COMMON_PRACTICE = "common for language models of this size; not published"

OPTIMIZER = Optimizer(
    betas=assumed((0.9, 0.95), _COMMON_PRACTICE),
    eps=assumed(1e-8, _COMMON_PRACTICE),
    weight_decay=assumed(0.1, _COMMON_PRACTICE),
    gradient_clip=assumed(1.0, _COMMON_PRACTICE),
)

PRECISION: Sourced[Precision] = assumed(
    "bf16-mixed", "bf16 compute with fp32 master weights; not published"
)
SEED = assumed(1234, "any fixed seed makes runs comparable; Megatron's default")
# the published learning rates of SFT and RL are taken as the optimizer's own for every matrix
ALIGNMENT_LR_DIVISOR = assumed(
    1.0, "the published learning rate is read as every matrix's own, without muP's division"
)
