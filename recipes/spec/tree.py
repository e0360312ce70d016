"""A recipe as a tree of frozen dataclasses and dicts with :class:`Sourced` leaves at dot paths."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, NoReturn, TypeVar

from recipes.spec.origin import Sourced

Tree = TypeVar("Tree")


class _Computed(Sourced[Any]):
    """The placeholder of a value that a rule computes."""

    def __init__(self) -> None:
        # the base class is frozen
        vars(self).update(origin="derived", why="", fact=None)

    @property
    def value(self) -> NoReturn:
        """Raise :class:`RuntimeError`: no rule has computed the value."""
        raise RuntimeError(
            "a value is read that no rule has computed; write it into the stage's table, or add a "
            "rule for it to the stage's rules"
        )

    def __repr__(self) -> str:
        return "COMPUTED"

    # there is one of it, and the base class's methods read the value
    __eq__ = object.__eq__
    __hash__ = object.__hash__


COMPUTED: Sourced[Any] = _Computed()


@dataclasses.dataclass(frozen=True)
class Rule(Generic[Tree]):
    """How one leaf follows from others.

    A derived leaf always follows; a published or assumed one does so when the user has overridden
    one of the inputs.

    Attributes:
        path: of the leaf that follows.
        inputs: paths of the leaves that it follows from.
        compute: from the tree to the leaf.
        published_sizes_only: a size that is scaled down keeps the value of the published size.
    """

    path: str
    inputs: tuple[str, ...]
    compute: Callable[[Tree], Sourced[Any]]
    published_sizes_only: bool = False


def flatten(tree: object, prefix: str = "") -> dict[str, Sourced[Any]]:
    """Return every leaf of ``tree`` by its dot path, in the order of the fields, branches last."""
    if isinstance(tree, Sourced):
        return {prefix: tree}
    if isinstance(tree, dict):
        children = list(tree.items())
    elif dataclasses.is_dataclass(tree):
        children = [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    else:
        return {}
    children.sort(key=lambda child: not isinstance(child[1], Sourced))

    leaves = {}
    for name, child in children:
        leaves.update(flatten(child, f"{prefix}.{name}" if prefix else name))
    return leaves


def get_leaf(tree: Any, path: str) -> Sourced[Any]:
    """Return the leaf at ``path``."""
    for name in path.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def replace_leaf(tree: Tree, path: str, leaf: Sourced[Any]) -> Tree:
    """Return a copy of ``tree`` with ``leaf`` at ``path``."""
    name, _, rest = path.partition(".")
    if isinstance(tree, dict):
        child = replace_leaf(tree[name], rest, leaf) if rest else leaf
        return {**tree, name: child}  # type: ignore[return-value]
    child = replace_leaf(getattr(tree, name), rest, leaf) if rest else leaf
    return dataclasses.replace(tree, **{name: child})  # type: ignore[type-var]


def apply_rules(tree: Tree, rules: Iterable[Rule[Tree]], overridden: Collection[str] = ()) -> Tree:
    """Apply ``rules`` in order to ``tree``, except to the leaves that the user has overridden."""
    for rule in rules:
        if rule.path in overridden:
            continue
        is_derived = get_leaf(tree, rule.path).origin == "derived"
        if is_derived or any(path in overridden for path in rule.inputs):
            tree = replace_leaf(tree, rule.path, rule.compute(tree))
    return tree
