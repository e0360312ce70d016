"""The reference policy's checkpoint, which is the stage's start and must stay what it was."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recipes.common.errors import UserError
from recipes.runs.stage_manifest import ReferencePolicy, StageManifest


def reference_policy(checkpoint: Path) -> ReferencePolicy:
    """Return a checkpoint as a manifest names it, with the SHA-256 of its weights.

    Of the names and contents of all files in ``weights/``, the optimizer's state among them.

    Raises:
        UserError: they cannot be read.
    """
    weights = checkpoint / "weights"
    try:
        files = sorted(path for path in weights.rglob("*") if path.is_file())
        # hashlib gives way to other threads while it reads
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(_digest, files))
    except OSError as error:
        raise UserError(
            f"{weights}: cannot be read ({error.strerror}); the reference policy of the stage is "
            f"there, restore it"
        ) from error
    if not files:
        raise UserError(
            f"{weights}: holds no weights; the reference policy of the stage was there, restore it"
        )
    names = [str(path.relative_to(weights)) for path in files]
    lines = [f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True)]
    return ReferencePolicy(str(checkpoint), hashlib.sha256("".join(lines).encode()).hexdigest())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_same_reference(folder: Path, former: StageManifest, found: ReferencePolicy) -> None:
    """Raise UserError unless a stage that continues has the reference that it began with.

    Args:
        folder: of the stage.
        former: its manifest.
        found: the checkpoint that the manifest names, as it is now.
    """
    if former.reference is None or former.reference.sha256 != found.sha256:
        raise UserError(
            f"{found.checkpoint}: its weights are not those that {folder} began with and compares "
            f"the policy with; restore them, or start again in another --run-dir"
        )
