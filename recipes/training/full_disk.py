"""A full disk during training: one sentence, and no half-written checkpoint left."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.common.errors import UserError
from recipes.runs.stage_folder import latest_checkpoint

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_as_user_error(folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one sentence; remove the checkpoint that did not fit.

    Args:
        folder: of the stage that is trained.
    """
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error, folder):
            raise
        if is_first_rank():
            remove_unfinished(folder / "checkpoints")
        last = latest_checkpoint(folder)
        raise UserError(
            f"{folder}: no space left on the device, the last whole checkpoint is "
            f"{last.name if last else 'none'}; free some, the same command continues"
        ) from error


def is_first_rank() -> bool:
    """Whether this process is the first of those that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def remove_unfinished(checkpoints: Path) -> None:
    """Remove the checkpoints that were not written to their end."""
    for marker in checkpoints.glob("*-unfinished"):
        checkpoint = marker.with_name(marker.name.removesuffix("-unfinished"))
        shutil.rmtree(checkpoint, ignore_errors=True)
        marker.unlink()


def _is_full_disk(error: BaseException | None, folder: Path) -> bool:
    """Whether "no space left" or "quota exceeded" caused ``error``.

    The cause may have been raised in another process, so that only its words are left.
    """
    while error is not None:
        message = str(error)
        # torch's writer only says that the bytes did not arrive
        if "inline_container" in message and not _can_write(folder):
            return True
        if any(os.strerror(number) in message for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _can_write(folder: Path) -> bool:
    """Whether the disk of ``folder`` takes another MiB."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        return error.errno not in _FULL
    return True
