"""What a stage's numbers must satisfy before anything is built: sizes, batches, learning rates, mixture, memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipes.common.errors import UserError
from recipes.registry.resolve import (
    STAGES,
    require_known,
    resolve,
    resolve_pretraining,
    stage_sizes,
    violations,
)
from recipes.spec import mixtures
from recipes.spec.memory import estimate, micro_batches
from recipes.spec.origin import Sourced
from recipes.spec.parallelism import GPU_MEMORY, USABLE_MEMORY
from recipes.spec.pretraining import PretrainRecipe, PretrainStage
from recipes.spec.sizes import SIZES

# at the start and the end of each long-context stage; published (pretraining.phases.4.lr_schedule)
LONG_CONTEXT_RATES = (1e-4, 0.0)
# points of a stage, and of its warm-up, at which the learning rate is looked at
POINTS = 1000


@dataclass(frozen=True)
class Check:
    """One thing that must hold, as it was found and as it should be; ``name`` is the same for every recipe."""

    name: str
    ok: bool
    found: str
    expected: str


def resolve_chain(
    size: str, stage: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, PretrainRecipe]:
    """Return the recipe of one stage, or of all of pre-training and long-context extension, as :func:`resolve` does.

    Values that do not fit together are let through: :func:`check_numbers` names all of them.

    Raises:
        UserError: an unknown size, stage or key, a stage of another kind, a malformed override.
    """
    require_known("size", size, SIZES)
    return {
        name: resolve_pretraining(name, size, overrides, validate=False)
        for name in ([stage] if stage else _chain(size))
    }


def check_numbers(recipes: dict[str, PretrainRecipe]) -> dict[str, list[Check]]:
    """Return the checks of each stage of ``recipes``; the stages before and after it count unless they are given."""
    return {
        name: list(_checks(recipe, _beside(recipe, -1, recipes), _beside(recipe, 1, recipes)))
        for name, recipe in recipes.items()
    }


def _chain(size: str) -> list[str]:
    return [
        name
        for name, row in STAGES.items()
        if isinstance(row, PretrainStage) and size in stage_sizes(name)
    ]


def _beside(
    recipe: PretrainRecipe, step: int, recipes: dict[str, PretrainRecipe]
) -> PretrainRecipe | None:
    chain = _chain(recipe.size)
    position = chain.index(recipe.stage) + step
    if not 0 <= position < len(chain):
        return None
    return recipes.get(chain[position]) or resolve_pretraining(chain[position], recipe.size)


def _checks(
    recipe: PretrainRecipe, parent: PretrainRecipe | None, child: PretrainRecipe | None
) -> Iterator[Check]:
    yield from _fit(recipe)
    yield _world_size(recipe)
    yield _global_batch(recipe)
    yield _tokens_per_batch(recipe, parent)
    yield _tokens(recipe)
    yield _intervals(recipe)
    yield _rate_at_start(recipe, parent)
    yield _rate_at_end(recipe, child)
    yield _rates_between(recipe)
    yield _mixture(recipe)
    yield _theta(recipe, parent, child)
    yield _memory(recipe)


def _fit(recipe: PretrainRecipe) -> Iterator[Check]:
    model, split = recipe.model, recipe.parallelism
    tensor, context = split.tensor_model_parallel_size.value, split.context_parallel_size.value
    expected = "TP divides heads, groups, MLP and vocabulary, PP layers, 2 x CP and (sequence parallel) TP the sequence"
    found = (
        f"TP {tensor}: {model.num_attention_heads.value} heads, {model.num_query_groups.value} groups, "
        f"MLP {model.ffn_hidden_size.value:,}, vocabulary {model.vocab_size.value:,}; "
        f"PP {split.pipeline_model_parallel_size.value}: {model.num_layers.value} layers; "
        f"CP {context}: {recipe.sequence_length.value:,} tokens"
    )
    sentences = list(violations(recipe))
    for sentence in sentences:
        yield Check("values fit together", False, sentence, expected)
    if not sentences:
        yield Check("values fit together", True, found, expected)


def _world_size(recipe: PretrainRecipe) -> Check:
    split = recipe.parallelism
    return Check(
        "world size",
        split.gpus.value % split.gpus_per_replica == 0,
        f"GPUs {split.gpus.value:,} ({split.gpu_type.value}), replicas {split.data_parallel_size}",
        f"a multiple of TP {split.tensor_model_parallel_size.value} x PP {split.pipeline_model_parallel_size.value} "
        f"x CP {split.context_parallel_size.value} = {split.gpus_per_replica}",
    )


def _global_batch(recipe: PretrainRecipe) -> Check:
    split, batch = recipe.parallelism, recipe.global_batch_size.value
    at_a_time = split.data_parallel_size * split.micro_batch_size.value
    return Check(
        "global batch",
        at_a_time > 0 and batch % at_a_time == 0,
        f"{batch:,} sequences",
        f"a multiple of replicas {split.data_parallel_size} x micro-batch {split.micro_batch_size.value} = {at_a_time}",
    )


def _tokens_per_batch(recipe: PretrainRecipe, parent: PretrainRecipe | None) -> Check:
    found = recipe.global_batch_size.value * recipe.sequence_length.value
    expected, why = found, "any number: the first stage's"
    if parent:
        expected = parent.global_batch_size.value * parent.sequence_length.value
        why = f"{expected:,}, as in {parent.stage}"
        if recipe.sequence_length.value > expected:
            expected = recipe.sequence_length.value
            why = f"{expected:,}, one sequence, which is more than a batch of {parent.stage}"
    return Check("tokens per batch", found == expected, f"{found:,}", why)


def _tokens(recipe: PretrainRecipe) -> Check:
    batch = recipe.global_batch_size.value * recipe.sequence_length.value
    trained = recipe.steps.value * batch
    return Check(
        "steps x batch",
        abs(trained - recipe.tokens.value) < batch,
        f"{recipe.steps.value:,} x {batch:,} = {trained:,} tokens",
        f"{recipe.tokens.value:,} tokens, less than a batch away",
    )


def _intervals(recipe: PretrainRecipe) -> Check:
    checkpoint, validate, steps = (
        recipe.checkpoint_every_steps,
        recipe.validate_every_steps,
        recipe.steps.value,
    )
    return Check(
        "intervals",
        0 < checkpoint <= steps and 0 < validate <= steps,
        f"steps from checkpoint to checkpoint {checkpoint:,}, validation to validation {validate:,}",
        f"1 to {steps:,}, the stage's",
    )


def _rate_at_start(recipe: PretrainRecipe, parent: PretrainRecipe | None) -> Check:
    found = recipe.schedule.lr(0)
    if recipe.kind == "long_context":
        expected, why, ok = LONG_CONTEXT_RATES[0], "published", found == LONG_CONTEXT_RATES[0]
    elif parent is None:
        expected, why, ok = 0.0, "the warm-up's start", found == 0
    else:
        expected, why = parent.schedule.lr(parent.tokens.value), f"where {parent.stage} ends"
        ok = math.isclose(found, expected, rel_tol=1e-9)
    return Check("learning rate at the start", ok, f"{found:.9g}", f"{expected:.9g}, {why}")


def _rate_at_end(recipe: PretrainRecipe, child: PretrainRecipe | None) -> Check:
    found = recipe.schedule.lr(recipe.tokens.value)
    if recipe.kind == "pretrain" and child is not None and child.kind == "pretrain":
        expected, why = child.schedule.lr(0), f"where {child.stage} starts"
    else:
        expected, why = (
            LONG_CONTEXT_RATES[1],
            "published: phase 4 and long-context extension decay to zero",
        )
    ok = math.isclose(found, expected, rel_tol=1e-9)
    # the last step takes the rate of the tokens before it
    last = recipe.schedule.lr(
        (recipe.steps.value - 1) * recipe.global_batch_size.value * recipe.sequence_length.value
    )
    return Check(
        "learning rate at the end",
        ok,
        f"{found:.9g}, the last step's {last:.3g}",
        f"{expected:.9g}, {why}",
    )


def _rates_between(recipe: PretrainRecipe) -> Check:
    tokens = recipe.tokens.value
    warmup = getattr(recipe.schedule, "warmup_tokens", None)
    warmup_tokens = warmup.value if isinstance(warmup, Sourced) else 0
    rising = [recipe.schedule.lr(point / POINTS * warmup_tokens) for point in range(POINTS + 1)]
    after = [
        recipe.schedule.lr(warmup_tokens + point / POINTS * (tokens - warmup_tokens))
        for point in range(POINTS + 1)
    ]
    rates = rising + after
    return Check(
        "learning rate between",
        all(math.isfinite(rate) and rate >= 0 for rate in rates)
        and rising == sorted(rising)
        and after == sorted(after, reverse=True)
        # the warm-up's last point but one is a thousandth below its end: no jump
        and rising[-1] - rising[-2] <= 1.001 * rising[-1] / POINTS,
        f"{min(rates):.6g} to {max(rates):.6g}, warm-up over {warmup_tokens:,} tokens",
        "finite, not negative, rising in the warm-up and nowhere after it, without a jump",
    )


def _mixture(recipe: PretrainRecipe) -> Check:
    percent = [leaf.value for leaf in recipe.mixture.values()]
    return Check(
        "mixture",
        abs(sum(percent) - 100) <= mixtures.TOLERANCE and min(percent) >= 0,
        f"{sum(percent):g} percent in {len(percent)} components, the smallest {min(percent):g}",
        f"100 percent within {mixtures.TOLERANCE} (published figures are rounded), none negative",
    )


def _theta(
    recipe: PretrainRecipe, parent: PretrainRecipe | None, child: PretrainRecipe | None
) -> Check:
    theta, length = recipe.rope_theta.value, recipe.sequence_length.value
    ok, expected = True, []
    if parent:
        ok = theta >= parent.rope_theta.value and length >= parent.sequence_length.value
        expected.append(
            f"theta from {parent.rope_theta.value:,.0f} and length from {parent.sequence_length.value:,} on, "
            f"as in {parent.stage}"
        )
    if child:
        ok = ok and theta <= child.rope_theta.value
        expected.append(f"theta up to {child.stage}'s {child.rope_theta.value:,.0f}")
    else:
        released = resolve("sft", recipe.size).rope_theta.value
        ok = ok and theta == released
        expected.append(f"theta {released:,.0f}, the released model's")
    return Check("theta", ok, f"theta {theta:,.0f} at {length:,} tokens", "; ".join(expected))


def _memory(recipe: PretrainRecipe) -> Check:
    memory, gpu_type = estimate(recipe), recipe.parallelism.gpu_type.value
    usable = USABLE_MEMORY.value * GPU_MEMORY[gpu_type].value
    parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in vars(memory).items())
    return Check(
        "memory (estimate)",
        memory.total <= usable * 1e9,
        f"{memory.total / 1e9:.1f} GB: {parts}; recompute {recipe.parallelism.recompute.value}, "
        f"micro-batches {micro_batches(recipe)}",
        f"at most {usable:.1f} GB, {USABLE_MEMORY.value:.0%} of a {gpu_type}",
    )


def require_processes(recipe: PretrainRecipe, processes: int) -> None:
    """Raise :class:`UserError` where this number of processes, a GPU each, cannot train the recipe as it is split."""
    needed = recipe.parallelism.gpus_per_replica
    if processes % needed:
        raise UserError(
            f"{processes} processes were started, but tensor x pipeline x context parallelism needs multiples of "
            f"{needed}; start as many, or lower parallelism.*_parallel_size"
        )
    sequences = processes // needed * recipe.parallelism.micro_batch_size.value
    if recipe.global_batch_size.value % sequences:
        raise UserError(
            f"global_batch_size {recipe.global_batch_size.value} is no multiple of the {sequences} sequences that "
            f"{processes // needed} data-parallel ranks take at a time; lower parallelism.micro_batch_size"
        )
