"""The model at the published sizes, its initial weights, and the spec that it is built from."""

import pytest

from recipes.spec.sizes import SIZES

pytestmark = pytest.mark.slow


def _one_process():
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    import recipes.model.nemo  # noqa: F401

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    model_parallel_cuda_manual_seed(1234)


def _build(size, **settings):
    from recipes.model.nemo import GraniteConfig

    return GraniteConfig(
        **GraniteConfig.transformer_settings(SIZES[size]),
        seq_length=4096,
        rotary_base=1e4,
        **settings,
    ).configure_model()


def _count_on_meta(sizes):
    import torch

    _one_process()
    counts = {}
    for size in sizes:
        with torch.device("meta"):
            model = _build(size, perform_initialization=False)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        counts[size] = sum(parameter.numel() for parameter in model.parameters())
    return counts


def _deviations():
    _one_process()
    return {
        name: weight.std().item()
        for name, weight in _build("tiny").named_parameters()
        if weight.dim() > 1
    }


def _theta_and_scale():
    _one_process()
    model = _build("tiny")
    # the second frequency is theta^(-2 / head_dim)
    theta = model.rotary_pos_emb.inv_freq[1].item() ** (-SIZES["tiny"].head_dim.value / 2)
    return theta, model.decoder.layers[0].self_attention.core_attention.softmax_scale


def _transformer_engine_spec():
    from megatron.core.models.gpt import gpt_layer_specs

    from recipes.model import granite
    from recipes.model.attention import SdpaCoreAttention

    _one_process()
    config = _build("tiny").config
    local = granite.block_spec(config, 0.5)
    assert len(local.layer_specs) == 4
    layer = local.layer_specs[0].submodules
    assert layer.self_attention.submodules.core_attention is SdpaCoreAttention
    # TransformerEngine cannot be installed everywhere: a stand-in layer shows what is changed in
    # its spec, and what not
    stand_in = gpt_layer_specs.get_gpt_layer_local_spec(normalization="RMSNorm")
    granite.get_gpt_layer_with_transformer_engine_spec = lambda: stand_in
    chosen = granite.block_spec(config, 0.5, use_transformer_engine=True)
    assert chosen.layer_specs[0] is stand_in
    assert stand_in.submodules.self_attention.submodules.core_attention is not SdpaCoreAttention
    branch = granite.torch.ones(2)
    for name in ("self_attn_bda", "mlp_bda"):
        add = getattr(stand_in.submodules, name)(training=True, fused=True)
        assert add((branch, None), branch, 0.0).tolist() == [1.5, 1.5]
        assert add((branch, branch), branch, 0.0).tolist() == [2.0, 2.0]


def test_parameter_counts_are_the_published_ones(forked) -> None:
    assert forked(_count_on_meta, ["3b", "8b", "30b"]) == {
        "3b": 3402836480,
        "8b": 8380551168,
        "30b": 28865728512,
    }


def test_initial_weights_follow_mup(forked) -> None:
    for name, deviation in forked(_deviations).items():
        # 0.02 at the base width of 256; a quarter of the width doubles the hidden matrices'
        # deviation
        expected = 0.02 if "embedding" in name else 0.04
        assert deviation == pytest.approx(expected, rel=0.05), name


def test_theta_and_attention_multiplier_arrive(forked) -> None:
    theta, scale = forked(_theta_and_scale)
    assert theta == pytest.approx(1e4, rel=1e-4)
    assert scale == SIZES["tiny"].attention_multiplier.value


def test_layer_specs(forked) -> None:
    forked(_transformer_engine_spec)
