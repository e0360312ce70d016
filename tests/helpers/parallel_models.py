"""Granite in ranks of every kind, with the weights of a NeMo checkpoint and without a trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How a model is split; tensor parallelism comes with sequence parallelism."""

    tp: int = 1
    pp: int = 1
    cp: int = 1

    @property
    def world_size(self) -> int:
        """The ranks of a replica."""
        return self.tp * self.pp * self.cp


def load_split(checkpoint: Path, layout: Layout, **settings: Any) -> Any:
    """Return this rank's part of the model of a checkpoint, in fp32."""
    import torch
    import torch.distributed as dist
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from nemo.lightning import io

    import recipes.model.nemo  # noqa: F401

    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        context_parallel_size=layout.cp,
    )
    model_parallel_cuda_manual_seed(1)
    config = io.load_context(checkpoint, subpath="model.config")
    config.tensor_model_parallel_size = layout.tp
    config.pipeline_model_parallel_size = layout.pp
    config.context_parallel_size = layout.cp
    config.sequence_parallel = layout.tp > 1
    config.pipeline_dtype = torch.float32
    for name, value in settings.items():
        setattr(config, name, value)
    model = config.configure_model()
    # what else the checkpoint holds comes with them
    wanted = model.sharded_state_dict(prefix="module.")
    stored = dist_checkpointing.load(dict(wanted), str(checkpoint / "weights"))
    model.load_state_dict({name.removeprefix("module."): stored[name] for name in wanted})
    return model
