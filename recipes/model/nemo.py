"""Granite as a NeMo 2 model: the config that NeMo serializes and the Lightning module that it
trains.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel as MegatronCoreGPTModel
from megatron.core.utils import init_method_normal
from nemo.collections import llm

from recipes.model.granite import build_granite

if TYPE_CHECKING:
    from recipes.spec.sizes import Size


def granite_forward_step(model: "GraniteModel", batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run one micro-batch: token ids and labels [batch, sequence] to per-token losses [batch,
    sequence].

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


from recipes.model.bridge import from_hf  # noqa: E402, F401  registers NeMo's importer of hf:// folders
