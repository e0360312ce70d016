"""The checkpoints that are merged: opened, compared and described."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TOKENIZER, TokenizerFolder
from recipes.merging.hf import HFParent
from recipes.model.bridge.mapping import CONFIG_FIELDS
from recipes.model_folder.config import CONFIG
from recipes.runs.merge_manifest import MergeParent
from recipes.runs.stage_folder import MERGED, final_checkpoint
from recipes.runs.stage_manifest import read_manifest

if TYPE_CHECKING:
    from recipes.merging.nemo import NemoParent

log = logging.getLogger(__name__)

_TYPES = (torch.bfloat16, torch.float16, torch.float32)
# a long-context stage changes the first two and no tensor's shape; the third is of use to random
# weights only
MAY_DIFFER = ("rope_theta", "max_position_embeddings", "initializer_range")

Parent: TypeAlias = "HFParent | NemoParent"


def open_parent(path: Path) -> Parent:
    """Open a Hugging Face folder, a NeMo 2 checkpoint or a finished stage's folder.

    Raises:
        UserError: none of these, or damaged.
    """
    path = final_checkpoint(path) or path
    if (path / "weights").is_dir():
        # takes two seconds to import
        from recipes.merging.nemo import NemoParent

        return NemoParent(path)
    if (path / CONFIG).is_file():
        return HFParent(path)
    raise UserError(
        f"{path}: not a checkpoint; name a Hugging Face folder, a NeMo 2 checkpoint or a finished "
        "stage's folder"
    )


def check_alike(paths: Sequence[Path], parents: Sequence[Parent]) -> None:
    """Check that the tensors of ``parents`` can be added.

    Raises:
        UserError: they are of two kinds, their configs differ beyond :data:`MAY_DIFFER`, or a
            tensor's type or the tokenizer does.
    """
    first = parents[0]
    # all parents are compared with the first, which gives the merge its config and types
    for path, other in zip(paths[1:], parents[1:], strict=True):
        _check_pair(paths[0], first, path, other)
    _check_tokenizers(paths, parents)

    for weight in first.weights:
        dtype = first.dtype(weight)
        if dtype not in _TYPES:
            raise UserError(
                f"{paths[0]}: {weight.key} is {dtype}, but only bf16, fp16 and fp32 are merged"
            )


def _check_tokenizers(paths: Sequence[Path], parents: Sequence[Parent]) -> None:
    """Check that the parents number tokens alike, else rows of different tokens would be added."""
    first: TokenizerFolder | None = None
    for path, parent in zip(paths, parents, strict=True):
        if not (parent.tokenizer_folder / TOKENIZER).exists():
            log.warning(
                "%s: has no %s, so nobody knows whether it numbers tokens as the other parents do",
                path,
                TOKENIZER,
            )
            continue
        tokenizer = TokenizerFolder(parent.tokenizer_folder)
        first = first or tokenizer
        difference = first.difference(tokenizer)
        if difference:
            raise UserError(
                f"{path}: has another tokenizer than {first.folder}: {difference}; merge models "
                f"that number tokens alike"
            )


def _check_pair(
    first_path: Path,
    first: Parent,
    path: Path,
    other: Parent,
) -> None:
    if other.kind != first.kind:
        raise UserError(
            f"{path} is a {other.kind}, but {first_path} a {first.kind}; export or import one so "
            f"that both are the same"
        )

    differences = []
    for field in CONFIG_FIELDS:
        value = getattr(other.config, field)
        expected = getattr(first.config, field)
        if field not in MAY_DIFFER and value != expected:
            differences.append(f"{field} {value} for {expected}")
    if differences:
        raise UserError(
            f"{path}: another model than {first_path}: {', '.join(differences)}; merge sizes with "
            f"themselves"
        )

    for weight in first.weights:
        dtype = other.dtype(weight)
        first_dtype = first.dtype(weight)
        if dtype != first_dtype:
            raise UserError(
                f"{path}: {weight.key} is {dtype}, but {first_dtype} in {first_path}; convert one "
                f"to the other's type"
            )


def describe(path: Path, parent: Parent) -> MergeParent:
    """Return a parent for the manifest, with its digests and the stage that it belongs to."""
    location = parent.location
    described = MergeParent(
        str(path),
        parent.kind,
        parent.digests(),
    )
    # STAGE/checkpoints/NAME, STAGE/merged and STAGE/hf
    parent_folder = location.absolute().parent
    for folder in (parent_folder.parent, parent_folder):
        manifest = read_manifest(folder)
        if manifest:
            break
    else:
        return described

    name = None
    tokens = None
    if location.parent.name == "checkpoints":
        name = location.name

    # the stage's tokens are those of its last checkpoint, which is also the one that is exported
    if manifest.is_finished and manifest.checkpoint:
        final = Path(manifest.checkpoint).name
        if location.name in ("hf", MERGED, final):
            name = final
            tokens = manifest.tokens

    # a stage that is merged exports its merge
    is_export = location.name == "hf"
    if location.name == MERGED or (is_export and (folder / MERGED).exists()):
        name = MERGED
    return replace(
        described,
        stage=manifest.stage,
        size=manifest.size,
        checkpoint=name,
        tokens=tokens,
    )
