"""NeMo checkpoints in a process that has NeMo loaded: imported, run, trained, saved by ranks."""

import os
from pathlib import Path

import numpy as np
import torch


def import_in_fork(source: Path, output: Path, dtype: str | None = None) -> None:
    """Import a Hugging Face folder."""
    from recipes.model.bridge.from_hf import import_hf

    import_hf(source, output, dtype=dtype)


def logits_of_checkpoint(checkpoint: Path, ids: np.ndarray) -> np.ndarray:
    """Return the logits of ``ids``, [batch, sequence], as [batch, sequence, vocabulary]."""
    from nemo.lightning.io import ModelConnector

    model, _ = ModelConnector(str(checkpoint)).nemo_load(checkpoint)
    tokens = torch.from_numpy(ids)
    with torch.no_grad():
        logits = model.eval()(tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None)
    return logits.float().numpy()


def save_in_parallel(
    checkpoint: Path, output: Path, tp: int, pp: int, live: Path | None = None
) -> None:
    """Load a checkpoint into ``tp * pp`` ranks, this one among them, and save it from there.

    Args:
        checkpoint: an imported one.
        output: new checkpoint.
        tp, pp: parallel sizes.
        live: new Hugging Face folder, written from the ranks' memory.
    """
    from nemo.lightning import MegatronStrategy, Trainer
    from nemo.lightning.io import ModelConnector

    from recipes.model.bridge.live import export_live

    # the ranks run already: Lightning must not start them
    os.environ["TORCHELASTIC_RUN_ID"] = "parallel"
    strategy = MegatronStrategy(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        pipeline_dtype=torch.float32,
        ddp="pytorch",
        setup_optimizers=False,
        ckpt_save_optimizer=False,
        ckpt_async_save=False,
    )
    trainer = Trainer(devices=tp * pp, accelerator="cpu", strategy=strategy)
    connector = ModelConnector(str(checkpoint))
    model, trainer = connector.nemo_load(checkpoint, trainer=trainer)
    connector.nemo_save(output, trainer)
    if live:
        export_live(megatron_model(model), checkpoint / "context" / "hf_source", live)


def megatron_model(model: torch.nn.Module) -> torch.nn.Module:
    """Return the Megatron-Core model within NeMo's and Lightning's wrappers."""
    from megatron.core.models.gpt.gpt_model import GPTModel

    return next(module for module in model.modules() if type(module) is GPTModel)


def train_one_step(checkpoint: Path, runs: Path) -> str:
    """Train a step with learning rate 0 from ``checkpoint``; return the saved checkpoint."""
    from megatron.core.optimizer import OptimizerConfig
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import (
        AutoTokenizer as NemoTokenizer,
    )

    from recipes.model.nemo import GraniteModel

    config = nl.io.load_context(checkpoint, subpath="model.config")
    words = NemoTokenizer(str(checkpoint / "context" / "nemo_tokenizer"))
    llm.pretrain(
        model=GraniteModel(config, tokenizer=words),
        data=llm.MockDataModule(
            seq_length=32, micro_batch_size=1, global_batch_size=2, tokenizer=words, num_workers=0
        ),
        trainer=nl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1,
            limit_val_batches=0,
            strategy=nl.MegatronStrategy(ckpt_async_save=False, process_group_backend="gloo"),
        ),
        log=nl.NeMoLogger(
            log_dir=str(runs),
            use_datetime_version=False,
            ckpt=nl.ModelCheckpoint(
                every_n_train_steps=1,
                save_top_k=1,
                monitor="reduced_train_loss",
                save_optim_on_train_end=True,
            ),
        ),
        optim=nl.MegatronOptimizerModule(
            OptimizerConfig(
                optimizer="adam", lr=0.0, min_lr=0.0, use_distributed_optimizer=False, bf16=False
            )
        ),
        resume=nl.AutoResume(restore_config=nl.RestoreConfig(path=str(checkpoint))),
    )
    return str(next(path.parent for path in sorted(runs.rglob("weights"))))
