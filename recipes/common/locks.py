"""A lock on a file that ends with the process that holds it, however that process ends."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.common.errors import LockedError
from recipes.common.files import disk_full_as_user_error

log = logging.getLogger(__name__)

_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def file_lock(file: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold ``file``'s lock; where the file system has no locks, warn and go without.

    The lock belongs to this process: processes that it forks do not hold it, and the kernel frees it at its end.

    Args:
        file: is created beside what it protects, and names its holder.
        what: what its holder does, as in ``trains in this folder``.
        shared: several processes may hold it at a time, but none that asks for it alone.

    Raises:
        LockedError: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with file.open("a+b", buffering=0) as stream:
        try:
            fcntl.lockf(stream, mode | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                stream.seek(0)
                holder = stream.read().decode(errors="replace") or "another process"
                raise LockedError(
                    f"{file.parent}: {holder} {what}; wait until it has ended, or stop it, or name another folder"
                ) from error
            if error.errno not in _NO_LOCKS:
                raise
            reason = os.strerror(error.errno)
            log.warning(
                "%s: no locks here (%s), so nothing keeps a second process out", file.parent, reason
            )
        if not shared:
            with disk_full_as_user_error(file.parent):
                stream.truncate(0)
                stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
