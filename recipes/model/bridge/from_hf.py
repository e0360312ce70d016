"""Hugging Face folder -> NeMo 2 checkpoint. Importing this module lets NeMo import ``hf://`` into a
GraniteModel.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.lightning import MegatronStrategy, io, teardown
from nemo.lightning.pytorch.trainer import Trainer
from safetensors import safe_open

from recipes.common.files import atomic_directory, check_space
from recipes.model.bridge import hf_folder
from recipes.model.bridge.mapping import CONFIG_FIELDS, Weight, weights
from recipes.model.nemo import GraniteConfig, GraniteModel


def import_hf(source: Path, output: Path, *, dtype: str | None = None) -> None:
    """Write the NeMo 2 checkpoint ``output`` from the Hugging Face folder ``source``.

    The whole model is in memory while it is written.

    Args:
        source: a GraniteForCausalLM with safetensors and its tokenizer.
        output: new folder with ``weights/`` and ``context/``, for AutoResume's ``restore_config``
            and for export.
        dtype: torch's name of the stored type; by default the folder's.

    Raises:
        UserError: ``source`` is not such a folder, ``output`` exists, or there is no space left.
    """
    with atomic_directory(output) as temporary:
        HFGraniteImporter(str(source)).apply(temporary, dtype=dtype)


@io.model_importer(GraniteModel, "hf")
class HFGraniteImporter(io.ModelConnector):
    """NeMo's connector for ``llm.import_ckpt(model, "hf://FOLDER")``, behind :func:`import_hf`."""

    def apply(self, output_path: Path, dtype: str | None = None) -> Path:
        """Check the folder, build the model on the CPU, fill it and save it."""
        source = Path(self)
        config = hf_folder.read_config(source)
        megatron_weights = weights(config)
        files = hf_folder.open_tensors(source, megatron_weights)
        params_dtype = getattr(torch, dtype) if dtype else _dtype(files, megatron_weights[0])
        # NeMo writes in processes of its own, whose "no space left" would come back as another
        # error
        elements = sum(weight.elements for weight in megatron_weights)
        check_space(output_path, params_dtype.itemsize * elements)

        with tempfile.TemporaryDirectory() as scratch:
            # NeMo copies the whole folder that a tokenizer is loaded from into the checkpoint,
            # under the folder's name
            tokenizer = Path(scratch) / "nemo_tokenizer"
            hf_folder.copy_tokenizer(source, tokenizer)
            hf_folder.read_tokenizer(tokenizer, config["vocab_size"])
            model = _build_model(config, params_dtype, tokenizer)
            trainer = Trainer(
                devices=1,
                accelerator="cpu",
                strategy=MegatronStrategy(
                    ckpt_save_optimizer=False,
                    always_save_context=True,
                    ckpt_async_save=False,
                ),
                # one process, also where Slurm's variables are those of a job
                plugins=LightningEnvironment(),
            )
            self.nemo_setup(model, trainer)
            _fill(model, megatron_weights, files)
            self.nemo_save(output_path, trainer)
            teardown(trainer, model)
        return output_path


def _build_model(config: dict[str, Any], dtype: torch.dtype, tokenizer: Path) -> GraniteModel:
    settings = {field: config[name] for name, field in CONFIG_FIELDS.items()}
    granite_config = GraniteConfig(
        **settings,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        params_dtype=dtype,
    )
    return GraniteModel(granite_config, tokenizer=AutoTokenizer(str(tokenizer)))


def _dtype(files: dict[str, safe_open], weight: Weight) -> torch.dtype:
    name = next(iter(weight.parts))
    return files[name].get_slice(name)[:1].dtype


@torch.no_grad()
def _fill(model: GraniteModel, megatron_weights: list[Weight], files: dict[str, safe_open]) -> None:
    """Copy the tensors into the parameters, found by the keys that a checkpoint has for them."""
    parameters: dict[tuple[str, int | None], Any] = {}
    for name, sharded in model.module.sharded_state_dict().items():
        layer = re.search(r"layers\.(\d+)\.", name)
        parameters[sharded.key, int(layer[1]) if layer else None] = sharded.data
    for weight in megatron_weights:
        parts = [files[name].get_tensor(name) for name in weight.parts]
        parameters[weight.key, weight.layer].copy_(weight.merge(parts))
