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
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.recipe import Parallelism
from recipes.spec.sizes import Size

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shard:
    """What one rank holds: parameter name in the whole model -> shape; ``groups`` is TP, PP, CP and
    DP size.
    """

    rank: int
    shapes: Shapes
    groups: tuple[int, int, int, int]

    @property
    def parameters(self) -> int:
        """Parameters on this rank."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def check_stages(
    size: str, stage: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, list[CheckResult]]:
    """Check a stage, or all stages of pre-training and long-context extension that ``size`` has.

    Args:
        size: model size.
        stage: one stage; None for all.
        overrides: ``key=value`` as ``granite41 show`` names them, for every stage that is checked.

    Returns:
        Stage -> its checks.

    Raises:
        UserError: an unknown size, stage or key, a stage of another kind, a malformed override.
    """
    recipes = resolve_chain(size, stage, overrides)
    numbers = check_numbers(recipes)
    return {name: [*numbers[name], *check_model(recipe)] for name, recipe in recipes.items()}


def check_model(recipe: PretrainRecipe) -> Iterator[CheckResult]:
    """Yield the checks of the ranks' models, built at the stage's world size on the meta device.

    Raises:
        UserError: this process cannot build them (see
            :func:`recipes.compat.fake_world.without_gpus`).
    """
    from recipes.compat.fake_world import without_gpus

    without_gpus()
    split = recipe.parallelism
    tensor, pipeline = (
        split.tensor_model_parallel_size.value,
        split.pipeline_model_parallel_size.value,
    )
    expected_parameters = recipe.model.parameter_count.value
    expected = f"{expected_parameters:,} parameters ({recipe.model.parameter_count.origin})"
    try:
        shards = build_shards(
            recipe.model, split, recipe.sequence_length.value, recipe.rope_theta.value
        )
    # Megatron and torch refuse what they cannot split with any of them
    except (ValueError, AssertionError, RuntimeError) as error:
        yield CheckResult("shards", False, f"not built: {' '.join(str(error).split())}", expected)
        return
    whole = build_whole(recipe.model)
    counted: dict[str, int] = {}
    for shard in shards:
        for name, shape in shard.shapes.items():
            is_split = shape != whole[name]
            counted[name] = math.prod(shape) * (tensor if is_split else 1)
    total = sum(counted.values())
    ranks = ", ".join(str(shard.rank) for shard in shards)
    yield CheckResult(
        "shards",
        total == expected_parameters and set(counted) == set(whole),
        f"{total:,} parameters on TP {tensor} x PP {pipeline}, as ranks {ranks} of "
        f"{split.gpus.value:,} hold them",
        expected,
    )
    held = [shard.parameters for shard in shards]
    # first and last tensor-parallel rank of each pipeline stage
    by_stage = [
        count
        for count in shard_parameters(recipe.model, tensor, pipeline)
        for _ in range(min(tensor, 2))
    ]
    yield CheckResult(
        "parameters on a GPU",
        held == by_stage,
        f"{', '.join(f'{count:,}' for count in held)} on these ranks",
        f"{', '.join(f'{count:,}' for count in by_stage)}, as the memory's estimate counts",
    )
    sizes = (tensor, pipeline, split.context_parallel_size.value, split.data_parallel_size)
    found = {shard.groups for shard in shards}
    yield CheckResult(
        "process groups",
        found == {sizes},
        "; ".join("TP {} PP {} CP {} DP {}".format(*groups) for groups in sorted(found)),
        "TP {} PP {} CP {} DP {}".format(*sizes),
    )


@functools.cache
def build_shards(
    model: Size, split: Parallelism, sequence_length: int, rope_theta: float
) -> list[Shard]:
    """Build the first and the last tensor-parallel rank of every pipeline stage, at the last
    data-parallel replica.

    Phases 1 to 4 share split, length and theta, and so are built once.
    """
    tensor, pipeline = (
        split.tensor_model_parallel_size.value,
        split.pipeline_model_parallel_size.value,
    )
    world_size = split.gpus.value
    stage_size = world_size // pipeline
    shards = []
    for stage in range(pipeline):
        # Megatron's order of ranks: tensor parallel, context, data, pipeline
        last = (stage + 1) * stage_size - 1
        for rank in sorted({last - tensor + 1, last}):
            shards.append(_build(model, split, rank, world_size, sequence_length, rope_theta))
    return shards


@functools.cache
def build_whole(model: Size) -> Shapes:
    """Return the shapes of the model in one process, with the parallelism of tiny."""
    one_process = resolve("phase1", "tiny").parallelism
    return _build(model, one_process, 0, 1, 4096, 1e4).shapes


def _build(
    model: Size, split: Parallelism, rank: int, world_size: int, sequence_length: int, theta: float
) -> Shard:
    import torch
    from megatron.core import parallel_state

    from recipes.compat.fake_world import rank_of_world
    from recipes.model.nemo import GraniteConfig

    tensor, pipeline = (
        split.tensor_model_parallel_size.value,
        split.pipeline_model_parallel_size.value,
    )
    context = split.context_parallel_size.value
    with rank_of_world(rank, world_size, tensor, pipeline, context):
        config = GraniteConfig(
            **GraniteConfig.transformer_settings(model),
            seq_length=sequence_length,
            rotary_base=theta,
            tensor_model_parallel_size=tensor,
            pipeline_model_parallel_size=pipeline,
            context_parallel_size=context,
            sequence_parallel=split.sequence_parallel.value,
            pipeline_dtype=torch.bfloat16,
            perform_initialization=False,
        )
        built = config.configure_model()
        offset = parallel_state.get_pipeline_model_parallel_rank() * (config.num_layers // pipeline)
        return Shard(
            rank=rank,
            shapes={
                _whole_name(name, offset): tuple(weight.shape)
                for name, weight in built.named_parameters()
            },
            groups=(
                parallel_state.get_tensor_model_parallel_world_size(),
                parallel_state.get_pipeline_model_parallel_world_size(),
                parallel_state.get_context_parallel_world_size(),
                parallel_state.get_data_parallel_world_size(),
            ),
        )


def _whole_name(name: str, offset: int) -> str:
    """Return a pipeline stage's parameter name as the whole model has it."""
    # the last stage's copy of the tied embedding
    if name == "output_layer.weight":
        return "embedding.word_embeddings.weight"
    if not name.startswith("decoder.layers."):
        return name
    decoder, layers, index, rest = name.split(".", 3)
    return f"{decoder}.{layers}.{int(index) + offset}.{rest}"
