"""Rooms and arrows: what may import what, and that no files or packages import each other in a
circle.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("recipes", "data_prep", "evaluation", "slurm")

# room -> the rooms that it may import; every room may import itself
ARROWS = {
    "recipes.common": (),
    "recipes.spec": ("recipes.common",),
    "recipes": ("recipes.common", "recipes.spec"),  # the stage tables
    "recipes.registry": ("recipes.common", "recipes.spec", "recipes"),
    "recipes.runs": ("recipes.common", "recipes.spec", "recipes.registry"),
    "recipes.model_folder": ("recipes.common",),
    "recipes.compat": ("recipes.common", "recipes.spec"),
    "recipes.planning": ("recipes.common", "recipes.spec", "recipes.registry", "recipes.runs"),
}
PLAIN = (
    "recipes.common",
    "recipes.spec",
    "recipes.registry",
    "recipes.runs",
    "recipes.model_folder",
)
ARROWS |= {
    # apart from the rest of alignment: what prepares prompts checks their gold answers with it
    "recipes.alignment.rewards": PLAIN,
    "data_prep": (*PLAIN, "recipes.alignment.rewards"),
    "slurm": (*PLAIN, "recipes.compat"),
    "evaluation": (*PLAIN, "recipes.compat"),
    "recipes.model": (*PLAIN, "recipes.compat"),
    "recipes.merging": (*PLAIN, "recipes.model"),
    "recipes.training": (*PLAIN, "recipes.compat", "recipes.model"),
    "recipes.alignment": (
        *PLAIN,
        "recipes.alignment.rewards",
        "recipes.compat",
        "recipes.model",
        "recipes.training",
        "evaluation",
    ),
    "recipes.reports": (*PLAIN, "evaluation"),
    "recipes.launch": (
        *PLAIN,
        "recipes.compat",
        "recipes.alignment",
        "recipes.reports",
        "data_prep",
        "evaluation",
        "slurm",
    ),
    "recipes.cli": tuple(
        room for room in ("recipes.launch", "recipes.reports", "recipes.model", "recipes.merging")
    ),
}
ARROWS["recipes.cli"] += (
    *PLAIN,
    "recipes.planning",
    "recipes.compat",
    "recipes.training",
    "recipes.alignment",
    "data_prep",
    "evaluation",
    "slurm",
)


def modules() -> dict[str, Path]:
    """Return module name -> file."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Yield every module of the project that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES)


IMPORTS = {name: sorted(set(imports(path)) - {name}) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """Return the longest room that holds ``module``."""
    return max(
        (room for room in ARROWS if module == room or module.startswith(f"{room}.")), key=len
    )


def without_a_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_no_arrow_points_upward() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if room_of(other) != room_of(name) and room_of(other) not in ARROWS[room_of(name)]
    ]
    assert wrong == []


def test_the_allowed_arrows_have_no_circle() -> None:
    without_a_circle({room: set(others) for room, others in ARROWS.items()})


def test_no_files_import_each_other_in_a_circle() -> None:
    without_a_circle({name: set(others) for name, others in IMPORTS.items()})


def test_packages_hold_no_code_in_their_init() -> None:
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert all(isinstance(node, ast.Expr) for node in body), (
                f"{name} holds code in __init__.py"
            )
