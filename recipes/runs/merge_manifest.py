"""``merge_manifest.json`` of a merged checkpoint: its parents and how they were merged."""

from dataclasses import dataclass
from pathlib import Path

from recipes.common.json_files import write_record

MERGE_MANIFEST = "merge_manifest.json"


@dataclass(frozen=True)
class MergeParent:
    """A checkpoint that was merged.

    Attributes:
        path: as the user named it.
        kind: ``NeMo checkpoint`` or ``Hugging Face folder``.
        sha256: file -> digest, for the files that tell one checkpoint from another.
        stage, size: of the stage that left it; None where it is no stage's.
        checkpoint: its name in the stage's folder.
        tokens: that the stage had trained on.
    """

    path: str
    kind: str
    sha256: dict[str, str]
    stage: str | None = None
    size: str | None = None
    checkpoint: str | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class MergeManifest:
    """A merge.

    Attributes:
        method: ``linear``, ``slerp`` or ``task``.
        weights: one for each parent.
        parents: the merged checkpoints.
        base: of method ``task``, the ancestor of all parents.
        tensors: number of merged tensors.
        dtypes: their types.
        libraries: name -> version.
        optimizer_state: why there is none; None for a Hugging Face folder, which never has one.
    """

    method: str
    weights: list[float]
    parents: list[MergeParent]
    base: MergeParent | None
    tensors: int
    dtypes: list[str]
    libraries: dict[str, str]
    optimizer_state: str | None = None

    def write(self, folder: Path) -> None:
        """Write the manifest into a checkpoint's folder, whole or not at all."""
        write_record(folder / MERGE_MANIFEST, self)
