"""A lock on a file that ends with the process that holds it, however that process ends."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from recipes.common.errors import LockedError
from recipes.common.files import disk_full_as_user_error

log = logging.getLogger(__name__)

_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

_held: set[FileIO] = set()


@contextmanager
def file_lock(file: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold ``file``'s lock; where the file system has no locks, warn and go without.

    Nobody else gets it meanwhile, be it another process or another caller in this one. Processes
    that this one forks do not hold it, and the kernel frees it at its end.

    Args:
        file: is created next to what it protects, and names its holder.
        what: what its holder does, as in ``trains in this folder``.
        shared: several may hold it at a time, but nobody who takes it alone.

    Raises:
        LockedError: it is held already.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as stream:
        _acquire(stream, file.parent, what, shared)
        # a forked child closes its copy
        _held.add(stream)
        try:
            with disk_full_as_user_error(file.parent):
                stream.truncate(0)
                if not shared:
                    stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            _held.discard(stream)
            # now, though a process that is being forked may still have a copy of the file open
            if not stream.closed:
                with suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_UN)


def _acquire(stream: FileIO, folder: Path, what: str, shared: bool) -> None:
    # flock, as fcntl's own locks do not hold between threads, and end when any copy is closed
    mode = fcntl.LOCK_EX
    if shared:
        mode = fcntl.LOCK_SH
    try:
        fcntl.flock(stream, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            stream.seek(0)
            holder = stream.read().decode(errors="replace") or "another process"
            raise LockedError(
                f"{folder}: {holder} {what}; wait until it has ended, or stop it, "
                f"or name another folder"
            ) from error
        if error.errno not in _NO_LOCKS:
            raise
        reason = os.strerror(error.errno)
        log.warning(
            "%s: no locks here (%s), so nothing keeps a second process out",
            folder,
            reason,
        )


def _close_inherited_locks() -> None:
    """Close a forked child's copies of the files, as a lock lasts until its last copy is closed."""
    for stream in _held:
        stream.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)
