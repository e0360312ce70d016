"""Granite built through NeMo 1 is the model that NeMo 2 builds."""

import pytest

from recipes.spec.sizes import SIZES

pytestmark = pytest.mark.slow

SEQUENCE = 32
GRANITE_SETTINGS = (
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "rotary_base",
)


def _nemo1_model(config, **changed):
    """Build the NeMo 1 model from the settings that NeMo-Aligner takes over from a NeMo 2
    checkpoint.
    """
    from lightning.pytorch import Trainer
    from omegaconf import OmegaConf

    from recipes.model.nemo1 import MegatronGraniteModel

    settings = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, float | int | str | bool)
    }
    del settings["softmax_scale"]  # attention_multiplier alone must decide it
    settings |= {
        "activation": "fast-swiglu",
        "bias": config.add_bias_linear,
        "encoder_seq_length": config.seq_length,
        "mcore_gpt": True,
        "optim": {"name": "adamw"},
    }
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return MegatronGraniteModel(OmegaConf.create(settings | changed), trainer).eval()


def _shapes(model):
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _differences_of_logits():
    """Return the largest difference between NeMo 1 and 2: as they are, and with one setting of NeMo
    1 doubled.
    """
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from nemo.collections.nlp.modules.common.megatron.utils import get_ltor_masks_and_position_ids

    from recipes.model.nemo import GraniteConfig

    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1234)
    config = GraniteConfig(
        **GraniteConfig.transformer_settings(SIZES["tiny"]), seq_length=SEQUENCE, rotary_base=5e5
    )
    nemo2 = config.configure_model().eval()
    ids = torch.randint(config.vocab_size, (2, SEQUENCE))
    mask, _, positions = get_ltor_masks_and_position_ids(ids, 0, False, False, False)
    assert mask.shape == (1, 1, SEQUENCE, SEQUENCE) and mask.dtype == torch.bool

    differences = {}
    with torch.no_grad():
        expected = nemo2(ids, positions, None)
        for doubled in (None, *GRANITE_SETTINGS):
            nemo1 = _nemo1_model(
                config, **({doubled: 2 * getattr(config, doubled)} if doubled else {})
            )
            assert _shapes(nemo1.model) == _shapes(nemo2)
            nemo1.model.load_state_dict(nemo2.state_dict())
            differences[doubled] = (
                (nemo1(ids, positions, mask, labels=None) - expected).abs().max().item()
            )
    return differences


def _check_patches():
    import torch
    from nemo.collections.nlp.models.language_modeling.megatron_base_model import MegatronBaseModel
    from nemo.collections.nlp.modules.common.megatron import build_model

    from recipes.compat import nemo1

    method = MegatronBaseModel._enable_nvidia_optimizations
    with pytest.MonkeyPatch.context() as upstream:
        upstream.setattr(torch.cuda, "is_available", lambda: True)
        nemo1.install()
    assert MegatronBaseModel._enable_nvidia_optimizations is method
    with pytest.MonkeyPatch.context() as upstream:
        upstream.delattr(MegatronBaseModel, method.__name__)
        with pytest.raises(RuntimeError, match=rf"patches MegatronBaseModel.{method.__name__}"):
            nemo1.install()
    with pytest.MonkeyPatch.context() as upstream:
        upstream.setattr(build_model, "build_model", lambda: None)
        with pytest.raises(RuntimeError, match=r"patches build_model\.set_defaults"):
            nemo1.install()


def test_nemo1_and_nemo2_give_the_same_logits(forked) -> None:
    differences = forked(_differences_of_logits)
    assert differences.pop(None) <= 1e-6
    for doubled, difference in differences.items():
        assert difference > 1e-4, f"{doubled} has no effect"


def test_patches_are_off_with_cuda_and_name_what_is_gone(forked) -> None:
    forked(_check_patches)
