"""config.json of a model, in the forms of transformers 4 and 5."""

import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import read_json

log = logging.getLogger(__name__)

CONFIG = "config.json"
_REMEDY = "download the folder again"
# type of a field -> types in JSON, largest value, the word for it
_RANGES: dict[Any, tuple[tuple[type, ...], float, str]] = {
    int: ((int,), 2**31 - 1, "integer"),
    float: ((int, float), sys.float_info.max, "number"),
}
# more would be a damaged number, for which a tensor's name would be made for each layer
_MOST_LAYERS = 1000

# field -> what every Granite 4.1 model has, and what transformers takes where it is absent
FIXED_FIELDS: dict[str, tuple[Any, Any]] = {
    "hidden_act": ("silu", "silu"),
    "rope_scaling": (None, None),
    "partial_rotary_factor": (1.0, 1.0),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "attention_dropout": (0.0, 0.0),
    "tie_word_embeddings": (True, False),
    "quantization_config": (None, None),
    "compression_config": (None, None),
}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_WITHOUT_EFFECT = (
    "_name_or_path",
    "architectures",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ModelConfig:
    """A Granite model's dimensions and multipliers, under config.json's names.

    Attributes:
        head_dim: ``hidden_size / num_attention_heads`` where config.json leaves it out.
        max_position_embeddings: in tokens.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    initializer_range: float
    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float


_NUMBERS = {field.name: field.type for field in fields(ModelConfig)}


def read_values(folder: Path) -> dict[str, Any]:
    """Return config.json in the form of transformers 4, of any kind of model.

    ``rope_parameters`` and ``dtype`` of transformers 5 become ``rope_theta`` and ``torch_dtype``;
    a null that stands for an absent number, and what names code (``auto_map``), are left out.

    Raises:
        UserError: the file is missing or damaged, contradicts itself, or has a rotary embedding
            that is scaled.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{path}: not found; name a Hugging Face folder of a model, a stage or a checkpoint"
        )
    values = read_json(path, _REMEDY)
    values.pop("auto_map", None)
    if not isinstance(values.get("model_type"), str):
        raise UserError(
            f"{path}: model_type is {values.get('model_type')!r:.60}, so this is not the config of "
            f"a model; {_REMEDY}"
        )
    # transformers 5's names
    _put(values, "torch_dtype", values.pop("dtype", None), "dtype", path)
    # rope_scaling of another kind of model is transformers 4's own
    scaling_names = ["rope_parameters", "rope_scaling"]
    if values["model_type"] != "granite":
        scaling_names.remove("rope_scaling")
    for name in scaling_names:
        if values.get(name) is not None:
            _move_rope_theta(values, name, path)

    # a null that is no value of its own, as that of rope_scaling is
    for name in (*_NUMBERS, *FIXED_FIELDS, "rope_parameters", "torch_dtype"):
        is_value = FIXED_FIELDS.get(name) == (None, None)
        if name in values and values[name] is None and not is_value:
            del values[name]
    return values


def _put(values: dict[str, Any], key: str, value: Any, origin: str, path: Path) -> None:
    """Set ``key`` to the value of ``origin``, unless that is absent; it must not have another."""
    if value is None:
        return
    former = values.get(key)
    if former is not None and former != value:
        raise UserError(
            f"{path}: contradicts itself, {origin} is {value!r:.60} but {key} {former!r:.60}; "
            f"leave one of them out"
        )
    values[key] = value


def _move_rope_theta(values: dict[str, Any], name: str, path: Path) -> None:
    """Move theta out of the rotary parameters under ``name``, which must not scale."""
    rope = values.pop(name)
    others = None
    rope_type = None
    if isinstance(rope, dict):
        others = rope.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default" or others:
        raise UserError(
            f"{path}: {name} is {rope!r:.100}, but only an unscaled rotary embedding (rope_type "
            f"'default') is known; name a model with one"
        )
    for key in ("rope_theta", "partial_rotary_factor"):
        _put(values, key, rope.get(key), f"{name}.{key}", path)


def read_config(folder: Path) -> ModelConfig:
    """Return config.json of a Granite model.

    Raises:
        UserError: as :func:`read_values`; another kind of model, a number that is missing or wrong,
            numbers that contradict each other, or a setting that Granite 4.1 does not have.
    """
    return parse_config(read_values(folder), folder / CONFIG)


def parse_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """Return what :func:`read_values` gives as a :class:`ModelConfig`; ``path`` is for errors.

    Raises:
        UserError: as :func:`read_config`.
    """
    model_type = values["model_type"]
    if model_type != "granite":
        raise UserError(f"{path}: model_type is {model_type!r:.60}, but only 'granite' is known")
    for name, (expected, default) in FIXED_FIELDS.items():
        found = values.get(name, default)
        if found != expected:
            absent = "" if name in values else " (as it is absent)"
            raise UserError(
                f"{path}: {name} is {found!r:.60}{absent}, but Granite 4.1 has {expected!r}, so it "
                f"cannot be used"
            )

    config = model_config(values, path)
    _check_token_ids(values, config.vocab_size, path)
    _check_dtype(values, path)

    known = {*_NUMBERS, *FIXED_FIELDS, *TOKEN_IDS, *_WITHOUT_EFFECT}
    unknown = sorted(values.keys() - known)
    if unknown:
        names = ", ".join(map(repr, unknown))
        log.warning("%s: not used: %.300s", path, names)
    return config


def model_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """Return the numbers in ``values``, under config.json's names; ``path`` is for errors.

    Raises:
        UserError: a number is missing or wrong, or two contradict each other.
    """
    numbers = _with_head_dim(values, path)
    for name, kind in _NUMBERS.items():
        _check_number(name, numbers.get(name), kind, path)
    config = ModelConfig(**{name: numbers[name] for name in _NUMBERS})
    _check_consistent(config, path)
    return config


def _with_head_dim(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return ``values`` with the head_dim that released configs leave out where it follows."""
    if "head_dim" in values:
        return values
    for name in ("hidden_size", "num_attention_heads"):
        _check_number(name, values.get(name), int, path)
    hidden = values["hidden_size"]
    heads = values["num_attention_heads"]
    if hidden % heads:
        raise UserError(
            f"{path}: contradicts itself, hidden_size {hidden} is no multiple of "
            f"num_attention_heads {heads} and there is no head_dim; add it, or correct them"
        )
    return values | {"head_dim": hidden // heads}


def _check_number(name: str, value: Any, kind: Any, path: Path) -> None:
    """Raise unless ``value`` is a positive number of ``kind``; a boolean is none."""
    if value is None:
        raise UserError(f"{path}: {name} is missing, expected a number; add it")
    kinds, largest, words = _RANGES[kind]
    # NaN and infinity are in no range
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not 0 < value <= largest:
        raise UserError(f"{path}: {name} is {value!r:.60}, expected a positive {words}; correct it")


def _check_consistent(config: ModelConfig, path: Path) -> None:
    heads = config.num_attention_heads
    groups = config.num_key_value_heads
    problem = None
    if heads % groups:
        problem = (
            f"contradicts itself, num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {groups}"
        )
    elif config.head_dim % 2:
        problem = f"head_dim is {config.head_dim}, but a rotary embedding turns pairs of numbers"
    elif config.num_hidden_layers > _MOST_LAYERS:
        problem = (
            f"num_hidden_layers is {config.num_hidden_layers}, expected at most {_MOST_LAYERS}"
        )
    if problem:
        raise UserError(f"{path}: {problem}; correct it")


def _check_token_ids(values: dict[str, Any], vocab_size: int, path: Path) -> None:
    for name in TOKEN_IDS:
        ids = values.get(name)
        # several tokens may end a text
        if name != "eos_token_id" or not isinstance(ids, list):
            ids = [ids]
        for token_id in ids:
            is_id = isinstance(token_id, int) and not isinstance(token_id, bool)
            if token_id is not None and not (is_id and token_id < vocab_size):
                raise UserError(
                    f"{path}: {name} is {values[name]!r:.60}, expected an id below vocab_size "
                    f"{vocab_size}; correct it"
                )


def _check_dtype(values: dict[str, Any], path: Path) -> None:
    dtype = values.get("torch_dtype")
    if dtype is not None and dtype not in _DTYPES:
        raise UserError(
            f"{path}: dtype is {dtype!r:.60}, expected one of {', '.join(_DTYPES)}; correct it"
        )


def positions_of(values: dict[str, Any], path: Path) -> int:
    """Return the tokens that a model can attend over, of any kind of model.

    Raises:
        UserError: no number of tokens.
    """
    positions: Any = values.get("max_position_embeddings")
    _check_number("max_position_embeddings", positions, int, path)
    return int(positions)
