"""The data module of pre-training: NeMo's, without the mask of the whole score matrix."""

from typing import Any

from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule


class GraniteDataModule(PreTrainingDataModule):
    """Megatron ``.bin/.idx`` data as NeMo reads it.

    Without TransformerEngine NeMo 2.4.1 makes every sample carry a boolean [1, sequence, sequence] mask. Attention is
    causal by itself here, so no sample needs one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.create_attention_mask = False
