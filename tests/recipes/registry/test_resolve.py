"""Overrides: what they change, what follows them and every way in which they can be wrong."""

from dataclasses import replace

import pytest

from recipes.common.errors import UserError
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.spec.tree import flatten


def test_an_override_is_marked() -> None:
    leaf = flatten(resolve("phase1", "8b", ["schedule.lr_max=0.01"]))["schedule.lr_max"]
    assert (leaf.value, leaf.origin) == (0.01, "override")
    assert "schedule.lr_max=0.01" in leaf.why


def test_without_overrides_nothing_is_marked() -> None:
    assert all(leaf.origin != "override" for leaf in flatten(resolve("phase1", "8b")).values())


def test_a_value_that_no_rule_computes_is_named(monkeypatch) -> None:
    phase1 = STAGES["phase1"]
    rules = tuple(rule for rule in phase1.rules if rule.path != "steps")
    monkeypatch.setitem(STAGES, "phase1", replace(phase1, rules=rules))
    with pytest.raises(RuntimeError, match="stage phase1: no rule computes steps"):
        resolve("phase1", "8b")


def test_steps_follow_tokens_and_batch() -> None:
    assert resolve("phase1", "tiny", ["tokens=500000"]).steps.value == 61
    recipe = resolve("phase1", "8b", ["global_batch_size=512"])
    assert (recipe.tokens_per_batch.value, recipe.steps.value) == (512 * 4096, 4768372)
    assert recipe.schedule.batch.value == 512


@pytest.mark.parametrize("split", ["abc", "0,0,0", "1000,0,0", "900,100", "900,-50,50"])
def test_a_split_that_is_none(split) -> None:
    with pytest.raises(UserError, match="expected three whole numbers such as 950,50,0"):
        resolve("phase1", "tiny", [f"split='{split}'"])


def test_phase3_starts_where_phase2_ends_with_the_same_batch() -> None:
    override = ["global_batch_size=512"]
    phase2, phase3 = resolve("phase2", "8b", override), resolve("phase3", "8b", override)
    assert phase3.schedule.lr(0) == phase2.schedule.lr(phase2.tokens.value)
    assert phase3.schedule.lr(0) < resolve("phase3", "8b").schedule.lr(0)
    assert resolve("phase3", "tiny", override).schedule.lr(0) == resolve(
        "phase3", "8b"
    ).schedule.lr(0)


def test_batch_follows_sequence_length() -> None:
    recipe = resolve("lce_32k", "8b", ["sequence_length=16384"])
    assert (recipe.global_batch_size.value, recipe.tokens_per_batch.value) == (256, 4194304)


def test_decay_follows_tokens() -> None:
    recipe = resolve("phase4", "8b", ["tokens=1000000000"])
    assert recipe.schedule.tokens.value == 10**9
    assert recipe.schedule.lr(10**9) == 0


def test_an_overridden_derived_value_stays() -> None:
    recipe = resolve("phase4", "8b", ["steps=7", "schedule.tokens=12"])
    assert (recipe.steps.value, recipe.schedule.tokens.value) == (7, 12)


def test_tiny_intervals_and_warmup_follow_tokens() -> None:
    recipe = resolve("phase1", "tiny", ["tokens=1000000"])
    assert recipe.checkpoint_every_tokens.value == recipe.schedule.warmup_tokens.value == 100_000
    assert resolve("phase2", "tiny", ["tokens=1000000"]).schedule.warmup_tokens.value == 0


def test_tiny_keeps_the_full_size_curve_whatever_its_batch() -> None:
    assert resolve("phase1", "tiny", ["global_batch_size=64"]).schedule.batch.value == 1024


def test_a_published_value_follows_an_overridden_dimension() -> None:
    recipe = resolve("phase1", "8b", ["model.num_layers=8", "model.hidden_size=1024"])
    assert recipe.model.parameter_count.origin == "derived"
    assert recipe.model.parameter_count.value < 8380551168 / 10
    assert (recipe.model.logits_scaling.value, recipe.hidden_lr_divisor.value) == (4, 4)


def test_sft_and_rl_follow() -> None:
    sft = resolve("sft", "8b", ["steps=100", "warmup_fraction=0.1"])
    assert sft.schedule.tokens.value == 100 * 256 * 16384
    assert sft.schedule.warmup_tokens.value == 10 * 256 * 16384
    rl = resolve("rl_identity", "8b", ["prompts=640"])
    assert (rl.steps.value, rl.steps.origin) == (10, "derived")


def test_sequence_parallel_follows_tensor_parallelism() -> None:
    assert not resolve(
        "phase1", "8b", ["parallelism.tensor_model_parallel_size=1"]
    ).parallelism.sequence_parallel.value
    assert resolve(
        "phase1", "3b", ["parallelism.tensor_model_parallel_size=2"]
    ).parallelism.sequence_parallel.value


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("optimizer.betas=[0.9,0.99]", "optimizer.betas", (0.9, 0.99)),
        ("optimizer.gradient_clip=2", "optimizer.gradient_clip", 2.0),
        ("tokens=2e12", "tokens", 2 * 10**12),
        ("precision=32", "precision", "32"),
        ("optimizer_state=carry", "optimizer_state", "carry"),
        ("document_masking=none", "document_masking", "none"),
        ("parallelism.sequence_parallel=false", "parallelism.sequence_parallel", False),
        ("split=980,10,10", "split", "980,10,10"),
        ("seed=0", "seed", 0),
        ("schedule.b=-0.5", "schedule.b", -0.5),
    ],
)
def test_types(override: str, path: str, expected: object) -> None:
    value = flatten(resolve("phase1", "8b", [override]))[path].value
    assert value == expected
    assert type(value) is type(expected)


def test_a_mixture_can_be_changed_as_a_whole() -> None:
    recipe = resolve("phase1", "8b", ["mixture.code=25", "mixture.common_crawl=54"])
    assert recipe.mixture["code"].value == 25.0


def test_a_mixture_takes_a_component_of_the_users_own() -> None:
    recipe = resolve("phase1", "8b", ["mixture.mine=10", "mixture.common_crawl=49"])
    assert (recipe.mixture["mine"].value, recipe.mixture["mine"].origin) == (10.0, "override")
