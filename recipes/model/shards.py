"""Proof of a production recipe without a GPU: its arithmetic, and the real Megatron model of its
ranks.

The arithmetic is :mod:`recipes.registry.checks`; torch and NeMo are imported only when models are
built.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipes.common.check_result import CheckResult
from recipes.registry.checks import check_numbers, resolve_chain
from recipes.registry.resolve import resolve
from recipes.spec.memory import shard_parameters
from recipes.spec.recipe import CommonRecipe, Parallelism
from recipes.spec.sizes import Size

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shard:
    """The part of a model on one rank.

    Attributes:
        rank: in the world.
        shapes: parameter name in the whole model -> shape on this rank.
        groups: TP, PP, CP and DP size.
    """

    rank: int
    shapes: Shapes
    groups: tuple[int, int, int, int]

    @property
    def parameters(self) -> int:
        """Parameters on this rank."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def check_stages(
    size: str, stage: str | None = None, overrides: Sequence[str] = (), trace: bool = False
) -> dict[str, list[CheckResult]]:
    """Check a stage, or all stages of pre-training and long-context extension that ``size`` has.

    Args:
        size: model size.
        stage: one stage; None for all.
        overrides: ``key=value`` as ``granite41 show`` names them, for every stage that is checked.
        trace: whether to run a whole step of each pipeline stage on fake tensors, too.

    Returns:
        Stage -> its checks.

    Raises:
        UserError: an unknown size, stage or key, a malformed override.
    """
    recipes = resolve_chain(size, stage, overrides)
    numbers = check_numbers(recipes)
    checks = {name: [*numbers[name], *check_model(recipe)] for name, recipe in recipes.items()}
    if trace:
        from recipes.model.traced_step import check_trace

        for name, recipe in recipes.items():
            # what cannot be built has failed already
            if all(check.ok for check in checks[name] if check.name == "shards"):
                checks[name] += check_trace(recipe)
    return checks


def check_model(recipe: CommonRecipe) -> Iterator[CheckResult]:
    """Yield the checks of the ranks' models, built at the stage's world size on the meta device.

    Raises:
        UserError: this process cannot build them (see
            :func:`recipes.compat.fake_world.without_gpus`).
    """
    from recipes.compat.fake_world import without_gpus

    without_gpus()
    try:
        shards = build_shards(
            recipe.model,
            recipe.parallelism,
            recipe.sequence_length.value,
            recipe.rope_theta.value,
        )
    # Megatron and torch refuse what they cannot split with any of them
    except (ValueError, AssertionError, RuntimeError) as error:
        found = f"not built: {' '.join(str(error).split())}"
        yield CheckResult("shards", False, found, _expected_parameters(recipe.model))
        return

    yield _check_parameters(recipe, shards)
    yield _check_parameters_on_gpu(recipe, shards)
    yield _check_groups(recipe.parallelism, shards)


def _expected_parameters(model: Size) -> str:
    count = model.parameter_count
    return f"{count.value:,} parameters ({count.origin})"


def _check_parameters(recipe: CommonRecipe, shards: list[Shard]) -> CheckResult:
    """Compare the parameters of all ranks, each counted once, with the recipe's."""
    tp, pp, _, _ = _parallel_sizes(recipe.parallelism)
    whole = build_whole(recipe.model)
    counted: dict[str, int] = {}
    for shard in shards:
        for name, shape in shard.shapes.items():
            counted[name] = math.prod(shape)
            # what is split is split evenly; the rest is the same on every rank
            if shape != whole[name]:
                counted[name] *= tp

    total = sum(counted.values())
    is_complete = set(counted) == set(whole)
    ranks = ", ".join(str(shard.rank) for shard in shards)
    return CheckResult(
        "shards",
        is_complete and total == recipe.model.parameter_count.value,
        f"{total:,} parameters on TP {tp} x PP {pp}, as ranks {ranks} of "
        f"{recipe.parallelism.gpus.value:,} hold them",
        _expected_parameters(recipe.model),
    )


def _check_parameters_on_gpu(recipe: CommonRecipe, shards: list[Shard]) -> CheckResult:
    """Compare the parameters of each built rank with those that the memory's estimate counts."""
    tp, pp, _, _ = _parallel_sizes(recipe.parallelism)
    found = [shard.parameters for shard in shards]
    expected: list[int] = []
    for count in shard_parameters(recipe.model, tp, pp):
        # first and last tensor-parallel rank of each pipeline stage
        expected += [count] * min(tp, 2)
    return CheckResult(
        "parameters on a GPU",
        found == expected,
        f"{_numbers(found)} on these ranks",
        f"{_numbers(expected)}, as the memory's estimate counts",
    )


def _numbers(counts: list[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)


def _check_groups(parallel: Parallelism, shards: list[Shard]) -> CheckResult:
    sizes = _parallel_sizes(parallel)
    found = {shard.groups for shard in shards}
    text = "TP {} PP {} CP {} DP {}"
    return CheckResult(
        "process groups",
        found == {sizes},
        "; ".join(text.format(*groups) for groups in sorted(found)),
        text.format(*sizes),
    )


def _parallel_sizes(parallel: Parallelism) -> tuple[int, int, int, int]:
    """Return TP, PP, CP and DP size."""
    return (
        parallel.tensor_model_parallel_size.value,
        parallel.pipeline_model_parallel_size.value,
        parallel.context_parallel_size.value,
        parallel.data_parallel_size,
    )


@functools.cache
def build_shards(
    model: Size,
    parallel: Parallelism,
    sequence_length: int,
    rope_theta: float,
) -> list[Shard]:
    """Build the first and the last tensor-parallel rank of every pipeline stage, at the last
    data-parallel replica.

    Phases 1 to 4 share parallelism, length and theta, and so are built once.
    """
    tp, pp, _, _ = _parallel_sizes(parallel)
    world_size = parallel.gpus.value
    stage_size = world_size // pp
    shards = []
    for stage in range(pp):
        # Megatron's order of ranks: tensor parallel, context, data, pipeline
        last = (stage + 1) * stage_size - 1
        for rank in sorted({last - tp + 1, last}):
            shard = _build(
                model,
                parallel,
                rank,
                world_size,
                sequence_length,
                rope_theta,
            )
            shards.append(shard)
    return shards


@functools.cache
def build_whole(model: Size) -> Shapes:
    """Return the shapes of the model in one process, with the parallelism of tiny."""
    one_process = resolve("phase1", "tiny").parallelism
    return _build(model, one_process, 0, 1, 4096, 1e4).shapes


def _build(
    model: Size,
    parallel: Parallelism,
    rank: int,
    world_size: int,
    sequence_length: int,
    theta: float,
) -> Shard:
    import torch
    from megatron.core import parallel_state

    from recipes.compat.fake_world import rank_of_world
    from recipes.model.nemo import GraniteConfig

    tp, pp, cp, _ = _parallel_sizes(parallel)
    with rank_of_world(rank, world_size, tp, pp, cp), torch.device("meta"):
        config = GraniteConfig(
            **GraniteConfig.transformer_settings(model),
            seq_length=sequence_length,
            rotary_base=theta,
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            context_parallel_size=cp,
            sequence_parallel=parallel.sequence_parallel.value,
            pipeline_dtype=torch.bfloat16,
            perform_initialization=False,
        )
        built = config.configure_model()

        # a pipeline stage numbers its layers from 0
        stage = parallel_state.get_pipeline_model_parallel_rank()
        first_layer = stage * (config.num_layers // pp)
        shapes = {}
        for name, weight in built.named_parameters():
            shapes[_whole_name(name, first_layer)] = tuple(weight.shape)

        groups = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_context_parallel_world_size(),
            parallel_state.get_data_parallel_world_size(),
        )
        return Shard(rank, shapes, groups)


def _whole_name(name: str, first_layer: int) -> str:
    """Return a pipeline stage's parameter name as the whole model has it."""
    # the last stage's copy of the tied embedding
    if name == "output_layer.weight":
        return "embedding.word_embeddings.weight"
    if not name.startswith("decoder.layers."):
        return name
    decoder, layers, index, rest = name.split(".", 3)
    return f"{decoder}.{layers}.{int(index) + first_layer}.{rest}"
