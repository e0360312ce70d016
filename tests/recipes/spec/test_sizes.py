"""The sizes: parameters, multipliers, and tiny's dimensions."""

import math

import pytest

from recipes.spec.sizes import SIZES, parameter_count


def test_tiny_is_scaled_from_a_published_size() -> None:
    published = [name for name, size in SIZES.items() if not size.is_tiny]
    assert published == ["3b", "8b", "30b"]
    assert [SIZES[name].published_size for name in published] == published
    assert SIZES["tiny"].published_size == SIZES["tiny"].scaled_from == "8b"


@pytest.mark.parametrize(
    ("size", "count"),
    [("3b", 3402836480), ("8b", 8380551168), ("30b", 28865728512), ("tiny", 328256)],
)
def test_parameter_count(size: str, count: int) -> None:
    assert parameter_count(SIZES[size]) == SIZES[size].parameter_count.value == count


@pytest.mark.parametrize("size", SIZES)
def test_multipliers_follow_the_published_rules(size: str) -> None:
    model = SIZES[size]
    assert model.attention_multiplier.value == 1 / model.head_dim.value
    assert model.logits_scaling.value == model.width_multiplier == model.hidden_size.value / 256
    assert model.residual_multiplier.value == pytest.approx(
        1.4 / math.sqrt(model.num_layers.value), abs=2e-3
    )
    assert model.embedding_multiplier.value == 12
    base = 0.02 if size == "tiny" else 0.1
    assert model.hidden_initializer_std == pytest.approx(
        base / math.sqrt(model.hidden_size.value / 256)
    )


def test_tiny_model() -> None:
    tiny = SIZES["tiny"]
    assert (
        tiny.attention_multiplier.value,
        tiny.residual_multiplier.value,
        tiny.logits_scaling.value,
    ) == (
        0.0625,
        0.7,
        0.25,
    )
    assert (tiny.bos_token_id.value, tiny.eos_token_id.value, tiny.pad_token_id.value) == (0, 0, 1)
    assert tiny.hidden_size.value == tiny.num_attention_heads.value * tiny.head_dim.value
