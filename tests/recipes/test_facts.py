"""Every value has an origin, and every published one is that of facts.yaml."""

import importlib.resources
from collections.abc import Iterator

import pytest
import yaml

from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.spec.origin import SOURCES, Sourced
from recipes.spec.parallelism import GPU_MEMORY, PARALLELISM, TOKENS_PER_GPU, USABLE_MEMORY
from recipes.spec.sizes import SIZES
from recipes.spec.tree import COMPUTED, flatten

FACTS = yaml.safe_load(
    importlib.resources.files("recipes").joinpath("facts.yaml").read_text(encoding="utf-8")
)
RECIPES = [(stage, size) for stage in STAGES for size in stage_sizes(stage)]


def fact(path: str) -> object:
    node = FACTS
    for name in path.split("."):
        node = node[int(name)] if isinstance(node, list) else node[name]
    return tuple(node) if isinstance(node, list) else node


def every_leaf() -> Iterator[tuple[str, Sourced]]:
    for name, size in SIZES.items():
        yield from ((f"{name}: {path}", leaf) for path, leaf in flatten(size).items())
    for name, stage in STAGES.items():
        # a table's pending values are computed by the recipe's rules
        yield from (
            (f"{name}: {path}", leaf)
            for path, leaf in flatten(stage).items()
            if leaf is not COMPUTED
        )
    for name, by_gpu_type in PARALLELISM.items():
        yield from (
            (f"{name}: {path}", leaf)
            for path, leaf in flatten(by_gpu_type).items()
            if leaf is not COMPUTED
        )
    yield from ((f"memory of {gpu_type}", leaf) for gpu_type, leaf in GPU_MEMORY.items())
    yield from (("tokens per GPU", TOKENS_PER_GPU), ("usable memory", USABLE_MEMORY))
    for stage, size in RECIPES:
        yield from (
            (f"{stage} {size}: {path}", leaf)
            for path, leaf in flatten(resolve(stage, size)).items()
        )


def test_published_values_are_the_facts() -> None:
    published = [(name, leaf) for name, leaf in every_leaf() if leaf.origin == "published"]
    assert len({leaf.fact for _, leaf in published}) > 100
    for name, leaf in published:
        assert leaf.fact is not None, name
        assert leaf.value == fact(leaf.fact), f"{name} against {leaf.fact}"
        assert leaf.why in SOURCES.values(), name


def test_every_value_says_why() -> None:
    for name, leaf in every_leaf():
        assert leaf.origin in ("published", "derived", "assumed"), name
        assert leaf.why.strip(), name
        assert (leaf.fact is not None) == (leaf.origin == "published"), name


def test_floats_are_floats_and_integers_integers() -> None:
    integers = {
        "tokens",
        "sequence_length",
        "global_batch_size",
        "steps",
        "seed",
        "samples",
        "prompts",
        "schedule.batch",
    }
    floats = {
        "rope_theta",
        "hidden_lr_divisor",
        "kl_beta",
        "schedule.lr_max",
        "schedule.lr_start",
        "schedule.lr_end",
    }
    for stage, size in RECIPES:
        for path, leaf in flatten(resolve(stage, size)).items():
            if path in integers:
                assert type(leaf.value) is int, (stage, size, path)
            if path in floats or path.startswith("mixture."):
                assert type(leaf.value) is float, (stage, size, path)


@pytest.mark.parametrize(
    "path",
    [
        "optimizer.betas",
        "optimizer.weight_decay",
        "optimizer.gradient_clip",
        "optimizer_state",
        "model.initializer_std",
        "tokens_per_batch",
        "schedule.warmup_tokens",
        "seed",
    ],
)
def test_what_is_not_published_is_assumed(path: str) -> None:
    assert flatten(resolve("phase1", "8b"))[path].origin == "assumed"


def test_every_size_has_a_parallelism() -> None:
    assert set(PARALLELISM) == set(SIZES)


@pytest.mark.parametrize("index", range(4))
def test_phases_have_every_published_number(index: int) -> None:
    phase = FACTS["pretraining"]["phases"][index]
    recipe = resolve(f"phase{index + 1}", "8b")
    assert recipe.tokens.value == phase["tokens"]
    assert recipe.sequence_length.value == phase["sequence_length"]
    assert recipe.mixture_percent == phase["mixture"]


@pytest.mark.parametrize("index", range(3))
def test_lce_stages_have_every_published_number(index: int) -> None:
    published = FACTS["pretraining"]["phases"][4]["stages"][index]
    recipe = resolve(published["name"], "8b")
    mixture = published["mixture"]
    if mixture == "same as phase 4":
        mixture = FACTS["pretraining"]["phases"][3]["mixture"]
    assert recipe.sequence_length.value == published["sequence_length"]
    assert recipe.mixture_percent == mixture
    assert stage_sizes(published["name"]) == (*published["sizes"], "tiny")
    assert (recipe.schedule.lr_start.value, recipe.schedule.lr_end.value) == (1e-4, 0)


@pytest.mark.parametrize(
    ("stage", "index"), [("rl_multi_domain", 0), ("rl_rlhf", 1), ("rl_identity", 2), ("rl_math", 3)]
)
def test_rl_stages_have_every_published_number(stage: str, index: int) -> None:
    published = FACTS["rl"]["stages"][index]
    recipe = resolve(stage, "30b")
    assert recipe.prompts.value == published["prompts"]
    assert recipe.schedule.lr(0) == published["learning_rate"]
    assert recipe.kl_beta.value == published["kl_beta"]
    assert recipe.steps.value == published.get("steps", published["prompts"] / 64)
