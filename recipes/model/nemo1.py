"""Granite as a NeMo 1 model, the kind that NeMo-Aligner trains."""

from megatron.core.models.gpt.gpt_model import GPTModel as MegatronCoreGPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from nemo.collections.nlp.models.language_modeling.megatron_gpt_model import MegatronGPTModel

from recipes.compat import nemo1
from recipes.model.granite import build_granite

nemo1.install()


class MegatronGraniteModel(MegatronGPTModel):
    """NeMo 1's ``MegatronGPTModel`` around the same Megatron-Core model as NeMo 2's.

    Every number comes from the model's configuration, whose keys are those of
    :class:`recipes.model.nemo.GraniteConfig`: NeMo-Aligner copies them from a NeMo 2 checkpoint. To
    make one of Aligner's models a Granite, name this class first: ``class
    GraniteSFTModel(MegatronGraniteModel, GPTSFTModel)``.

    It is made to be loaded from a checkpoint: the weights that it starts with are NeMo 1's, not
    muP's.
    """

    def build_transformer_config(self) -> TransformerConfig:
        """Return NeMo 1's configuration with the attention multiplier as the scale of the attention
        scores.
        """
        config = super().build_transformer_config()
        config.softmax_scale = self.cfg.attention_multiplier
        return config

    def model_provider_func(self, pre_process: bool, post_process: bool) -> MegatronCoreGPTModel:
        """Build this pipeline stage's part of the model."""
        return build_granite(
            self.transformer_config,
            # not NeMo 1's padded_vocab_size: that is the tokenizer's, the checkpoint's embedding
            # may have more rows
            vocab_size=self.cfg.vocab_size,
            max_sequence_length=self.cfg.encoder_seq_length,
            rotary_base=self.cfg.rotary_base,
            embedding_multiplier=self.cfg.embedding_multiplier,
            residual_multiplier=self.cfg.residual_multiplier,
            logits_scaling=self.cfg.logits_scaling,
            pre_process=pre_process,
            post_process=post_process,
        )
