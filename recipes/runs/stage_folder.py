"""A stage's folder ``RUNS/<run>/<stage>/``: recipe.yaml, manifest.json, checkpoints."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.locks import file_lock
from recipes.common.versions import commit, versions
from recipes.registry.resolve import Recipe, resolve
from recipes.runs.stage_manifest import StageManifest, read_manifest
from recipes.spec.tree import flatten

RECIPE = "recipe.yaml"
LOCK = "lock"
# the merge that ends a stage of long-context extension, of its own checkpoint and its initial one
MERGED = "merged"
CHECKPOINTS = "checkpoints"
CHECKPOINTS_KEPT = 3

# bytes of a parameter; a checkpoint has bf16 weights, fp32 weights and two moments
CHECKPOINT_BYTES = 2 + 4 + 4 + 4
MERGE_BYTES = 2
EXPORT_BYTES = 2
# that a trained stage leaves; one checkpoint more exists while it is written
STAGE_BYTES = CHECKPOINT_BYTES * (CHECKPOINTS_KEPT + 1) + MERGE_BYTES + EXPORT_BYTES
RECORDED_LIBRARIES = (
    "torch",
    "megatron-core",
    "nemo-toolkit",
    "nemo-run",
    "transformers",
    "safetensors",
)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``: every value with its origin, the code's commit, libraries' versions.

    Raises:
        UserError: the folder already holds this stage with another value, or a damaged recipe.
    """
    path = folder / RECIPE
    if path.exists():
        check_recipe(folder, recipe)
        return

    values = {
        name: {"value": _plain(leaf.value), "origin": leaf.origin, "why": leaf.why}
        for name, leaf in flatten(recipe).items()
    }
    content = {
        "stage": recipe.stage,
        "size": recipe.size,
        "code": commit(),
        "libraries": versions(RECORDED_LIBRARIES),
        "values": values,
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, width=120))


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Compare a stage's ``recipe.yaml`` with ``recipe``.

    Parallelism may differ.

    Raises:
        UserError: a value differs, or the file is missing or damaged.
    """
    path = folder / RECIPE
    values = read_recipe(folder).values
    for name, leaf in flatten(recipe).items():
        # a checkpoint loads into any number of processes
        if name.startswith("parallelism."):
            continue
        recorded = values.get(name, "absent")
        if recorded != _plain(leaf.value):
            raise UserError(
                f"{path}: {name} was {recorded} when this run began and is {leaf.value} now; "
                f"run with the former settings, or in another --run-dir"
            )


@dataclass(frozen=True)
class RecordedRecipe:
    """A stage's ``recipe.yaml``.

    Attributes:
        code: commit of this project; None where it was not known.
        size: of the model, as it is written.
        values: dot path -> value.
    """

    code: str | None
    size: str
    values: dict[str, Any]


def read_recipe(folder: Path) -> RecordedRecipe:
    """Return the ``recipe.yaml`` of a stage's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / RECIPE
    remedy = "restore it, or name another --run-dir"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); {remedy}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not valid YAML ({reason}); {remedy}") from error

    # every value is an object, of which only the value itself is compared
    values = content.get("values") if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise UserError(f"{path}: has no mapping 'values'; {remedy}")
    for name, entry in values.items():
        if not isinstance(entry, dict) or "value" not in entry:
            raise UserError(f"{path}: key 'values.{name}' has no 'value'; {remedy}")
    plain_values = {name: entry["value"] for name, entry in values.items()}
    return RecordedRecipe(content.get("code"), str(content.get("size")), plain_values)


def resolve_recorded(folder: Path) -> Recipe:
    """Return the stage's recipe with the schedule and the mixture of its ``recipe.yaml``.

    Raises:
        UserError: the file is missing or damaged.
    """
    recorded = read_recipe(folder)
    try:
        overrides = []
        for name in flatten(resolve(folder.name, recorded.size)):
            if name.startswith(("schedule.", "mixture.")):
                overrides.append(f"{name}={recorded.values[name]}")
        recipe = resolve(folder.name, recorded.size, overrides, validate=False)
        # numbers that do not fit together fail here and not in a chart
        for tokens in (0, 1):
            recipe.schedule.lr(tokens)
    except (UserError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder / RECIPE}: is damaged ({reason}); restore it, or name another --run-dir"
        ) from error
    return recipe


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder/checkpoints``, or None.

    NeMo marks a checkpoint that is being written with a file ``<name>-unfinished``; Megatron writes
    ``metadata.json`` last.
    """
    # the marks of a whole checkpoint, as NeMo and Megatron leave them
    checkpoints = [
        path
        for path in (folder / CHECKPOINTS).glob("step=*")
        if (path / "weights" / "metadata.json").exists()
        and (path / "context").is_dir()
        and not path.with_name(path.name + "-unfinished").exists()
    ]
    return max(checkpoints, default=None)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep every other process out of the folder that a stage trains in.

    Raises:
        LockedError: another process trains in the folder.
    """
    return file_lock(folder / LOCK, "trains in this folder")


def finished_manifest(folder: Path) -> StageManifest | None:
    """Return the manifest of a finished stage, or None when ``folder`` is no stage's folder.

    Raises:
        UserError: the stage has not finished, or the manifest is damaged.
    """
    manifest = read_manifest(folder)
    if manifest and not manifest.is_finished:
        raise UserError(
            f"{folder}: the stage is {manifest.status}, not finished; `granite41 run` continues it"
        )
    return manifest


def final_checkpoint(folder: Path) -> Path | None:
    """Return what a finished stage leaves: its merge, or without one the checkpoint at its end.

    None when ``folder`` is no stage's folder.

    Raises:
        UserError: the stage has not finished.
    """
    manifest = finished_manifest(folder)
    if manifest is None:
        return None
    merged = folder / MERGED
    return merged if merged.exists() else folder / str(manifest.checkpoint)


# YAML has no tuples
def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
