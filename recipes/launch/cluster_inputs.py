"""Folders that a chain's jobs read on a cluster: checked before submission, and mounted."""

import json
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record
from recipes.runs.chain_request import ChainRequest
from recipes.runs.data_folder import MANIFEST, DataManifest, check_manifest
from recipes.spec.pretraining import PretrainRecipe
from slurm.shell import Shell, last_line

_REMEDY = "assemble the data again with `granite41 data assemble`"


def input_folders(
    shell: Shell,
    request: ChainRequest,
    recipes: Iterable[PretrainRecipe],
) -> list[str]:
    """Return the folders outside the run's that a chain reads, as the cluster's jobs see them.

    Args:
        shell: of the cluster, where the data's manifest is read.
        request: with the cluster's paths.
        recipes: of the stages that are to be trained.

    Raises:
        UserError: the data has no manifest, or cannot serve a recipe.
    """
    folders = named_folders(request)
    if request.data is None:
        return folders
    data = Path(request.data)
    manifest = _read_manifest(shell, data)
    for recipe in recipes:
        check_manifest(data, manifest, recipe)

    # an assembled folder points at the shards of others
    shards = {posixpath.dirname(posixpath.normpath(data / prefix)) for prefix in manifest.shards()}
    return folders + sorted(shards)


def named_folders(request: ChainRequest) -> list[str]:
    """Return the folders that a request names."""
    folders = []
    if request.data:
        folders.append(request.data)
    if request.init:
        init = request.init.removeprefix("hf:")
        # another name is one of the Hub
        if PurePosixPath(init).is_absolute():
            folders.append(init)
    return folders


def _read_manifest(shell: Shell, data: Path) -> DataManifest:
    path = data / MANIFEST
    done = shell.run(["cat", PurePosixPath(path)])
    if done.returncode:
        raise UserError(
            f"--data {data}: holds no readable {MANIFEST}, as prepared data does "
            f"({last_line(done.stderr)}); `granite41 data assemble` prepares it"
        )
    try:
        content = json.loads(done.stdout)
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys, expected a data folder's manifest; {_REMEDY}")
    return parse_record(DataManifest, content, str(path), _REMEDY)
