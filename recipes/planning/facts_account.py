"""Every published fact accounted for: used by a recipe or other code, checked by a test, or quoted.

What recipes use is found in their values, which name their fact; the rest is stated in
``facts_account.yaml``.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.spec.origin import Sourced
from recipes.spec.parallelism import GPU_TYPE
from recipes.spec.sizes import SIZES
from recipes.spec.tree import flatten

FACTS = Path(__file__).parents[1] / "facts.yaml"
ACCOUNT = Path(__file__).with_name("facts_account.yaml")
Status = Literal["recipe", "used", "checked", "quoted"]
STATUSES: tuple[Status, ...] = ("recipe", "used", "checked", "quoted")


@dataclass(frozen=True)
class FactUse:
    """A fact and what becomes of it.

    Attributes:
        path: in ``facts.yaml``.
        status: whether a recipe's value is it, other code uses it, a test checks it, or it is only
            quoted.
        where: the recipe's value, the file, or the reason why it is only quoted.
    """

    path: str
    value: Any
    status: Status
    where: str


def account() -> list[FactUse]:
    """Return every fact with its use, in the order of ``facts.yaml``.

    Raises:
        KeyError: a fact has none; add it to ``facts_account.yaml``.
    """
    used = recipe_uses()
    stated = read_account()
    found = []
    for path, value in fact_leaves(_read(FACTS)):
        # a recipe's value names its fact itself
        where = _of_recipe(path, used)
        if where:
            found.append(FactUse(path, value, "recipe", where))
            continue
        prefix = stated_prefix(path, stated)
        if prefix is None:
            raise KeyError(f"facts.yaml: {path} has no account; add it to {ACCOUNT.name}")
        status, text = next(iter(stated[prefix].items()))
        if "note" in stated[prefix]:
            text = f"{text}: {stated[prefix]['note']}"
        found.append(FactUse(path, value, status, text))  # type: ignore[arg-type]
    return found


def fact_leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each fact by its dot path; a list of values is one fact."""
    if isinstance(node, dict):
        children = [(str(name), child) for name, child in node.items()]
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        children = [(str(position), child) for position, child in enumerate(node)]
    else:
        yield path, node
        return
    for name, child in children:
        yield from fact_leaves(child, f"{path}.{name}" if path else name)


@functools.cache
def recipe_uses() -> dict[str, str]:
    """Return fact -> the first value of a size or recipe that is it, or is derived from it."""
    uses: dict[str, str] = {}
    for name, leaf in _leaves():
        if leaf.fact:
            uses.setdefault(leaf.fact, name)
        if leaf.origin == "derived":
            # the arithmetic starts with the fact that it is about
            fact = re.match(r"([\w.]+): ", leaf.why)
            if fact:
                uses.setdefault(fact[1], name)
    return uses


def _leaves() -> Iterator[tuple[str, Sourced[Any]]]:
    for size in SIZES.values():
        for path, leaf in flatten(size).items():
            yield f"size {size.name}, {path}", leaf
    for stage in STAGES:
        for size_name in stage_sizes(stage):
            for path, leaf in flatten(resolve(stage, size_name)).items():
                yield f"{stage}, {path}", leaf
        yield f"{stage}, sizes", STAGES[stage].sizes
    yield "parallelism.gpu_type", GPU_TYPE


def _of_recipe(path: str, used: dict[str, str]) -> str | None:
    """Return the value of a recipe that is this fact, one that holds it, or a part of it."""
    for fact, where in used.items():
        if path == fact or path.startswith(f"{fact}.") or fact.startswith(f"{path}."):
            return where
    return None


def stated_prefix(path: str, stated: dict[str, Any]) -> str | None:
    """Return the longest prefix of ``path`` that the account states, None without one."""
    names = path.split(".")
    for length in range(len(names), 0, -1):
        prefix = ".".join(names[:length])
        if prefix in stated:
            return prefix
    return None


def read_account() -> dict[str, dict[str, str]]:
    """Return the stated accounts: prefix -> one of the statuses with its text, and a note."""
    return _read(ACCOUNT)


def _read(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))
