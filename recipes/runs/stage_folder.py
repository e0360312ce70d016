"""A stage's folder ``RUNS/<run>/<stage>/``: recipe.yaml, manifest.json, checkpoints. Plain files, no torch."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recipes.common.errors import LockedError, UserError
from recipes.common.files import disk_full_as_user_error, write_text
from recipes.common.versions import commit, versions
from recipes.registry.resolve import Recipe
from recipes.spec.tree import flatten

RECIPE = "recipe.yaml"
MANIFEST = "manifest.json"
LOCK = "lock"
# what a stage of long-context extension leaves: the merge of its own checkpoint with the one that it began with
MERGED = "merged"
CHECKPOINTS_KEPT = 3
RECORDED_LIBRARIES = (
    "torch",
    "megatron-core",
    "nemo-toolkit",
    "nemo-run",
    "transformers",
    "safetensors",
)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``: every value with its origin, the code's commit and the libraries' versions.

    How the model is split over processes may change from one start to the next: a checkpoint loads into any split.

    Raises:
        UserError: the folder already holds this stage with another value.
    """
    leaves = flatten(recipe)
    path = folder / RECIPE
    if path.exists():
        check_recipe(folder, recipe)
        return
    content = {
        "stage": recipe.stage,
        "size": recipe.size,
        "code": commit(),
        "libraries": versions(RECORDED_LIBRARIES),
        "values": {
            name: {"value": _plain(leaf.value), "origin": leaf.origin, "why": leaf.why}
            for name, leaf in leaves.items()
        },
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, width=120))


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise UserError where a stage's ``recipe.yaml`` has other values than ``recipe``; the split may differ."""
    path = folder / RECIPE
    values = yaml.safe_load(path.read_text())["values"]
    for name, leaf in flatten(recipe).items():
        if name.startswith("parallelism."):
            continue
        if name not in values or values[name]["value"] != _plain(leaf.value):
            was = values[name]["value"] if name in values else "absent"
            raise UserError(
                f"{path}: {name} was {was} when this run began and is {leaf.value} now; "
                f"run with the former settings, or in another --run-dir"
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return ``manifest.json``, or an empty dict when the stage has not begun.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON, expected what a stage wrote; remove it to run the stage again"
        ) from error


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json``; a stage is finished when its status says so."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder/checkpoints``, or None.

    NeMo marks a checkpoint that is being written with a file ``<name>-unfinished`` beside it; Megatron writes
    ``metadata.json`` last.
    """
    checkpoints = [
        path
        for path in (folder / "checkpoints").glob("step=*")
        if (path / "weights" / "metadata.json").exists()
        and (path / "context").is_dir()
        and not path.with_name(path.name + "-unfinished").exists()
    ]
    return max(checkpoints, default=None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of the folder that a stage trains in; a file system without locks is told of.

    The lock is of the kind that belongs to a process: the kernel frees it when this one ends, however it ends, and
    processes that this one forks do not hold it.

    Raises:
        LockedError: another process trains in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+b", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                holder = file.read().decode() or "another process"
                raise LockedError(
                    f"{folder}: {holder} trains in this folder; wait until it has ended, or stop it, or name another "
                    f"--run-dir"
                ) from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            print(
                f"{folder}: this file system has no locks ({os.strerror(error.errno)}), so nothing keeps a second "
                f"process from training here",
                flush=True,
            )
        with disk_full_as_user_error(folder):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def finished_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished stage, or an empty dict when ``folder`` is no stage's folder.

    Raises:
        UserError: the stage has not finished, or the file is damaged.
    """
    manifest = read_manifest(folder)
    if manifest and manifest["status"] != "finished":
        raise UserError(
            f"{folder}: the stage is {manifest['status']}, not finished; `granite41 run` continues it"
        )
    return manifest


def final_checkpoint(folder: Path) -> Path | None:
    """Return what a finished stage leaves: its merge, or where none was made the checkpoint at its end.

    None when ``folder`` is no stage's folder.

    Raises:
        UserError: the stage has not finished.
    """
    manifest = finished_manifest(folder)
    if not manifest:
        return None
    return folder / MERGED if (folder / MERGED).exists() else folder / manifest["checkpoint"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
