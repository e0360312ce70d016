"""Files and folders that appear whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.common.errors import UserError


@contextmanager
def disk_full_as_user_error(target: Path, kept: str = "nothing was kept") -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a :class:`UserError`.

    Args:
        target: what is written, for the message.
        kept: what is kept of it, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{target}: no space left on the device, {kept}; free some, run again"
            ) from error
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file; rename it to ``path``, or remove it on a failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.name}.",
        suffix=".partial",
        dir=path.parent,
    )
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_full_as_user_error(path):
            yield temporary
        # mkstemp's file is for its owner alone
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``: a reader sees the old file or the new one, never a part."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to ``path``, or remove it on a failure.

    Raises:
        UserError: ``path`` exists already and is not an empty folder.
    """
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty_folder:
        raise UserError(
            f"{path}: exists already and would be overwritten; remove it or name another output"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(
            prefix=f".{path.name}.",
            suffix=".partial",
            dir=path.parent,
        )
    )
    try:
        with disk_full_as_user_error(path):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_space(output: Path, needed: int) -> None:
    """Raise UserError unless ``needed`` bytes are free where ``output`` will be."""
    # the output's own folder may not exist yet
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{parent}: needs {needed / 1e9:.2f} GB but has {free / 1e9:.2f} GB free; "
            f"free some or name another output"
        )


def _umask() -> int:
    # it can only be read by setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
