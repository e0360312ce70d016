"""Granite as NeMo-Aligner's models, built from a recipe.

    with process_groups(recipe.parallelism):
        model = build_model(GraniteSFTModel, recipe, recipe.global_batch_size.value)
        load_weights(model, checkpoint)

A further model of Aligner's is made a Granite by ``class X(AlignedGranite, AlignersModel)``.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from nemo_aligner.models.nlp.gpt.gpt_sft_model import GPTSFTModel
from nemo_aligner.utils.train_utils import set_sync_funcs
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from recipes.alignment.packed_batch import PackedBatch
from recipes.alignment.processes import local_world_size, world_size
from recipes.model.nemo import GraniteConfig
from recipes.model.nemo1 import MegatronGraniteModel
from recipes.spec.recipe import CommonRecipe

AnyModel = TypeVar("AnyModel", bound="AlignedGranite")


class AlignedGranite(MegatronGraniteModel):
    """What all of Aligner's Granite models share.

    The gradient of a step is that of a sum over tokens, divided by the number of tokens that count
    in the global batch: over all micro-batches and all ranks, whatever the split.

    Attributes:
        model: this pipeline stage's part as NeMo 1 keeps it, in a list of one.
    """

    model: list[torch.nn.Module]

    @property
    def core(self) -> GPTModel:
        """This pipeline stage's part of the Megatron-Core model, without its wrappers."""
        return self.get_model_module_list()[0]

    def setup_mcore_distributed_parallel(self) -> None:
        """Wrap the model in Megatron's data parallelism, as NeMo 2 does in pre-training."""
        cuda = torch.cuda.is_available()
        config = DistributedDataParallelConfig(
            check_for_nan_in_grad=True,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=cuda,
            # Megatron's distributed optimizer does not load its own checkpoint without Apex or
            # TransformerEngine
            use_distributed_optimizer=cuda,
        )
        self.model = [
            DistributedDataParallel(self.transformer_config, config, chunk) for chunk in self.model
        ]

    def run_schedule(
        self, micro_batches: Sequence[PackedBatch], forward_only: bool
    ) -> list[dict[str, Tensor]]:
        """Run this rank's micro-batches forward, and backward unless ``forward_only``.

        Args:
            micro_batches: all of one shape, on the CPU.
            forward_only: whether no gradient is wanted.

        Returns:
            What :meth:`forward_step`'s loss returns for each of them, on the last pipeline stage;
            empty on the others.
        """
        set_sync_funcs(self, forward_only)
        run = get_forward_backward_func()
        return run(
            forward_step_func=self.forward_step,
            data_iterator=iter(micro_batches),
            model=self.model,
            num_microbatches=len(micro_batches),
            # a micro-batch is one row, whatever the number of its sequences
            seq_length=micro_batches[0].tokens.shape[1],
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def forward_step(self, micro_batches: Iterator[PackedBatch], model: torch.nn.Module) -> Any:
        """Run a micro-batch's forward pass; return its output and the function of its loss.

        The loss returns a sum over tokens, the number of tokens that count, and what
        :meth:`run_schedule` returns.
        """
        raise NotImplementedError


class GraniteSFTModel(AlignedGranite, GPTSFTModel):
    """Granite for supervised fine-tuning: trained to predict the tokens that the mask names."""

    def forward_step(self, micro_batches: Iterator[PackedBatch], model: torch.nn.Module) -> Any:
        """Return the losses of a micro-batch's tokens, [1, tokens], and their sum's function."""
        batch = next(micro_batches).on_this_context_parallel_rank()
        batch = batch.to(torch.cuda.current_device())
        losses = model(
            batch.tokens,
            batch.position_ids,
            None,
            labels=batch.labels,
            packed_seq_params=batch.packed_seq_params,
        )

        def loss(losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            total = (losses.float() * batch.loss_mask).sum()
            tokens = batch.loss_mask.sum().int()
            return total, tokens, {"loss": total.detach(), "tokens": tokens}

        return losses, loss

    def get_loss_and_metrics(
        self, batch: Sequence[PackedBatch], forward_only: bool
    ) -> tuple[float, dict[str, float]]:
        """Run this rank's micro-batches of a global batch.

        Aligner's takes the mean of the micro-batches' means, in which a token counts for more the
        fewer others are trained beside it.

        Returns:
            The mean over all trained tokens of the global batch, in nats per token, and the
            metrics ``trained_tokens``, their number, and ``loss_sum``; the same on all ranks.
        """
        reduced = self.run_schedule(batch, forward_only)
        sums = torch.zeros(2, dtype=torch.float64)
        for part in reduced:
            sums += torch.stack([part["loss"].double(), part["tokens"].double()]).cpu()
        loss_sum, tokens = sum_over_batch(sums).tolist()
        metrics = {"trained_tokens": tokens, "loss_sum": loss_sum}
        return loss_sum / max(tokens, 1), metrics


def sum_over_batch(sums: Tensor) -> Tensor:
    """Return sums of the last pipeline stages over all data-parallel ranks, on every rank."""
    sums = sums.to(torch.cuda.current_device())
    torch.distributed.all_reduce(
        sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
    )
    torch.distributed.broadcast(
        sums,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return sums.cpu()


def build_model(
    model_class: type[AnyModel], recipe: CommonRecipe, global_batch_size: int
) -> AnyModel:
    """Build a model with random weights; load its weights before :func:`make_trainable`.

    Args:
        model_class: an :class:`AlignedGranite`.
        recipe: of the stage.
        global_batch_size: in sequences.
    """
    cuda = torch.cuda.is_available()
    environment: ClusterEnvironment = LightningEnvironment()
    if "RANK" in os.environ:
        environment = TorchElasticEnvironment()
    # NeMo 1 asks it for ranks; nothing else of it is used
    trainer = Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=local_world_size(),
        num_nodes=world_size() // local_world_size(),
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=environment,
    )
    return model_class(model_settings(recipe, global_batch_size), trainer)


def model_settings(recipe: CommonRecipe, global_batch_size: int) -> DictConfig:
    """Return a recipe as the configuration of a NeMo 1 model."""
    is_bf16 = recipe.precision.value == "bf16-mixed"
    parallel = recipe.parallelism
    batch_sizes = {
        "micro_batch_size": parallel.micro_batch_size.value,
        "global_batch_size": global_batch_size,
    }
    settings: dict[str, Any] = {
        name: value
        for name, value in vars(granite_config(recipe, recipe.sequence_length.value)).items()
        if isinstance(value, float | int | str | bool)
    }
    # attention_multiplier decides it
    del settings["softmax_scale"]
    settings |= batch_sizes
    settings |= {
        "activation": "fast-swiglu",
        "bias": False,
        "mcore_gpt": True,
        "encoder_seq_length": recipe.sequence_length.value,
        "seed": recipe.seed.value,
        "precision": "bf16" if is_bf16 else "32",
        # Megatron's own bf16: parameters in bf16, the optimizer's copy of them in fp32
        "megatron_amp_O2": is_bf16,
        "calculate_per_token_loss": True,
        # has the gradients of a step summed by Megatron-Core
        "optim": {
            "name": "mcore_distributed_optim",
            "overlap_grad_sync": torch.cuda.is_available(),
        },
        "data": {"train_ds": batch_sizes, "validation_ds": batch_sizes},
    }
    if parallel.recompute.value == "full":
        settings |= {
            "activations_checkpoint_granularity": "full",
            "activations_checkpoint_method": "uniform",
            "activations_checkpoint_num_layers": 1,
        }
    return OmegaConf.create(settings)


def granite_config(recipe: CommonRecipe, positions: int) -> GraniteConfig:
    """Return the NeMo 2 configuration of a recipe's model, which checkpoints record.

    Args:
        recipe: of the stage.
        positions: that the model is made for, at least the stage's sequence length.
    """
    parallel = recipe.parallelism
    return GraniteConfig(
        **GraniteConfig.transformer_settings(recipe.model),
        seq_length=positions,
        rotary_base=recipe.rope_theta.value,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size.value,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size.value,
        context_parallel_size=parallel.context_parallel_size.value,
        sequence_parallel=parallel.sequence_parallel.value,
        # between pipeline stages
        pipeline_dtype=_dtype(recipe),
        params_dtype=_dtype(recipe),
        bf16=recipe.precision.value == "bf16-mixed",
    )


def _dtype(recipe: CommonRecipe) -> torch.dtype:
    return torch.bfloat16 if recipe.precision.value == "bf16-mixed" else torch.float32
