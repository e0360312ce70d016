"""Granite on Megatron-Core: a GPT with four multipliers.

    embedding_multiplier   the token embeddings are multiplied by it
    attention_multiplier   replaces 1/sqrt(head_dim) as the scale of the attention scores
    (Megatron's ``softmax_scale``)
    residual_multiplier    what attention and MLP add to the residual stream is multiplied by it
    logits_scaling         the logits are divided by it

The same computation as ``GraniteForCausalLM`` in transformers.

Importing this module installs the CPU backend (:func:`recipes.compat.cpu.install`) where there is
no CUDA: NeMo and nemo-run load a model by importing its class, in processes that this project does
not start, and Megatron asks for CUDA before it builds anything.
"""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_block import (
    LayerNormImpl,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from recipes.compat import cpu
from recipes.model.attention import SdpaCoreAttention

cpu.install()

try:
    import transformer_engine  # noqa: F401

    HAVE_TRANSFORMER_ENGINE = True
except ImportError:
    HAVE_TRANSFORMER_ENGINE = False


class RMSNorm(torch.nn.RMSNorm):
    """Torch's RMSNorm with Megatron's constructor and its mark for sequence parallelism.

    Megatron's own wrapper around torch's norm refuses sequence parallelism. The mark on the weight
    is what makes Megatron sum its gradient over the tensor-parallel ranks, each of which sees a
    part of the sequence.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **kwargs: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


def block_spec(
    config: TransformerConfig,
    residual_multiplier: float,
    *,
    vp_stage: int | None = None,
    use_transformer_engine: bool = HAVE_TRANSFORMER_ENGINE,
) -> TransformerBlockSubmodules:
    """Return the layers of this pipeline stage: TransformerEngine's where it is installed, else
    local ones.
    """
    if use_transformer_engine:
        layer = get_gpt_layer_with_transformer_engine_spec()
        norm = LayerNormImpl
    else:
        layer = get_gpt_layer_local_spec(normalization="RMSNorm")
        norm = RMSNorm
        # Megatron's own norms without TransformerEngine refuse sequence parallelism
        layer.submodules.input_layernorm = norm
        layer.submodules.pre_mlp_layernorm = norm
        layer.submodules.self_attention.submodules.core_attention = SdpaCoreAttention

    # both branches, attention and MLP, are added with the residual multiplier
    scaled_add = scaled_bias_dropout_add(residual_multiplier)
    layer.submodules.self_attn_bda = scaled_add
    layer.submodules.mlp_bda = scaled_add
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)


def scaled_bias_dropout_add(residual_multiplier: float) -> Callable:
    """Return Megatron's ``get_bias_dropout_add`` with the branch multiplied before it is added to
    the residual.
    """

    def get_bias_dropout_add(training: bool, fused: bool) -> Callable:
        def bias_dropout_add(
            branch_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float
        ) -> Tensor:
            # in Megatron's order: bias, dropout, then the sum
            branch, bias = branch_with_bias
            if bias is not None:
                branch = branch + bias
            branch = torch.nn.functional.dropout(branch, p=prob, training=training)
            return torch.add(residual, branch, alpha=residual_multiplier)

        return bias_dropout_add

    return get_bias_dropout_add


def build_granite(
    config: TransformerConfig,
    *,
    vocab_size: int,
    max_sequence_length: int,
    rotary_base: float,
    embedding_multiplier: float,
    residual_multiplier: float,
    logits_scaling: float,
    pre_process: bool = True,
    post_process: bool = True,
    parallel_output: bool = True,
    scatter_embedding_sequence_parallel: bool = True,
    vp_stage: int | None = None,
) -> GPTModel:
    """Build the Megatron-Core model; the one place where Granite's multipliers meet Megatron.

    NeMo 2 calls it through ``GraniteConfig.configure_model``, NeMo 1 and NeMo-Aligner through
    ``MegatronGPTModel.model_provider_func``.

    Args:
        config: hidden size, layers, heads, parallel sizes ...; its ``softmax_scale`` is the
            attention multiplier.
        vocab_size: rows of the embedding, a multiple of the tensor parallel size.
        max_sequence_length: in tokens.
        rotary_base: theta of the rotary position embedding.
        pre_process: whether this pipeline stage holds the embedding.
        post_process: whether this pipeline stage holds the final norm and the logits.
        parallel_output: leave the logits split over the tensor-parallel ranks.
    """
    # attention's multiplier is the config's softmax_scale, the other three are set here
    model = GPTModel(
        config,
        transformer_layer_spec=block_spec(config, residual_multiplier, vp_stage=vp_stage),
        vocab_size=vocab_size,
        max_sequence_length=max_sequence_length,
        pre_process=pre_process,
        post_process=post_process,
        parallel_output=parallel_output,
        share_embeddings_and_output_weights=True,
        position_embedding_type="rope",
        rotary_base=rotary_base,
        scatter_embedding_sequence_parallel=scatter_embedding_sequence_parallel,
        vp_stage=vp_stage,
    )
    # Hooks and not subclasses: NeMo's inference wrapper accepts exactly GPTModel.
    if pre_process:
        model.embedding.register_forward_hook(
            lambda module, args, embeddings: embeddings * embedding_multiplier
        )
    if post_process:
        model.output_layer.register_forward_hook(
            lambda module, args, out: (out[0] / logits_scaling, out[1])
        )
    return model
