"""The model sizes: dimensions, Granite's multipliers, muP widths and special tokens."""

import math
from dataclasses import dataclass

from recipes.spec.origin import Sourced, assumed, derived, published
from recipes.spec.tree import COMPUTED, Rule, apply_rules


@dataclass(frozen=True)
class Size:
    """One model: a dense decoder with grouped-query attention, SwiGLU, RMSNorm and RoPE.

    Embeddings are tied and there are no biases.

    Attributes:
        embedding_multiplier: the embedding's output is multiplied by it.
        attention_multiplier: the attention scores are multiplied by it, not by 1/sqrt(head_dim).
        residual_multiplier: the output of each attention and MLP block is multiplied by it before
            it is added.
        logits_scaling: the logits are divided by it.
        initializer_std: standard deviation of every weight at ``mup_base_width``, and of the
            embedding at any width.
        mup_base_width: hidden size at which muP's learning rates and initial weights are stated.
        scaled_from: the published size whose stages this one scales down; None for a published
            size.
    """

    name: str
    hidden_size: Sourced[int]
    num_layers: Sourced[int]
    num_attention_heads: Sourced[int]
    head_dim: Sourced[int]
    num_query_groups: Sourced[int]
    ffn_hidden_size: Sourced[int]
    vocab_size: Sourced[int]
    parameter_count: Sourced[int]
    embedding_multiplier: Sourced[float]
    attention_multiplier: Sourced[float]
    residual_multiplier: Sourced[float]
    logits_scaling: Sourced[float]
    rms_norm_eps: Sourced[float]
    initializer_std: Sourced[float]
    mup_base_width: Sourced[int]
    bos_token_id: Sourced[int]
    eos_token_id: Sourced[int]
    pad_token_id: Sourced[int]
    scaled_from: str | None = None

    @property
    def is_tiny(self) -> bool:
        """Whether the size is scaled down, so that a CPU trains it."""
        return self.scaled_from is not None

    @property
    def published_size(self) -> str:
        """The size whose published values it takes: itself, or the one it is scaled from."""
        return self.scaled_from or self.name

    @property
    def width_multiplier(self) -> float:
        """hidden_size / mup_base_width: muP divides the hidden matrices' learning rate by it."""
        return self.hidden_size.value / self.mup_base_width.value

    @property
    def hidden_initializer_std(self) -> float:
        """initializer_std / sqrt(width multiplier), of the hidden matrices' initial weights."""
        return self.initializer_std.value / math.sqrt(self.width_multiplier)


def parameter_count(size: Size) -> int:
    """Count the parameters.

    They are the tied embedding, per layer QKV, output, SwiGLU and two RMSNorms, and an RMSNorm at
    the end.
    """
    # widths of the query heads, and of the key and the value heads that they share
    hidden = size.hidden_size.value
    query = size.num_attention_heads.value * size.head_dim.value
    key_value = size.num_query_groups.value * size.head_dim.value
    attention = hidden * (query + 2 * key_value) + query * hidden
    # gate, up and down projections
    mlp = 3 * hidden * size.ffn_hidden_size.value
    # two norms a layer, with one weight per hidden unit
    layer = attention + mlp + 2 * hidden
    return size.vocab_size.value * hidden + size.num_layers.value * layer + hidden


# the fields that change the number of parameters
_DIMENSION_FIELDS = (
    "hidden_size",
    "num_layers",
    "num_attention_heads",
    "head_dim",
    "num_query_groups",
    "ffn_hidden_size",
    "vocab_size",
)

RULES: tuple[Rule[Size], ...] = (
    Rule(
        "parameter_count",
        _DIMENSION_FIELDS,
        lambda size: derived(
            parameter_count(size), "tied embedding + layers x (attention + MLP + 2 norms) + norm"
        ),
    ),
    Rule(
        "attention_multiplier",
        ("head_dim",),
        lambda size: derived(1 / size.head_dim.value, "1 / head_dim"),
    ),
    Rule(
        "residual_multiplier",
        ("num_layers",),
        lambda size: derived(1.4 / math.sqrt(size.num_layers.value), "1.4 / sqrt(num_layers)"),
    ),
    Rule(
        "logits_scaling",
        ("hidden_size", "mup_base_width"),
        lambda size: derived(size.width_multiplier, "hidden_size / mup_base_width"),
    ),
)

# the same at every published size
RMS_NORM_EPS = published(1e-5, "C", "common.rms_norm_eps")
INITIALIZER_STD = assumed(
    0.1, "what MiniCPM and the power scheduler's setup use at muP's base width; not published"
)
MUP_BASE_WIDTH = derived(
    256, "hidden_size / logits_scaling = 2560 / 10 = 4096 / 16, as the power scheduler paper has it"
)
VOCAB_SIZE = published(100352, "D", "common.vocab_size")
BOS_TOKEN_ID = published(100257, "C", "tokenizer.bos_token_id")
EOS_TOKEN_ID = published(100257, "C", "tokenizer.eos_token_id")
PAD_TOKEN_ID = published(100256, "C", "tokenizer.pad_token_id")

# dimensions are the publication's; multipliers and token ids the released config.json's
GRANITE_3B = Size(
    name="3b",
    hidden_size=published(2560, "W", "models.3b.hidden_size"),
    num_layers=published(40, "W", "models.3b.num_layers"),
    num_attention_heads=published(40, "W", "models.3b.num_attention_heads"),
    head_dim=published(64, "W", "models.3b.head_dim"),
    num_query_groups=published(8, "W", "models.3b.num_query_groups"),
    ffn_hidden_size=published(8192, "W", "models.3b.ffn_hidden_size"),
    vocab_size=VOCAB_SIZE,
    parameter_count=published(3402836480, "D", "models.3b.parameter_count"),
    embedding_multiplier=published(12.0, "C", "multipliers.3b.embedding_multiplier"),
    attention_multiplier=published(0.015625, "C", "multipliers.3b.attention_multiplier"),
    residual_multiplier=published(0.22, "C", "multipliers.3b.residual_multiplier"),
    logits_scaling=published(10.0, "C", "multipliers.3b.logits_scaling"),
    rms_norm_eps=RMS_NORM_EPS,
    initializer_std=INITIALIZER_STD,
    mup_base_width=MUP_BASE_WIDTH,
    bos_token_id=BOS_TOKEN_ID,
    eos_token_id=EOS_TOKEN_ID,
    pad_token_id=PAD_TOKEN_ID,
)

GRANITE_8B = Size(
    name="8b",
    hidden_size=published(4096, "W", "models.8b.hidden_size"),
    num_layers=published(40, "W", "models.8b.num_layers"),
    num_attention_heads=published(32, "W", "models.8b.num_attention_heads"),
    head_dim=published(128, "W", "models.8b.head_dim"),
    num_query_groups=published(8, "W", "models.8b.num_query_groups"),
    ffn_hidden_size=published(12800, "W", "models.8b.ffn_hidden_size"),
    vocab_size=VOCAB_SIZE,
    parameter_count=published(8380551168, "D", "models.8b.parameter_count"),
    embedding_multiplier=published(12.0, "C", "multipliers.8b.embedding_multiplier"),
    attention_multiplier=published(0.0078125, "C", "multipliers.8b.attention_multiplier"),
    residual_multiplier=published(0.22, "C", "multipliers.8b.residual_multiplier"),
    logits_scaling=published(16.0, "C", "multipliers.8b.logits_scaling"),
    rms_norm_eps=RMS_NORM_EPS,
    initializer_std=INITIALIZER_STD,
    mup_base_width=MUP_BASE_WIDTH,
    bos_token_id=BOS_TOKEN_ID,
    eos_token_id=EOS_TOKEN_ID,
    pad_token_id=PAD_TOKEN_ID,
)

GRANITE_30B = Size(
    name="30b",
    hidden_size=published(4096, "W", "models.30b.hidden_size"),
    num_layers=published(64, "W", "models.30b.num_layers"),
    num_attention_heads=published(32, "W", "models.30b.num_attention_heads"),
    head_dim=published(128, "W", "models.30b.head_dim"),
    num_query_groups=published(8, "W", "models.30b.num_query_groups"),
    ffn_hidden_size=published(32768, "W", "models.30b.ffn_hidden_size"),
    vocab_size=VOCAB_SIZE,
    parameter_count=published(28865728512, "D", "models.30b.parameter_count"),
    embedding_multiplier=published(12.0, "C", "multipliers.30b.embedding_multiplier"),
    attention_multiplier=published(0.0078125, "C", "multipliers.30b.attention_multiplier"),
    residual_multiplier=published(0.175, "C", "multipliers.30b.residual_multiplier"),
    logits_scaling=published(16.0, "C", "multipliers.30b.logits_scaling"),
    rms_norm_eps=RMS_NORM_EPS,
    initializer_std=INITIALIZER_STD,
    mup_base_width=MUP_BASE_WIDTH,
    bos_token_id=BOS_TOKEN_ID,
    eos_token_id=EOS_TOKEN_ID,
    pad_token_id=PAD_TOKEN_ID,
)

_DIMENSIONS = "chosen so that all twelve stages run on a CPU in minutes"
_TOKENIZER = "the small tokenizer that is trained for tiny puts its special tokens first"

# Granite in every respect but size: multipliers follow by the published models' own rules
_TINY_DIMENSIONS = Size(
    name="tiny",
    hidden_size=assumed(64, _DIMENSIONS),
    num_layers=assumed(4, _DIMENSIONS),
    num_attention_heads=assumed(4, _DIMENSIONS),
    head_dim=assumed(16, _DIMENSIONS),
    num_query_groups=assumed(2, _DIMENSIONS),
    ffn_hidden_size=assumed(192, _DIMENSIONS),
    vocab_size=assumed(2048, "the small tokenizer that is trained for tiny"),
    parameter_count=COMPUTED,
    embedding_multiplier=derived(12.0, "the same at every published size"),
    attention_multiplier=COMPUTED,
    residual_multiplier=COMPUTED,
    logits_scaling=COMPUTED,
    rms_norm_eps=RMS_NORM_EPS,
    initializer_std=assumed(
        0.02, "0.1 at a quarter of muP's base width would start the logits at a deviation of 3"
    ),
    mup_base_width=MUP_BASE_WIDTH,
    bos_token_id=assumed(0, _TOKENIZER),
    eos_token_id=assumed(0, _TOKENIZER),
    pad_token_id=assumed(1, _TOKENIZER),
    scaled_from="8b",
)

TINY = apply_rules(_TINY_DIMENSIONS, RULES)

# in the order in which they are listed
SIZES = {size.name: size for size in (GRANITE_3B, GRANITE_8B, GRANITE_30B, TINY)}
