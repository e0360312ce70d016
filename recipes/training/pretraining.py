"""A pre-training recipe of the plain layer as a ``nemo_run`` recipe for NeMo's ``llm.pretrain``."""

from collections.abc import Sequence
from pathlib import Path

import nemo_run as run
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed

from recipes.model.nemo import FULL_RECOMPUTE, GraniteConfig, GraniteModel
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.stage_folder import CHECKPOINTS_KEPT
from recipes.training.callbacks import StageCheckpoint, StageProgress
from recipes.training.data import GraniteDataModule
from recipes.training.schedule import StageScheduler, is_hidden_matrix


def pretraining_recipe(
    stage: str,
    size: str,
    overrides: Sequence[str] = (),
    *,
    folder: str,
    data: Sequence[str | float],
    tokenizer: str,
    index_cache: str | None = None,
    num_nodes: int = 1,
    devices: int = 1,
) -> run.Partial:
    """Return ``llm.pretrain`` with everything that the stage decides filled in.

    Args:
        stage: a pre-training or long-context stage.
        size: model size.
        overrides: ``key=value`` as ``granite41 show`` names them.
        folder: where checkpoints, TensorBoard logs and metrics go.
        data: weight, ``.bin/.idx`` prefix, weight, prefix ... as Megatron takes a blend.
        tokenizer: folder of a Hugging Face tokenizer.
        index_cache: folder for Megatron's sample indices; that of the data when None.
        num_nodes: nodes of the job.
        devices: GPUs (or CPU processes) per node.
    """
    recipe = resolve_pretraining(stage, size, overrides)
    cuda = torch.cuda.is_available()
    is_bf16 = recipe.precision.value == "bf16-mixed"
    parallel = recipe.parallelism
    optimizer = recipe.optimizer
    sequence_length = recipe.sequence_length.value
    global_batch_size = recipe.global_batch_size.value
    # whether positions and attention start anew at each document
    resets_at_documents = recipe.document_masking.value != "none"

    model = run.Config(
        GraniteModel,
        config=run.Config(
            GraniteConfig,
            **GraniteConfig.transformer_settings(recipe.model),
            seq_length=sequence_length,
            rotary_base=recipe.rope_theta.value,
            **(FULL_RECOMPUTE if parallel.recompute.value == "full" else {}),
        ),
    )
    datamodule = run.Config(
        GraniteDataModule,
        paths=list(data),
        seq_length=sequence_length,
        global_batch_size=global_batch_size,
        micro_batch_size=parallel.micro_batch_size.value,
        tokenizer=run.Config(AutoTokenizer, pretrained_model_name=tokenizer),
        split=recipe.split.value,
        seed=recipe.seed.value,
        reset_position_ids=resets_at_documents,
        reset_attention_mask=resets_at_documents,
        index_mapping_dir=index_cache,
        num_workers=8 if cuda else 0,
    )
    strategy = run.Config(
        nl.MegatronStrategy,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size.value,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size.value,
        context_parallel_size=parallel.context_parallel_size.value,
        sequence_parallel=parallel.sequence_parallel.value,
        pipeline_dtype=torch.bfloat16 if cuda else torch.float32,
        gradient_as_bucket_view=True,
        # a stage ends with a save, and nothing would wait for an asynchronous one
        ckpt_async_save=False,
        replace_progress_bar=False,
        process_group_backend="nccl" if cuda else "gloo",
        ddp=run.Config(
            DistributedDataParallelConfig,
            check_for_nan_in_grad=True,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=cuda,
            overlap_param_gather=cuda,
            average_in_collective=cuda,
            use_distributed_optimizer=cuda,
        ),
    )
    trainer = run.Config(
        nl.Trainer,
        accelerator="gpu" if cuda else "cpu",
        num_nodes=num_nodes,
        devices=devices,
        max_steps=recipe.steps.value,
        val_check_interval=recipe.validate_every_steps,
        limit_val_batches=recipe.validation_batches.value,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        strategy=strategy,
        plugins=bf16_mixed() if is_bf16 else None,
        callbacks=[
            run.Config(
                StageProgress,
                stage=stage,
                tokens_per_step=sequence_length * global_batch_size,
                metrics=str(Path(folder) / "metrics" / "steps.jsonl"),
            )
        ],
    )
    optim = run.Config(
        nl.MegatronOptimizerModule,
        config=run.Config(
            OptimizerConfig,
            optimizer="adam",
            lr=recipe.schedule.lr(0),
            adam_beta1=optimizer.betas.value[0],
            adam_beta2=optimizer.betas.value[1],
            adam_eps=optimizer.eps.value,
            weight_decay=optimizer.weight_decay.value,
            clip_grad=optimizer.gradient_clip.value,
            bf16=is_bf16,
            params_dtype=torch.bfloat16 if is_bf16 else torch.float32,
            # Megatron's distributed optimizer does not load its own checkpoint without Apex or
            # TransformerEngine
            use_distributed_optimizer=cuda,
        ),
        lr_scheduler=run.Config(StageScheduler, stage=stage, size=size, overrides=list(overrides)),
        scale_lr_cond=is_hidden_matrix,
        lr_mult=1 / recipe.hidden_lr_divisor.value,
    )
    log = run.Config(
        nl.NeMoLogger,
        explicit_log_dir=str(Path(folder) / "logs"),
        update_logger_directory=False,
        tensorboard=run.Config(
            TensorBoardLogger, save_dir=folder, name="metrics", version="tensorboard"
        ),
        ckpt=run.Config(
            StageCheckpoint,
            stage=stage,
            dirpath=str(Path(folder) / "checkpoints"),
            filename="{step:08d}",
            every_n_train_steps=recipe.checkpoint_every_steps,
            # the newest three by step; -1 or no monitor would keep the last one only
            monitor="step",
            mode="max",
            save_top_k=CHECKPOINTS_KEPT,
            verbose=False,
            save_last=False,
            save_optim_on_train_end=True,
        ),
    )
    return run.Partial(
        llm.pretrain,
        model=model,
        data=datamodule,
        trainer=trainer,
        log=log,
        optim=optim,
        resume=run.Config(nl.AutoResume),
    )
