"""Checks of data, tokenizer and machine before a stage trains, each with one sentence."""

import os
from collections.abc import Sequence
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import FINGERPRINT_TEXT, TokenizerFolder
from recipes.registry.checks import require_processes
from recipes.registry.resolve import Recipe
from recipes.runs.data_folder import (
    MANIFEST,
    DataManifest,
    check_documents,
    check_packing,
    check_vocabulary,
)
from recipes.runs.stage_manifest import StageManifest, TrainingShard
from recipes.spec.pretraining import PretrainRecipe


def check_data(
    data: Path,
    manifest: DataManifest,
    tokenizer: TokenizerFolder,
    prefixes: Sequence[str],
    recipe: PretrainRecipe,
) -> None:
    """Check that a stage can train on the data.

    Args:
        data: the data folder.
        manifest: of the data folder.
        tokenizer: in the data folder.
        prefixes: of the shards that the stage reads.

    Raises:
        UserError: a tokenizer with ids beyond the model's rows, documents that were packed for
            longer sequences, or too few documents.
    """
    check_vocabulary(tokenizer.folder, tokenizer.vocab_size, recipe)
    check_packing(
        data,
        manifest,
        recipe.mixture_percent,
        recipe.stage,
        recipe.sequence_length.value,
    )
    check_documents(data, manifest, prefixes, recipe.split.value)


def check_processes(recipe: Recipe) -> None:
    """Check that this machine and the number of processes can hold the model.

    Raises:
        UserError: a real size without GPUs, or a number of processes that does not fit the recipe.
    """
    import torch

    if not recipe.model.is_tiny and not torch.cuda.is_available():
        raise UserError(
            f"size {recipe.size} trains on GPUs and this machine has none; run --size tiny, or on "
            f"a cluster"
        )
    require_processes(recipe, int(os.environ.get("WORLD_SIZE", "1")))


def check_data_tokenizer(data: Path, manifest: DataManifest, tokenizer: TokenizerFolder) -> None:
    """Raise UserError where a data folder's tokenizer is not the one that encoded its data."""
    expected = manifest.tokenizer.fingerprint
    if not tokenizer.has_fingerprint(expected):
        raise UserError(
            f"{tokenizer.folder}: this tokenizer has fingerprint {tokenizer.fingerprint[:12]} but "
            f"{data / MANIFEST} was written with {expected[:12]}; put the data's own tokenizer "
            f"back, or prepare the data again"
        )


def check_stage_tokenizer(
    folder: Path, stage: StageManifest, data: Path, tokenizer: TokenizerFolder
) -> None:
    """Raise UserError where a stage was trained with another tokenizer than the data has.

    Args:
        folder: of the stage, or its checkpoint.
        stage: the stage's manifest.
        data: the data folder.
        tokenizer: in the data folder.
    """
    if not tokenizer.has_fingerprint(stage.tokenizer_fingerprint):
        raise UserError(
            f"{folder}: trained with tokenizer {stage.tokenizer_fingerprint[:12]} but {data} has "
            f"{tokenizer.fingerprint[:12]}; name data of the former tokenizer, or another "
            f"--run-dir"
        )


def check_checkpoint_tokenizer(checkpoint: Path, data: Path, tokenizer: TokenizerFolder) -> None:
    """Raise UserError where a checkpoint's own tokenizer is not the one that the data has.

    Args:
        checkpoint: a NeMo 2 checkpoint.
        data: the data folder.
        tokenizer: in the data folder.
    """
    from recipes.model.bridge.to_hf import read_context

    _, folder = read_context(checkpoint / "context")
    difference = TokenizerFolder(folder).difference(tokenizer)
    if difference:
        raise UserError(
            f"{data}: has another tokenizer than {checkpoint}: {difference}; tokenize the data "
            f"with the checkpoint's tokenizer ({folder}), or start from another checkpoint"
        )


def check_same_data(
    folder: Path, former: StageManifest | None, data: Path, shards: dict[str, TrainingShard]
) -> None:
    """Raise UserError where a stage's folder was begun with other shards than it reads now."""
    if former and former.data != shards:
        raise UserError(
            f"{folder}: began on other data than {data} holds now; name the former, or another "
            f"--run-dir"
        )


def check_loader(tokenizer: TokenizerFolder) -> None:
    """Raise UserError where transformers, and so NeMo, gives other ids than the data has."""
    from recipes.model.transformers_model import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    found = loaded.encode(FINGERPRINT_TEXT, add_special_tokens=False)
    end_of_text = tokenizer.end_of_text
    if found != tokenizer.text_ids or loaded.eos_token_id != end_of_text:
        raise UserError(
            f"{tokenizer.folder}: transformers loads this tokenizer with other ids than its "
            f"tokenizer.json has (end of text {loaded.eos_token_id} for {end_of_text}); its "
            f"tokenizer_config.json must name a class that adds no rule, such as "
            f"PreTrainedTokenizerFast"
        )
