"""A recipe as a tree of frozen dataclasses and dicts whose leaves are :class:`Sourced`, addressed by dot paths."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, TypeVar

from recipes.spec.origin import Sourced, derived

Tree = TypeVar("Tree")

# stands in a table for a value that a rule needs_gpu
COMPUTED: Sourced[Any] = derived(0, "")


@dataclasses.dataclass(frozen=True)
class Rule(Generic[Tree]):
    """How the leaf at ``path`` follows from others.

    A derived leaf always follows; a published or assumed one does so when the user has overridden one of ``inputs``.
    """

    path: str
    inputs: tuple[str, ...]
    compute: Callable[[Tree], Sourced[Any]]


def flatten(tree: object, prefix: str = "") -> dict[str, Sourced[Any]]:
    """Return every :class:`Sourced` leaf of ``tree`` by its dot path, in the order of the fields, branches last."""
    if isinstance(tree, Sourced):
        return {prefix: tree}
    if isinstance(tree, dict):
        children = list(tree.items())
    elif dataclasses.is_dataclass(tree):
        children = [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    else:
        return {}
    children.sort(key=lambda child: not isinstance(child[1], Sourced))
    return {
        path: leaf
        for name, child in children
        for path, leaf in flatten(child, f"{prefix}.{name}" if prefix else name).items()
    }


def get_leaf(tree: Any, path: str) -> Sourced[Any]:
    """Return the leaf at ``path``."""
    for name in path.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def replace_leaf(tree: Tree, path: str, leaf: Sourced[Any]) -> Tree:
    """Return a copy of ``tree`` in which ``leaf`` stands at ``path``."""
    name, _, rest = path.partition(".")
    if isinstance(tree, dict):
        return {**tree, name: replace_leaf(tree[name], rest, leaf) if rest else leaf}  # type: ignore[return-value]
    child = replace_leaf(getattr(tree, name), rest, leaf) if rest else leaf
    return dataclasses.replace(tree, **{name: child})  # type: ignore[type-var]


def apply_rules(tree: Tree, rules: Iterable[Rule[Tree]], overridden: Collection[str] = ()) -> Tree:
    """Apply ``rules`` in order to ``tree``, leaving what the user has ``overridden`` alone."""
    for rule in rules:
        if rule.path in overridden:
            continue
        if get_leaf(tree, rule.path).origin == "derived" or any(
            path in overridden for path in rule.inputs
        ):
            tree = replace_leaf(tree, rule.path, rule.compute(tree))
    return tree
