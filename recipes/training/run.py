"""Train one stage in its folder: check, resume, train, record. NeMo is imported only when training
begins.
"""

import errno
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.common.errors import LockedError, UserError
from recipes.common.tokenizer_files import (
    FINGERPRINT_TEXT,
    fingerprint,
    fingerprint_ids,
    vocab_size,
)
from recipes.registry.checks import require_processes
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.data_folder import (
    MANIFEST,
    UNIGRAM_COUNTS,
    DataManifest,
    DataShard,
    blend,
    check_packing,
    component_weights,
    read_data_manifest,
)
from recipes.runs.stage_folder import latest_checkpoint, locked, write_recipe
from recipes.runs.stage_manifest import (
    RANDOM_WEIGHTS,
    InitialCheckpoint,
    ShardProgress,
    StageManifest,
    TrainingShard,
    read_manifest,
    write_manifest,
)
from recipes.runs.unigram_entropy import blend_entropy
from recipes.spec.pretraining import PretrainRecipe
from recipes.training.handoff import InitialState, initial_state


def train(
    stage: str,
    size: str,
    run_folder: Path,
    data: Path,
    overrides: Sequence[str] = (),
    init: Path | None = None,
) -> None:
    """Train ``stage`` in ``run_folder/stage``; return at once if it is finished, continue if it was
    interrupted.

    A stage that continues does so from its last whole checkpoint, with the losses that it would
    have had anyway. Its manifest, a :class:`~recipes.runs.stage_manifest.StageManifest`, is written
    at each start and end; a signal stops it (see
    :class:`~recipes.training.callbacks.StageCheckpoint`). The run's report is written anew at the
    end of each start.

    The stage starts from the weights of the stage before it, its own learning rate, and no sample
    consumed; it reads each shard on from where the stages before it have stopped.

    Args:
        stage: a stage whose recipe is ready.
        size: model size.
        run_folder: the folder of the whole run.
        data: a folder of prepared data with its manifest.
        overrides: ``key=value`` as ``granite41 show`` names them.
        init: a NeMo checkpoint, or a finished stage's folder, to begin with in place of the stage
            before.

    Raises:
        UserError: no recipe yet, data that is not there or does not fit, a folder of another recipe
            or other data, another tokenizer than the data, the folder or the parent stage has;
            another process that trains in the folder; a full disk; and as
            :func:`handoff.initial_state`.
        SystemExit: a signal stopped the stage.
    """
    recipe = resolve_pretraining(stage, size, overrides)
    folder = run_folder / stage
    prepared = read_data_manifest(data)
    tokenizer = data / prepared.tokenizer.folder
    mixture = {name: percent.value for name, percent in recipe.mixture.items()}
    blended = blend(prepared, mixture)
    shards = prepared.shards()
    _check_vocabulary(tokenizer, recipe)
    check_packing(data, prepared, mixture, stage, recipe.sequence_length.value)
    _check_documents(data, shards, blended, recipe)
    _check_processes(recipe)
    manifest = read_manifest(folder)
    # what a stage has learned is its own; before its first checkpoint it begins again
    continued = manifest is not None and (
        manifest.is_finished or latest_checkpoint(folder) is not None
    )
    state = InitialState() if continued else initial_state(recipe, run_folder, init)
    _check_fingerprints(data, prepared, [(folder, manifest), (state.checkpoint, state.manifest)])
    trained_on = {}
    for weight, path in blended:
        component, shard = shards[str(path)]
        trained_on[str(path)] = TrainingShard(weight, component, shard.bin_sha256, shard.idx_sha256)
    if manifest and manifest.data != trained_on:
        raise UserError(
            f"{folder}: began on other data than {data} holds now; name the former, or another "
            "--run-dir"
        )
    if manifest and manifest.is_finished:
        write_recipe(folder, recipe)
        print(f"{stage}: finished already, nothing to do ({folder})")
        return
    _check_loader(tokenizer)
    # a stage that continues keeps its initial state even if its parent's folder has changed
    if manifest:
        progress = manifest.data_progress_before
    else:
        progress = state.manifest.data_progress if state.manifest else {}
    begun = StageManifest(
        stage=stage,
        size=size,
        status="running",
        parent=recipe.parent,
        tokens=recipe.tokens_per_batch.value * recipe.steps.value,
        tokens_before=state.tokens,
        tokenizer_fingerprint=prepared.tokenizer.fingerprint,
        initial_state=InitialCheckpoint(
            str(state.checkpoint or RANDOM_WEIGHTS), state.optimizer_state
        ),
        data=trained_on,
        data_progress_before=progress,
        num_starts=manifest.num_starts + 1 if manifest else 1,
        seconds=manifest.seconds if manifest else 0.0,
    )
    if manifest and continued:
        begun = replace(
            begun, initial_state=manifest.initial_state, tokens_before=manifest.tokens_before
        )
    shard_states: dict[str, dict[str, Any]] = {}
    for prefix, trained in trained_on.items():
        shard_states[prefix] = {"component": trained.component}
        if trained.bin_sha256 in progress:
            before = progress[trained.bin_sha256]
            shard_states[prefix] |= {"next_document": before.next_document, "epochs": before.epochs}
    words = (stage, size, overrides, folder, data, blended, tokenizer, shard_states, state)
    if os.environ.get("RANK", "0") != "0":
        with _full_disk_told(folder):
            _fit(*words)
        return
    with locked(folder):
        if read_manifest(folder) != manifest:
            raise LockedError(
                f"{folder}: another process trained in this folder until just now; run again to "
                "continue"
            )
        write_recipe(folder, recipe)
        with _recorded(run_folder, folder, begun) as result:
            read, repeats = _fit(*words)

            from recipes.training.callbacks import read_metrics

            checkpoint = latest_checkpoint(folder)
            lines = read_metrics(folder / "metrics" / "steps.jsonl")
            result |= {
                "checkpoint": str(checkpoint.relative_to(folder)) if checkpoint else None,
                "validation_loss": [line["val_loss"] for line in lines if "val_loss" in line][-1],
                "unigram_entropy": _unigram_entropy(data, component_weights(prepared, mixture)),
                "data_progress": progress
                | {
                    trained_on[prefix].bin_sha256: ShardProgress(prefix, **read[prefix])
                    for prefix in read
                },
                "repeated_components": repeats,
            }


@contextmanager
def _recorded(run_folder: Path, folder: Path, begun: StageManifest) -> Iterator[dict[str, Any]]:
    """Write a stage's manifest as ``begun``; at the end how it ended, and the run's report.

    Yields a dict for what the manifest of a finished stage holds beyond ``begun``.
    """
    write_manifest(folder, begun)
    started = time.monotonic()

    def end(**values: Any) -> None:
        seconds = round(begun.seconds + time.monotonic() - started, 1)
        write_manifest(folder, replace(begun, **values, seconds=seconds))

    try:
        with _full_disk_told(folder):
            result: dict[str, Any] = {}
            yield result
            end(status="finished", **result)
    except Exception as error:
        # a full disk may not hold the manifest either
        with suppress(OSError, UserError):
            reason = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            end(status="failed", error=" ".join(reason.split())[:500])
        raise
    except (SystemExit, KeyboardInterrupt):
        with suppress(OSError, UserError):
            end(status="stopped")
        raise
    finally:
        from recipes.reports.run import write_report

        try:
            write_report(run_folder)
        except (OSError, UserError) as error:
            print(f"{run_folder}: no report was written: {error}", flush=True)


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Turn what a full disk leads to into one sentence, and remove the checkpoint that did not fit."""
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error, folder):
            raise
        if os.environ.get("RANK", "0") == "0":
            for marker in (folder / "checkpoints").glob("*-unfinished"):
                shutil.rmtree(
                    marker.with_name(marker.name.removesuffix("-unfinished")), ignore_errors=True
                )
        last = latest_checkpoint(folder)
        raise UserError(
            f"{folder}: no space left on the device, the last whole checkpoint is "
            f"{last.name if last else 'none'}; free some, the same command continues"
        ) from error


def _is_full_disk(error: BaseException | None, folder: Path) -> bool:
    """Whether "no space left" or "quota exceeded" is behind ``error``, which may have come from
    another process.
    """
    if error is None:
        return False
    full = (errno.ENOSPC, errno.EDQUOT)
    if "inline_container" in str(error):
        # torch's writer only says that the bytes did not arrive
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(2**20))
        except OSError as refused:
            return refused.errno in full
    told = any(os.strerror(number) in str(error) for number in full)
    return told or _is_full_disk(error.__cause__ or error.__context__, folder)


def _fit(
    stage: str,
    size: str,
    overrides: Sequence[str],
    folder: Path,
    data: Path,
    blended: list[tuple[float, Path]],
    tokenizer: Path,
    shards: dict[str, dict[str, Any]],
    state: InitialState,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Build the stage's ``nemo_run`` recipe and run it in this process.

    Args:
        shards: prefix -> ``component``, and ``next_document`` and ``epochs`` where earlier stages
            read it.
        state: what the stage begins with, where it has no checkpoint of its own yet.

    Returns:
        Prefix -> ``next_document`` and ``epochs`` after the stage, and component -> epochs where
        any is read again.
    """
    import fiddle
    import nemo_run as run
    from nemo import lightning as nl
    from nemo.utils import logging as nemo_logging

    from recipes.training.pretraining import pretraining_recipe

    # NeMo tells everything in folder/logs; the terminal gets the progress lines and what is wrong
    nemo_logging.set_verbosity(nemo_logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # a log file that does not fit on a full disk is not to hide what is
    logging.raiseExceptions = False
    recipe = pretraining_recipe(
        stage,
        size,
        list(overrides),
        folder=str(folder),
        data=[part for weight, prefix in blended for part in (weight, str(data / prefix))],
        tokenizer=str(tokenizer),
        index_cache=str(folder / "index"),
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("WORLD_SIZE", "1"))
        // int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    recipe.data.shards = {str(data / prefix): shard for prefix, shard in shards.items()}
    checkpoint = latest_checkpoint(folder)
    if checkpoint:
        recipe.resume.resume_from_path = str(checkpoint)
    elif state.checkpoint:
        recipe.resume.restore_config = run.Config(
            nl.RestoreConfig,
            path=str(state.checkpoint),
            load_optim_state=state.optimizer_state == "carry",
        )
        print(
            f"{stage}: begins with {state.checkpoint}, optimizer moments {state.optimizer_state}",
            flush=True,
        )
    pretrain = fiddle.build(recipe)
    pretrain()
    module = pretrain.keywords["data"]
    return {prefix: module.read[str(data / prefix)] for prefix in shards}, module.repeats


def _unigram_entropy(data: Path, weights: dict[str, float]) -> float | None:
    """Return the blend's unigram entropy in nats per token; None where the data has no counts of
    its tokens.
    """
    counts = data / UNIGRAM_COUNTS
    return blend_entropy(json.loads(counts.read_text()), weights) if counts.exists() else None


def _check_vocabulary(tokenizer: Path, recipe: PretrainRecipe) -> None:
    tokens, rows = vocab_size(tokenizer), recipe.model.vocab_size.value
    if tokens > rows:
        raise UserError(
            f"{tokenizer}: the tokenizer has {tokens:,} tokens but the model's vocabulary "
            f"{rows:,}; use the tokenizer of the model, or set "
            f"model.vocab_size={math.ceil(tokens / 128) * 128}"
        )


def _check_fingerprints(
    data: Path,
    prepared: DataManifest,
    manifests: Sequence[tuple[Path | None, StageManifest | None]],
) -> None:
    """Raise where the data was not encoded with its tokenizer, or a stage had another."""
    expected = prepared.tokenizer.fingerprint
    tokenizer = data / prepared.tokenizer.folder
    found = fingerprint(tokenizer)
    if found != expected:
        raise UserError(
            f"{tokenizer}: this tokenizer has fingerprint {found[:12]} but {data / MANIFEST} was "
            f"written with {expected[:12]}; put the data's own tokenizer back, or prepare the data "
            "again"
        )
    for folder, manifest in manifests:
        if manifest and manifest.tokenizer_fingerprint != expected:
            raise UserError(
                f"{folder}: trained with tokenizer {manifest.tokenizer_fingerprint[:12]} but {data} has "
                f"{expected[:12]}; name data of the former tokenizer, or another --run-dir"
            )


def _check_loader(tokenizer: Path) -> None:
    """Raise where transformers, and so NeMo, encodes text to other ids than the data was encoded
    to.
    """
    from transformers import AutoTokenizer

    remedy = "its tokenizer_config.json must name a class that adds no rule, such as PreTrainedTokenizerFast"
    try:
        loaded = AutoTokenizer.from_pretrained(str(tokenizer))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{tokenizer}: transformers cannot load this tokenizer; {remedy}"
        ) from error
    found, expected = (
        fingerprint_ids(loaded.encode(FINGERPRINT_TEXT, add_special_tokens=False)),
        fingerprint(tokenizer),
    )
    if found != expected:
        raise UserError(
            f"{tokenizer}: transformers loads this tokenizer with fingerprint {found[:12]} but its "
            f"tokenizer.json has {expected[:12]}; {remedy}"
        )


def _check_documents(
    data: Path,
    shards: dict[str, tuple[str, DataShard]],
    blended: list[tuple[float, Path]],
    recipe: PretrainRecipe,
) -> None:
    """Raise where a part of the split would be without a document: Megatron then counts epochs for
    ever.
    """
    parts = [float(part) for part in recipe.split.value.split(",")]
    for _, prefix in blended:
        _, shard = shards[str(prefix)]
        documents = shard.documents
        if any(0 < part / sum(parts) * documents < 1 for part in parts[:2]):
            raise UserError(
                f"{data / prefix}: {documents} documents are too few for the split "
                f"{recipe.split.value} into training and validation; prepare more text, or raise "
                "the smaller share with split=..."
            )


def _check_processes(recipe: PretrainRecipe) -> None:
    """Raise where this machine, or the number of processes, cannot hold the model as the recipe
    splits it.
    """
    import torch

    if not recipe.model.is_tiny and not torch.cuda.is_available():
        raise UserError(
            f"size {recipe.size} trains on GPUs and this machine has none; run --size tiny, or on "
            "a cluster"
        )
    require_processes(recipe, int(os.environ.get("WORLD_SIZE", "1")))
