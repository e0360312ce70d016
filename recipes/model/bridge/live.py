"""A model that is being trained -> Hugging Face folder: what a checkpoint's export reads from
files comes from the ranks' memory.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from recipes.common.files import atomic_directory
from recipes.model.bridge.mapping import Weight, weights
from recipes.model.bridge.to_hf import MAX_SHARD_BYTES, plan_shards, write_shards
from recipes.model_folder.config import CONFIG, read_config
from recipes.model_folder.files import copy_files

# the checkpoint's names are TransformerEngine's; the same tensors in layers without it
_LOCAL_NAMES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


class LiveModel:
    """The tensors of a model, whole, on the CPU of the first rank of its pipeline and tensor
    parallel group; all ranks of one replica make the same calls.
    """

    def __init__(self, model: GPTModel) -> None:
        self._parameters = dict(model.named_parameters())
        self._num_stages = parallel_state.get_pipeline_model_parallel_world_size()
        self._stage = parallel_state.get_pipeline_model_parallel_rank()
        self._layers_of_stage = model.config.num_layers // self._num_stages
        first = next(iter(self._parameters.values()))
        self._dtype = first.dtype
        self._device = first.device

    def __str__(self) -> str:
        return "the model in memory"

    def dtype(self, weight: Weight) -> torch.dtype:
        """Return the type of a tensor, which is that of all."""
        return self._dtype

    @torch.no_grad()
    def read(self, weight: Weight) -> Tensor:
        """Return a tensor of Megatron's shape, put together from all ranks."""
        owner = 0
        name = weight.key
        if weight.layer is not None:
            owner, number = divmod(weight.layer, self._layers_of_stage)
            name = name.replace("layers.", f"layers.{number}.")
        elif "final_layernorm" in name:
            owner = self._num_stages - 1

        if self._stage == owner:
            whole = self._gather(weight, self._parameter(name))
        else:
            whole = torch.empty(weight.shape, dtype=self._dtype, device=self._device)
        if self._num_stages > 1:
            group = parallel_state.get_pipeline_model_parallel_group()
            dist.broadcast(whole, dist.get_global_rank(group, owner), group)
        return whole.cpu()

    def _parameter(self, name: str) -> Tensor:
        if name not in self._parameters:
            for theirs, ours in _LOCAL_NAMES.items():
                name = name.replace(theirs, ours)
        return self._parameters[name]

    def _gather(self, weight: Weight, part: Tensor) -> Tensor:
        """Put the tensor-parallel ranks' parts together."""
        if part.shape == weight.shape:
            return part.contiguous()
        group = parallel_state.get_tensor_model_parallel_group()
        parts = [torch.empty_like(part) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group)
        if part.shape[0] == weight.shape[0]:
            return torch.cat(parts, dim=1)

        # a rank has its share of the gate's rows, and then of the up projection's
        if weight.groups == 1:
            rows = [shape[0] // len(parts) for shape in weight.parts.values()]
            by_rank = [part.split(rows) for part in parts]
            parts = [torch.cat(pieces) for pieces in zip(*by_rank, strict=True)]
        return torch.cat(parts)


def export_live(model: GPTModel, source: Path, output: Path) -> None:
    """Write the weights that ``model`` has now, and the config of ``source``.

    All ranks of one replica call it; its first one writes.

    Args:
        model: without Megatron's and NeMo's wrappers, on each rank its part.
        source: a Hugging Face folder of the same model with other weights.
        output: new folder, complete or absent.

    Raises:
        UserError: ``source`` has no such config, or there is no space left.
    """
    megatron_weights = weights(read_config(source))
    live = LiveModel(model)
    shards = plan_shards(megatron_weights, live, MAX_SHARD_BYTES)
    group = parallel_state.get_model_parallel_group()
    if dist.get_group_rank(group, dist.get_rank()):
        for weight in megatron_weights:
            live.read(weight)
        return
    with atomic_directory(output) as temporary:
        copy_files(source, [CONFIG], temporary)
        write_shards(shards, live, temporary)
