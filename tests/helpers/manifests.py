"""Manifests of stages and of prepared data, as short as a test needs them."""

from pathlib import Path
from typing import Any

from recipes.runs.data_folder import DataComponent, DataManifest, DataShard, DataTokenizer
from recipes.runs.stage_manifest import InitialCheckpoint, StageManifest, write_manifest


def stage_manifest(**values: Any) -> StageManifest:
    """Return the manifest of a finished phase1 with other ``values``."""
    defaults: dict[str, Any] = {
        "stage": "phase1",
        "size": "tiny",
        "status": "finished",
        "parent": None,
        "tokens": 99,
        "tokens_before": 0,
        "tokenizer_fingerprint": "0123456789abcdef",
        "initial_state": InitialCheckpoint("random weights"),
        "data": {},
        "checkpoint": "checkpoints/step=00000007",
    }
    return StageManifest(**(defaults | values))


def write_stage_manifest(folder: Path, **values: Any) -> None:
    """Write :func:`stage_manifest` into a stage's folder."""
    write_manifest(folder, stage_manifest(**values))


def data_manifest(**components: dict[str, int]) -> DataManifest:
    """Return a data folder's manifest from component -> prefix -> tokens."""
    return DataManifest(
        {name: data_component(shards) for name, shards in components.items()},
        DataTokenizer("tokenizer", 512, "0123456789abcdef"),
    )


def data_component(tokens: dict[str, int], **values: Any) -> DataComponent:
    """Return a component from prefix -> tokens, with a document in each shard."""
    shards = [
        DataShard(
            prefix=prefix,
            documents=1,
            tokens=count,
            bytes=count,
            bin_sha256=f"{prefix}.bin",
            idx_sha256=f"{prefix}.idx",
        )
        for prefix, count in tokens.items()
    ]
    total = sum(tokens.values())
    return DataComponent(shards, documents=len(shards), tokens=total, bytes=total, **values)
