"""Granite as a NeMo 2 model: its config, its Lightning module, its importer of Hugging Face."""

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.environments import LightningEnvironment
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel as MegatronCoreGPTModel
from megatron.core.utils import init_method_normal
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.lightning import MegatronStrategy, io, teardown
from nemo.lightning.pytorch.trainer import Trainer

from recipes.common.errors import UserError
from recipes.common.files import check_space
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.model.bridge.mapping import CONFIG_FIELDS, Weight, weights
from recipes.model.bridge.source_files import keep_source_files, nemo_tokenizer_files
from recipes.model.bridge.tensor_bytes import TORCH_TYPES, read_tensor
from recipes.model.granite import build_granite
from recipes.model.transformers_model import load_tokenizer
from recipes.model_folder.config import ModelConfig
from recipes.model_folder.files import copy_files
from recipes.model_folder.safetensors_file import StoredTensor
from recipes.model_folder.weights import GraniteFolder, open_granite

if TYPE_CHECKING:
    from recipes.spec.sizes import Size

# every layer keeps its input alone and runs forward again in the backward pass
FULL_RECOMPUTE = {
    "recompute_granularity": "full",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
}


def granite_forward_step(model: "GraniteModel", batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run one micro-batch: token ids and labels to per-token losses, all [batch, sequence].

    NeMo's own step insists on a boolean mask of the whole score matrix where TransformerEngine is
    absent; causal attention needs none.
    """
    return model(
        batch["tokens"], batch["position_ids"], batch.get("attention_mask"), labels=batch["labels"]
    )


@dataclass
class GraniteConfig(llm.GPTConfig):
    """A Granite 4.1 model: dimensions, the four multipliers and the rotary base."""

    activation_func: Callable = F.silu
    gated_linear_unit: bool = True
    normalization: str = "RMSNorm"
    layernorm_epsilon: float = 1e-5
    add_bias_linear: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    position_embedding_type: str = "rope"
    share_embeddings_and_output_weights: bool = True
    make_vocab_size_divisible_by: int = 1
    forward_step_fn: Callable = granite_forward_step

    embedding_multiplier: float = 12.0
    attention_multiplier: float = 0.0078125
    residual_multiplier: float = 0.22
    logits_scaling: float = 16.0
    # muP: standard deviation of the initial weights at the base width; hidden matrices get it over
    # sqrt(width / base)
    initializer_std: float = 0.1
    mup_base_width: int = 256

    def __post_init__(self) -> None:
        self.softmax_scale = self.attention_multiplier
        width_multiplier = self.hidden_size / self.mup_base_width
        self.init_method_std = self.initializer_std / math.sqrt(width_multiplier)
        # muP has no extra depth scaling of the output projections: the residual multiplier does
        # that
        self.output_layer_init_method = init_method_normal(self.init_method_std)
        if not torch.cuda.is_available():
            # fused kernels that exist for CUDA only
            self.bias_activation_fusion = False
            self.bias_dropout_fusion = False
            self.masked_softmax_fusion = False
            self.apply_rope_fusion = False
            self.gradient_accumulation_fusion = False
            self.cross_entropy_loss_fusion = False
            self.persist_layer_norm = False
            self.use_cpu_initialization = True
        super().__post_init__()

    @staticmethod
    def transformer_settings(size: "Size") -> dict[str, Any]:
        """Return the constructor's arguments that a size of the plain layer decides."""
        return {
            "hidden_size": size.hidden_size.value,
            "num_layers": size.num_layers.value,
            "num_attention_heads": size.num_attention_heads.value,
            "kv_channels": size.head_dim.value,
            "num_query_groups": size.num_query_groups.value,
            "ffn_hidden_size": size.ffn_hidden_size.value,
            "vocab_size": size.vocab_size.value,
            "layernorm_epsilon": size.rms_norm_eps.value,
            "embedding_multiplier": size.embedding_multiplier.value,
            "attention_multiplier": size.attention_multiplier.value,
            "residual_multiplier": size.residual_multiplier.value,
            "logits_scaling": size.logits_scaling.value,
            "initializer_std": size.initializer_std.value,
            "mup_base_width": size.mup_base_width.value,
        }

    def configure_model(
        self,
        tokenizer: object = None,
        pre_process: bool | None = None,
        post_process: bool | None = None,
        vp_stage: int | None = None,
    ) -> MegatronCoreGPTModel:
        """Build this pipeline stage's part of the model (NeMo calls it once per stage)."""
        vp_stage = vp_stage or 0
        if pre_process is None:
            pre_process = parallel_state.is_pipeline_first_stage(
                ignore_virtual=False, vp_stage=vp_stage
            )
        if post_process is None:
            post_process = parallel_state.is_pipeline_last_stage(
                ignore_virtual=False, vp_stage=vp_stage
            )
        model = build_granite(
            self,
            vocab_size=self.vocab_size,
            max_sequence_length=self.seq_length,
            rotary_base=self.rotary_base,
            embedding_multiplier=self.embedding_multiplier,
            residual_multiplier=self.residual_multiplier,
            logits_scaling=self.logits_scaling,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=self.parallel_output,
            scatter_embedding_sequence_parallel=self.scatter_embedding_sequence_parallel,
            vp_stage=vp_stage,
        )
        if self.perform_initialization and (pre_process or post_process):
            # Megatron initialises the embedding like a hidden matrix; muP keeps it at the base
            # width's deviation. The last pipeline stage holds a copy of the tied embedding and
            # scales it alike.
            model.shared_embedding_or_output_weight().data.mul_(
                self.initializer_std / self.init_method_std
            )
        return model


class GraniteModel(llm.GPTModel):
    """Granite as a Lightning module; NeMo trains, saves and loads it like its other models."""


@io.model_importer(GraniteModel, "hf")
class HFGraniteImporter(io.ModelConnector):
    """NeMo's connector for ``llm.import_ckpt(model, "hf://FOLDER")``."""

    def apply(
        self,
        output_path: Path,
        dtype: str | None = None,
        opened: GraniteFolder | None = None,
    ) -> Path:
        """Check the folder, unless it is opened, build the model on the CPU, fill it and save it.

        Each tensor keeps its type, unless ``dtype`` names another.
        """
        source = Path(self)
        opened = opened or open_granite(source)
        config = opened.config
        megatron_weights = weights(config)
        dtypes = _stored_types(opened, megatron_weights)
        if dtype:
            dtypes = dict.fromkeys(dtypes, getattr(torch, dtype))

        # NeMo writes in processes of its own, whose "no space left" would come back as another
        # error
        size = sum(weight.elements * dtypes[weight.key].itemsize for weight in megatron_weights)
        check_space(output_path, size)

        with tempfile.TemporaryDirectory() as scratch:
            # NeMo copies the whole folder that a tokenizer is loaded from into the checkpoint,
            # under the folder's name
            tokenizer = Path(scratch) / "nemo_tokenizer"
            copy_files(source, nemo_tokenizer_files(source), tokenizer)
            load_tokenizer(TokenizerFolder(tokenizer), config.vocab_size, given=source)
            model = _build_model(config, dtypes[megatron_weights[0].key], tokenizer)
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
            _fill(model, megatron_weights, opened.tensors, dtypes)
            self.nemo_save(output_path, trainer)
            teardown(trainer, model)
        keep_source_files(source, output_path, dtype)
        return output_path


def _build_model(config: ModelConfig, dtype: torch.dtype, tokenizer: Path) -> GraniteModel:
    settings = {field: getattr(config, name) for name, field in CONFIG_FIELDS.items()}
    granite_config = GraniteConfig(
        **settings,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        params_dtype=dtype,
    )
    return GraniteModel(granite_config, tokenizer=AutoTokenizer(str(tokenizer)))


def _stored_types(opened: GraniteFolder, megatron_weights: list[Weight]) -> dict[str, torch.dtype]:
    """Return the type of each of Megatron's keys, which the parts of one must share."""
    tensors = opened.tensors
    first_parts: dict[str, StoredTensor] = {}
    for weight in megatron_weights:
        for name in weight.parts:
            tensor = tensors[name]
            first = first_parts.setdefault(weight.key, tensor)
            if tensor.dtype != first.dtype:
                raise UserError(
                    f"{opened.folder}: {tensor.name} is {tensor.dtype} but {first.name} "
                    f"{first.dtype}, and a NeMo checkpoint keeps both in one tensor; convert one "
                    f"to the other's type"
                )
    return {key: TORCH_TYPES[tensor.dtype] for key, tensor in first_parts.items()}


@torch.no_grad()
def _fill(
    model: GraniteModel,
    megatron_weights: list[Weight],
    tensors: dict[str, StoredTensor],
    dtypes: dict[str, torch.dtype],
) -> None:
    """Put the tensors into the parameters, found by the keys that a checkpoint has for them."""
    names: dict[tuple[str, int | None], str] = {}
    for name, sharded in model.module.sharded_state_dict().items():
        # the layers of one kind share a key
        match = re.search(r"layers\.(\d+)\.", name)
        layer = None
        if match:
            layer = int(match[1])
        names[sharded.key, layer] = name

    for weight in megatron_weights:
        parts = [read_tensor(tensors[name]) for name in weight.parts]
        parameter = model.module.get_parameter(names[weight.key, weight.layer])
        # a checkpoint keeps the type that a parameter has
        parameter.data = weight.merge(parts).to(dtypes[weight.key])
