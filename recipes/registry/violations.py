"""Values of a recipe that do not fit together."""

import math
import re
from collections.abc import Iterator
from typing import Any

from recipes.spec.mixtures import TOLERANCE
from recipes.spec.recipe import CommonRecipe
from recipes.spec.tree import flatten

_TP = "parallelism.tensor_model_parallel_size"
_PP = "parallelism.pipeline_model_parallel_size"
_CP = "parallelism.context_parallel_size"
_MICRO_BATCH = "parallelism.micro_batch_size"

# divisor, multiple; a recipe without one of the two is not concerned
DIVISORS = (
    ("model.num_query_groups", "model.num_attention_heads"),
    (_TP, "model.num_attention_heads"),
    (_TP, "model.num_query_groups"),
    (_TP, "model.ffn_hidden_size"),
    (_TP, "model.vocab_size"),
    (_PP, "model.num_layers"),
    ("samples_per_prompt", "train_batch_size"),
    (_MICRO_BATCH, "train_batch_size"),
    (_MICRO_BATCH, "global_batch_size"),
    # NeMo-Aligner validates before it saves
    ("validate_every_steps", "checkpoint_every_steps"),
)


def violations(recipe: CommonRecipe) -> Iterator[str]:
    """Yield a sentence for each pair of values that do not fit together."""
    values = {path: leaf.value for path, leaf in flatten(recipe).items()}
    yield from _training(values)
    yield from _divisors(values)
    yield from _sequence(values)
    yield from _batch(values)
    yield from _merge_and_mixture(values)
    yield from _schedule(values)
    yield from _groups(values)


def _training(values: dict[str, Any]) -> Iterator[str]:
    betas = values["optimizer.betas"]
    if max(betas) >= 1:
        yield f"optimizer.betas is {list(betas)}, expected two numbers below 1"

    # training and validation are always read, so neither part may be empty
    split = values.get("split", "1,1,0")
    if not re.fullmatch(r"[1-9]\d*,[1-9]\d*,\d+", split):
        yield (
            f"split is {split!r}, expected three whole numbers such as 950,50,0, only the last 0"
        )

    share = values.get("validation_share", 0.5)
    if not 0 < share < 1:
        yield f"validation_share is {share:g}, expected a part between 0 and 1"


def _divisors(values: dict[str, Any]) -> Iterator[str]:
    for divisor, multiple in DIVISORS:
        if {divisor, multiple} <= set(values) and values[multiple] % values[divisor]:
            yield (
                f"{divisor} {values[divisor]} does not divide {multiple} {values[multiple]}; "
                "choose a divisor"
            )


def _sequence(values: dict[str, Any]) -> Iterator[str]:
    length = values["sequence_length"]
    tp = values[_TP]
    cp = values[_CP]
    # Megatron gives each context-parallel rank a part from either half of the sequence
    if cp > 1 and length % (2 * cp):
        yield (
            f"{_CP} {cp} cannot cut sequence_length {length} into two equal parts per GPU; choose "
            "a smaller power of two"
        )

    if values["parallelism.sequence_parallel"]:
        if tp == 1:
            yield f"parallelism.sequence_parallel is true, but {_TP} is 1; raise it"
        elif length % (cp * tp):
            yield (
                f"{_TP} {tp} does not divide sequence_length {length} / context_parallel_size "
                f"{cp}, as sequence parallelism asks; choose a divisor, or "
                "parallelism.sequence_parallel=false"
            )


def _batch(values: dict[str, Any]) -> Iterator[str]:
    if "tokens_per_batch" not in values:
        return
    tokens = values["global_batch_size"] * values["sequence_length"]
    if values["tokens_per_batch"] != tokens:
        yield (
            f"tokens_per_batch is {values['tokens_per_batch']}, but global_batch_size x "
            f"sequence_length is {tokens}; set only one of the two"
        )


def _merge_and_mixture(values: dict[str, Any]) -> Iterator[str]:
    weight = values.get("merge.weight", 1)
    if weight > 1:
        yield f"merge.weight is {weight:g}, expected at most 1, the stage's checkpoint alone"

    percent = [value for path, value in values.items() if path.startswith("mixture.")]
    if percent and abs(sum(percent) - 100) > TOLERANCE:
        yield (
            f"mixture sums to {sum(percent):g} percent, expected 100; set its other components as "
            "well"
        )


def _schedule(values: dict[str, Any]) -> Iterator[str]:
    warmup_tokens = values.get("schedule.warmup_tokens", 0)
    tokens = values.get("schedule.tokens", math.inf)
    if warmup_tokens >= tokens:
        yield (
            f"schedule.warmup_tokens is {warmup_tokens}, expected fewer than schedule.tokens "
            f"{tokens}"
        )


def _groups(values: dict[str, Any]) -> Iterator[str]:
    samples = values.get("samples_per_prompt", 2)
    if samples < 2:
        yield (
            f"samples_per_prompt is {samples}, expected 2 or more: GRPO compares the answers to a "
            f"prompt"
        )
