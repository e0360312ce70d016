"""Arithmetic checks of recipes: sizes, batches, learning rates, mixture and memory."""

import math
from collections.abc import Iterator, Mapping, Sequence

from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from recipes.registry.resolve import (
    Recipe,
    require_known,
    resolve,
    resolve_pretraining,
)
from recipes.registry.stages import PRETRAIN_STAGES, STAGES, pretraining_chain
from recipes.registry.violations import violations
from recipes.spec.memory import estimate, micro_batches, sequences_per_step
from recipes.spec.mixtures import TOLERANCE
from recipes.spec.origin import Sourced
from recipes.spec.parallelism import GPU_MEMORY, USABLE_MEMORY
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.recipe import CommonRecipe
from recipes.spec.rl import RlRecipe
from recipes.spec.sizes import SIZES

# at the start and the end of each long-context stage; published (pretraining.phases.4.lr_schedule)
LONG_CONTEXT_RATES = (1e-4, 0.0)
# points of a stage, and of its warm-up, at which the learning rate is looked at
POINTS = 1000


def resolve_chain(
    size: str,
    stage: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Recipe]:
    """Return the recipe of one stage, or of all of pre-training and long-context extension.

    Values that do not fit together are let through: :func:`check_numbers` names all of them.

    Raises:
        UserError: an unknown size, stage or key, or a malformed override.
    """
    require_known("size", size, SIZES)
    names = pretraining_chain(size)
    if stage:
        names = [stage]
    recipes = {}
    for name in names:
        recipes[name] = resolve(name, size, overrides, validate=False)
    return recipes


def check_numbers(recipes: Mapping[str, Recipe]) -> dict[str, list[CheckResult]]:
    """Return the checks of each stage of ``recipes``.

    A stage of pre-training is compared with those before and after it, as ``recipes`` has them, or
    else as they are without overrides.
    """
    checks = {}
    for name, recipe in recipes.items():
        checks[name] = list(_layout(recipe))
        if isinstance(recipe, PretrainRecipe):
            parent = _neighbor(recipe, -1, recipes)
            child = _neighbor(recipe, 1, recipes)
            checks[name] += _course(recipe, parent, child)
    return checks


def _neighbor(
    recipe: PretrainRecipe,
    step: int,
    recipes: Mapping[str, Recipe],
) -> PretrainRecipe | None:
    chain = pretraining_chain(recipe.size)
    position = chain.index(recipe.stage) + step
    if not 0 <= position < len(chain):
        return None
    neighbor = recipes.get(chain[position])
    if isinstance(neighbor, PretrainRecipe):
        return neighbor
    return resolve_pretraining(chain[position], recipe.size)


def _layout(recipe: CommonRecipe) -> Iterator[CheckResult]:
    yield from _values_fit(recipe)
    yield _world_size(recipe)
    yield _global_batch(recipe)
    yield _memory(recipe)


def _course(
    recipe: PretrainRecipe,
    parent: PretrainRecipe | None,
    child: PretrainRecipe | None,
) -> Iterator[CheckResult]:
    yield _tokens_per_batch(recipe, parent)
    yield _tokens(recipe)
    yield _intervals(recipe)
    yield _rate_at_start(recipe, parent)
    yield _rate_at_end(recipe, child)
    yield _rates_between(recipe)
    yield _mixture(recipe)
    yield _theta(recipe, parent, child)


# what TP, PP, CP and the micro-batch must divide: the rules that an override is refused by
def _values_fit(recipe: CommonRecipe) -> Iterator[CheckResult]:
    model = recipe.model
    parallel = recipe.parallelism
    expected = (
        "TP divides heads, groups, MLP and vocabulary, PP layers, 2 x CP and (sequence parallel) "
        "TP the sequence"
    )
    found = (
        f"TP {parallel.tensor_model_parallel_size.value}: {model.num_attention_heads.value} heads, "
        f"{model.num_query_groups.value} groups, MLP {model.ffn_hidden_size.value:,}, "
        f"vocabulary {model.vocab_size.value:,}; "
        f"PP {parallel.pipeline_model_parallel_size.value}: {model.num_layers.value} layers; "
        f"CP {parallel.context_parallel_size.value}: {recipe.sequence_length.value:,} tokens"
    )
    sentences = list(violations(recipe))
    for sentence in sentences:
        yield CheckResult("values fit together", False, sentence, expected)
    if not sentences:
        yield CheckResult("values fit together", True, found, expected)


# the job's GPUs hold whole replicas of the model
def _world_size(recipe: CommonRecipe) -> CheckResult:
    parallel = recipe.parallelism
    gpus = parallel.gpus.value
    tp = parallel.tensor_model_parallel_size.value
    pp = parallel.pipeline_model_parallel_size.value
    cp = parallel.context_parallel_size.value
    return CheckResult(
        "world size",
        gpus % parallel.gpus_per_replica == 0,
        f"GPUs {gpus:,} ({parallel.gpu_type.value}), replicas {parallel.data_parallel_size}",
        f"a multiple of TP {tp} x PP {pp} x CP {cp} = {parallel.gpus_per_replica}",
    )


# every replica takes the same number of micro-batches of a step
def _global_batch(recipe: CommonRecipe) -> CheckResult:
    batch = sequences_per_step(recipe)
    replicas = recipe.parallelism.data_parallel_size
    micro_batch = recipe.parallelism.micro_batch_size.value
    at_a_time = replicas * micro_batch
    return CheckResult(
        "global batch",
        at_a_time > 0 and batch % at_a_time == 0,
        f"{batch:,} sequences",
        f"a multiple of replicas {replicas} x micro-batch {micro_batch} = {at_a_time}",
    )


def _batch_tokens(recipe: PretrainRecipe) -> int:
    return recipe.global_batch_size.value * recipe.sequence_length.value


# the learning rate is tuned for one number of tokens a step, so that longer sequences are fewer
def _tokens_per_batch(recipe: PretrainRecipe, parent: PretrainRecipe | None) -> CheckResult:
    tokens = _batch_tokens(recipe)
    length = recipe.sequence_length.value
    if parent is None:
        return CheckResult(
            "tokens per batch",
            True,
            f"{tokens:,}",
            "any number: the first stage's",
        )
    # a long sequence is a batch of its own
    expected = _batch_tokens(parent)
    why = f"{expected:,}, as in {parent.stage}"
    if length > expected:
        expected = length
        why = f"{expected:,}, one sequence, which is more than a batch of {parent.stage}"
    return CheckResult(
        "tokens per batch",
        tokens == expected,
        f"{tokens:,}",
        why,
    )


# whole steps come within a batch of the published tokens
def _tokens(recipe: PretrainRecipe) -> CheckResult:
    batch = _batch_tokens(recipe)
    trained = recipe.steps.value * batch
    return CheckResult(
        "steps x batch",
        abs(trained - recipe.tokens.value) < batch,
        f"{recipe.steps.value:,} x {batch:,} = {trained:,} tokens",
        f"{recipe.tokens.value:,} tokens, less than a batch away",
    )


# at least one checkpoint and one validation, and neither more often than every step
def _intervals(recipe: PretrainRecipe) -> CheckResult:
    steps = recipe.steps.value
    checkpoint = recipe.checkpoint_every_steps
    validation = recipe.validate_every_steps
    return CheckResult(
        "intervals",
        0 < checkpoint <= steps and 0 < validation <= steps,
        f"steps from checkpoint to checkpoint {checkpoint:,}, validation to validation "
        f"{validation:,}",
        f"1 to {steps:,}, the stage's",
    )


# phases continue at the rate where their parent ends; the long-context extension starts anew
def _rate_at_start(recipe: PretrainRecipe, parent: PretrainRecipe | None) -> CheckResult:
    rate = recipe.schedule.lr(0)
    tolerance = 0.0
    if recipe.kind == "long_context":
        expected = LONG_CONTEXT_RATES[0]
        why = "published"
    elif parent is None:
        expected = 0.0
        why = "the warm-up's start"
    else:
        expected = parent.schedule.lr(parent.tokens.value)
        why = f"where {parent.stage} ends"
        tolerance = 1e-9
    return CheckResult(
        "learning rate at the start",
        math.isclose(rate, expected, rel_tol=tolerance),
        f"{rate:.9g}",
        f"{expected:.9g}, {why}",
    )


# and the next phase takes over where this one ends
def _rate_at_end(recipe: PretrainRecipe, child: PretrainRecipe | None) -> CheckResult:
    rate = recipe.schedule.lr(recipe.tokens.value)
    # the last step takes the rate of the tokens before it
    steps_before = recipe.steps.value - 1
    last_step = recipe.schedule.lr(steps_before * _batch_tokens(recipe))

    expected = LONG_CONTEXT_RATES[1]
    why = "published: phase 4 and long-context extension decay to zero"
    if recipe.kind == "pretrain" and child is not None and child.kind == "pretrain":
        expected = child.schedule.lr(0)
        why = f"where {child.stage} starts"
    return CheckResult(
        "learning rate at the end",
        math.isclose(rate, expected, rel_tol=1e-9),
        f"{rate:.9g}, the last step's {last_step:.3g}",
        f"{expected:.9g}, {why}",
    )


# a curve with the right ends can still rise, jump or turn negative in between
def _rates_between(recipe: PretrainRecipe) -> CheckResult:
    warmup = getattr(recipe.schedule, "warmup_tokens", None)
    warmup_tokens = warmup.value if isinstance(warmup, Sourced) else 0
    rising = _sample_rates(recipe, 0, warmup_tokens)
    after = _sample_rates(recipe, warmup_tokens, recipe.tokens.value)
    rates = rising + after

    is_valid = all(math.isfinite(rate) and rate >= 0 for rate in rates)
    is_monotonic = rising == sorted(rising)
    is_monotonic = is_monotonic and after == sorted(after, reverse=True)
    # the warm-up's last point but one is a thousandth below its end: no jump
    is_smooth = rising[-1] - rising[-2] <= 1.001 * rising[-1] / POINTS
    return CheckResult(
        "learning rate between",
        is_valid and is_monotonic and is_smooth,
        f"{min(rates):.6g} to {max(rates):.6g}, warm-up over {warmup_tokens:,} tokens",
        "finite, not negative, rising in the warm-up and nowhere after it, without a jump",
    )


def _sample_rates(recipe: PretrainRecipe, start: int, end: int) -> list[float]:
    """Return the learning rates at equal distances from one number of tokens to another."""
    rates = []
    for point in range(POINTS + 1):
        tokens = start + point / POINTS * (end - start)
        rates.append(recipe.schedule.lr(tokens))
    return rates


# published percentages are rounded, so their sum may be off a little
def _mixture(recipe: PretrainRecipe) -> CheckResult:
    percent = [leaf.value for leaf in recipe.mixture.values()]
    return CheckResult(
        "mixture",
        abs(sum(percent) - 100) <= TOLERANCE and min(percent) >= 0,
        f"{sum(percent):g} percent in {len(percent)} components, the smallest {min(percent):g}",
        f"100 percent within {TOLERANCE} (published figures are rounded), none negative",
    )


# theta and length only grow along the chain, up to the released model's theta
def _theta(
    recipe: PretrainRecipe,
    parent: PretrainRecipe | None,
    child: PretrainRecipe | None,
) -> CheckResult:
    theta = recipe.rope_theta.value
    length = recipe.sequence_length.value
    ok = True
    expected = []
    if parent:
        ok = theta >= parent.rope_theta.value and length >= parent.sequence_length.value
        expected.append(
            f"theta from {parent.rope_theta.value:,.0f} and length from "
            f"{parent.sequence_length.value:,} on, as in {parent.stage}"
        )
    if child:
        ok = ok and theta <= child.rope_theta.value
        expected.append(f"theta up to {child.stage}'s {child.rope_theta.value:,.0f}")
    else:
        released = resolve(_first_alignment_stage(), recipe.size).rope_theta.value
        ok = ok and theta == released
        expected.append(f"theta {released:,.0f}, the released model's")
    return CheckResult(
        "theta",
        ok,
        f"theta {theta:,.0f} at {length:,} tokens",
        "; ".join(expected),
    )


def _first_alignment_stage() -> str:
    """Return the first stage that keeps the theta of the released model."""
    return next(name for name in STAGES if name not in PRETRAIN_STAGES)


# weights, gradients, optimizer state and activations of the fullest rank
def _memory(recipe: CommonRecipe) -> CheckResult:
    memory = estimate(recipe)
    parallel = recipe.parallelism
    gpu_type = parallel.gpu_type.value
    usable = USABLE_MEMORY.value * GPU_MEMORY[gpu_type].value
    parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in vars(memory).items())
    return CheckResult(
        "memory (estimate)",
        memory.total <= usable * 1e9,
        f"{memory.total / 1e9:.1f} GB: {parts}; recompute {parallel.recompute.value}, "
        f"micro-batches {micro_batches(recipe)}",
        f"at most {usable:.1f} GB, {USABLE_MEMORY.value:.0%} of a {gpu_type}",
    )


def require_processes(recipe: Recipe, processes: int) -> None:
    """Check that this number of processes, a GPU each, can train the recipe.

    Raises:
        UserError: they do not make whole replicas of the model, or the replicas do not share the
            batch evenly.
    """
    needed = recipe.parallelism.gpus_per_replica
    if processes % needed:
        raise UserError(
            f"{processes} processes were started, but tensor x pipeline x context parallelism "
            f"needs multiples of {needed}; start as many, or lower parallelism.*_parallel_size"
        )

    replicas = processes // needed
    if isinstance(recipe, RlRecipe):
        # the answers to a prompt stay together
        prompts = recipe.prompts_per_step.value
        if prompts % replicas:
            raise UserError(
                f"prompts_per_step {prompts} is no multiple of the {replicas} data-parallel ranks "
                f"that share them; start fewer processes, or raise train_batch_size"
            )
        return
    sequences = replicas * recipe.parallelism.micro_batch_size.value
    batch = recipe.global_batch_size.value
    if batch % sequences:
        raise UserError(
            f"global_batch_size {batch} is no multiple of the {sequences} sequences that "
            f"{replicas} data-parallel ranks take at a time; lower parallelism.micro_batch_size"
        )
