"""Trees of sourced values: placeholders, paths and rules."""

import dataclasses

import pytest

from recipes.spec.origin import Sourced, assumed, derived
from recipes.spec.tree import COMPUTED, Rule, apply_rules, flatten, get_leaf, replace_leaf


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Sourced[float]


@dataclasses.dataclass(frozen=True)
class Tree:
    inner: Inner
    tokens: Sourced[int]
    steps: Sourced[int]
    mixture: dict[str, Sourced[float]]


TREE = Tree(
    inner=Inner(assumed(0.1, "a test's")),
    tokens=assumed(100, "a test's"),
    steps=COMPUTED,
    mixture={"code": assumed(40.0, "a test's"), "math": assumed(60.0, "a test's")},
)
STEPS = Rule(
    "steps", ("tokens",), lambda tree: derived(tree.tokens.value // 10, "a tenth of the tokens")
)


def test_an_unfilled_value_raises_when_it_is_read() -> None:
    with pytest.raises(RuntimeError, match="a value is read that no rule has computed"):
        _ = TREE.steps.value


def test_a_placeholder_can_be_compared_hashed_and_shown_without_its_value() -> None:
    assert TREE.steps == COMPUTED
    assert derived(0, "") != COMPUTED
    assert COMPUTED in {COMPUTED}
    assert "steps=COMPUTED" in repr(TREE)


def test_leaves_come_in_the_order_of_the_fields_and_branches_last() -> None:
    assert list(flatten(TREE)) == ["tokens", "steps", "inner.rate", "mixture.code", "mixture.math"]


def test_a_leaf_is_read_and_replaced_at_its_path() -> None:
    leaf = assumed(0.2, "another")
    for path in ("inner.rate", "mixture.code"):
        changed = replace_leaf(TREE, path, leaf)
        assert get_leaf(changed, path) is leaf
        assert get_leaf(TREE, path) is not leaf


def test_a_rule_fills_a_placeholder_and_follows_its_inputs_only() -> None:
    filled = apply_rules(TREE, [STEPS])
    assert filled.steps.value == 10
    assert apply_rules(TREE, [STEPS], {"steps"}).steps is COMPUTED

    chosen = replace_leaf(filled, "steps", assumed(7, "chosen"))
    assert apply_rules(chosen, [STEPS], {"inner.rate"}).steps.value == 7
    assert apply_rules(chosen, [STEPS], {"tokens"}).steps.value == 10
