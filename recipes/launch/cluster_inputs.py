"""Folders that a chain's jobs read on a cluster: checked before submission, and mounted."""

import json
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record
from recipes.registry.resolve import Recipe
from recipes.runs.chain_request import ChainRequest
from recipes.runs.data_folder import MANIFEST, DataManifest, check_manifest
from recipes.runs.packed_manifest import PackedManifest, check_packed
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.sft import SftRecipe
from slurm.shell import Shell, last_line

Manifest = TypeVar("Manifest", DataManifest, PackedManifest)


def input_folders(
    shell: Shell,
    request: ChainRequest,
    recipes: Iterable[Recipe],
) -> list[str]:
    """Return the folders outside the run's that a chain reads, as the cluster's jobs see them.

    Args:
        shell: of the cluster, where the manifests of data and packed conversations are read.
        request: with the cluster's paths.
        recipes: of the stages that are to be trained.

    Raises:
        UserError: one of them has no manifest, or cannot serve a recipe.
    """
    folders = named_folders(request)
    trained = list(recipes)
    if request.packed:
        packed = Path(request.packed)
        packed_manifest = _read_manifest(shell, packed, PackedManifest, "--packed", "pack")
        for recipe in trained:
            if isinstance(recipe, SftRecipe):
                check_packed(packed, packed_manifest, recipe)
    if request.data is None:
        return folders
    data = Path(request.data)
    manifest = _read_manifest(shell, data, DataManifest, "--data", "assemble")
    for recipe in trained:
        if isinstance(recipe, PretrainRecipe):
            check_manifest(data, manifest, recipe)

    # an assembled folder points at the shards of others
    shards = {posixpath.dirname(posixpath.normpath(data / prefix)) for prefix in manifest.shards()}
    return folders + sorted(shards)


def named_folders(request: ChainRequest) -> list[str]:
    """Return the folders that a request names."""
    named = (request.data, request.packed, request.prompts)
    folders = [folder for folder in named if folder]
    if request.reward_model and PurePosixPath(request.reward_model).is_absolute():
        folders.append(request.reward_model)
    if request.init:
        init = request.init.removeprefix("hf:")
        # another name is one of the Hub
        if PurePosixPath(init).is_absolute():
            folders.append(init)
    return folders


def _read_manifest(
    shell: Shell, folder: Path, record: type[Manifest], option: str, command: str
) -> Manifest:
    """Return the manifest in a folder of the cluster.

    Args:
        record: its type.
        option: that names the folder.
        command: of ``granite41 data``, which writes such a folder.
    """
    path = folder / MANIFEST
    done = shell.run(["cat", PurePosixPath(path)])
    if done.returncode:
        raise UserError(
            f"{option} {folder}: holds no readable {MANIFEST}, as a folder of "
            f"`granite41 data {command}` does ({last_line(done.stderr)}); name such a folder"
        )
    remedy = f"write the folder again with `granite41 data {command}`"
    try:
        content = json.loads(done.stdout)
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys, expected a manifest; {remedy}")
    return parse_record(record, content, str(path), remedy)
