"""Train one stage in its folder: check, resume, train, record. NeMo is imported only when training begins."""

import importlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import tiny
from data_prep.entropy import blend_entropy
from data_prep.tokenizer import vocab_size
from recipes.spec import PretrainRecipe, UserError, resolve_pretraining
from recipes.training.stage_folder import latest_checkpoint, read_manifest, write_manifest, write_recipe

STAGE_MODULES = {"phase1": "recipes.phase1_general"}


def ready_recipe(stage: str, size: str, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Return the recipe of a stage that can be trained.

    Raises:
        UserError: an unknown stage, size or override, or a stage whose recipe is still to come.
    """
    recipe = resolve_pretraining(stage, size, overrides)
    if recipe.status != "ready":
        raise UserError(f"the recipe of {stage} is still to come; ready now: {', '.join(STAGE_MODULES)}")
    return recipe


def train(stage: str, size: str, run_folder: Path, data: Path, overrides: Sequence[str] = ()) -> None:
    """Train ``stage`` in ``run_folder/stage``; return at once if it is finished, continue if it was interrupted.

    Args:
        stage: a stage whose recipe is ready.
        size: model size.
        run_folder: the folder of the whole run.
        data: a folder of prepared data with its manifest.
        overrides: ``key=value`` as ``granite41 show`` names them.

    Raises:
        UserError: no recipe yet, data that is not there or does not fit, a folder of another recipe or other data.
    """
    recipe = ready_recipe(stage, size, overrides)
    folder = run_folder / stage
    prepared = _read_data(data)
    tokenizer = data / prepared["tokenizer"]["folder"]
    blend = tiny.blend(prepared, {name: percent.value for name, percent in recipe.mixture.items()})
    _check_tokenizer(tokenizer, recipe)
    _check_documents(data, prepared, blend, recipe)
    _check_processes(recipe)
    write_recipe(folder, recipe)
    manifest = read_manifest(folder)
    trained_on = {str(prefix): {"weight": weight, **_hashes(prepared, prefix)} for weight, prefix in blend}
    if manifest and manifest.get("data") != trained_on:
        raise UserError(f"{folder}: began on other data than {data} holds now; name the former, or another --run-dir")
    if manifest.get("status") == "finished":
        print(f"{stage}: finished already, nothing to do ({folder})")
        return
    manifest = {
        "stage": stage,
        "size": size,
        "status": "running",
        "parent": recipe.parent,
        "tokens": recipe.tokens_per_batch.value * recipe.steps.value,
        "tokenizer_fingerprint": prepared["tokenizer"]["fingerprint"],
        "data": trained_on,
        "starts": manifest.get("starts", 0) + 1,
        "seconds": manifest.get("seconds", 0.0),
    }
    if os.environ.get("RANK", "0") == "0":
        write_manifest(folder, manifest)
    started = time.monotonic()
    _fit(stage, size, overrides, folder, data, blend, tokenizer)
    if os.environ.get("RANK", "0") != "0":
        return

    from recipes.training.callbacks import read_metrics

    checkpoint = latest_checkpoint(folder)
    losses = [line["val_loss"] for line in read_metrics(folder / "metrics" / "steps.jsonl") if "val_loss" in line]
    counts = json.loads((data / tiny.UNIGRAM_COUNTS).read_text())
    entropy = blend_entropy(counts, {prefix.name: weight for weight, prefix in blend})
    manifest |= {
        "status": "finished",
        "checkpoint": str(checkpoint.relative_to(folder)) if checkpoint else None,
        "validation_loss": losses[-1],
        "unigram_entropy": entropy,
        "seconds": round(manifest["seconds"] + time.monotonic() - started, 1),
    }
    write_manifest(folder, manifest)


def _fit(
    stage: str,
    size: str,
    overrides: Sequence[str],
    folder: Path,
    data: Path,
    blend: list[tuple[float, Path]],
    tokenizer: Path,
) -> None:
    """Build the stage's ``nemo_run`` recipe and run it in this process."""
    import fiddle
    from nemo.utils import logging

    # NeMo tells everything in folder/logs; the terminal gets the progress lines and what is wrong
    logging.set_verbosity(logging.ERROR)
    recipe = importlib.import_module(STAGE_MODULES[stage]).recipe(
        size,
        list(overrides),
        folder=str(folder),
        data=[part for weight, prefix in blend for part in (weight, str(data / prefix))],
        tokenizer=str(tokenizer),
        index_cache=str(folder / "index"),
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("WORLD_SIZE", "1")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    checkpoint = latest_checkpoint(folder)
    if checkpoint:
        recipe.resume.resume_from_path = str(checkpoint)
    fiddle.build(recipe)()


def _read_data(data: Path) -> dict[str, Any]:
    path = data / tiny.MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not the manifest of prepared data; prepare some with `granite41 data tiny --output {data}`"
        ) from error


def _check_tokenizer(tokenizer: Path, recipe: PretrainRecipe) -> None:
    tokens, rows = vocab_size(tokenizer), recipe.model.vocab_size.value
    if tokens > rows:
        raise UserError(
            f"{tokenizer}: the tokenizer has {tokens:,} tokens but the model's vocabulary {rows:,}; "
            f"use the tokenizer of the model, or set model.vocab_size={math.ceil(tokens / 128) * 128}"
        )


def _check_documents(
    data: Path, prepared: dict[str, Any], blend: list[tuple[float, Path]], recipe: PretrainRecipe
) -> None:
    """Raise where a part of the split would be without a document: Megatron then counts epochs for ever."""
    parts = [float(part) for part in recipe.split.value.split(",")]
    for _, prefix in blend:
        documents = _component(prepared, prefix)["documents"]
        if any(0 < part / sum(parts) * documents < 1 for part in parts[:2]):
            raise UserError(
                f"{data / prefix}: {documents} documents are too few for the split {recipe.split.value} into training "
                f"and validation; prepare more text, or raise the smaller share with split=..."
            )


def _check_processes(recipe: PretrainRecipe) -> None:
    """Raise where this machine, or the number of processes, cannot hold the model as the recipe splits it."""
    import torch

    if recipe.size != "tiny" and not torch.cuda.is_available():
        raise UserError(
            f"size {recipe.size} trains on GPUs and this machine has none; run --size tiny, or on a cluster"
        )
    world, needed = int(os.environ.get("WORLD_SIZE", "1")), model_parallel_size(recipe)
    if world % needed:
        raise UserError(
            f"{world} processes were started, but tensor x pipeline x context parallelism needs multiples of {needed}; "
            f"start as many, or lower parallelism.*_parallel_size"
        )
    sequences = world // needed * recipe.parallelism.micro_batch_size.value
    if recipe.global_batch_size.value % sequences:
        raise UserError(
            f"global_batch_size {recipe.global_batch_size.value} is no multiple of the {sequences} sequences that "
            f"{world // needed} data-parallel ranks take at a time; lower parallelism.micro_batch_size"
        )


def model_parallel_size(recipe: PretrainRecipe) -> int:
    """Return the number of processes that hold one replica of the model."""
    split = recipe.parallelism
    return (
        split.tensor_model_parallel_size.value
        * split.pipeline_model_parallel_size.value
        * split.context_parallel_size.value
    )


def _component(prepared: dict[str, Any], prefix: Path) -> dict[str, Any]:
    return next(c for c in prepared["components"].values() if c["prefix"] == str(prefix))


def _hashes(prepared: dict[str, Any], prefix: Path) -> dict[str, str]:
    component = _component(prepared, prefix)
    return {"bin_sha256": component["bin_sha256"], "idx_sha256": component["idx_sha256"]}
