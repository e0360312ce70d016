"""Files opened for reading, decompressed; what is wrong with a file is one sentence."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from recipes.common.errors import UserError

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
_BLOCK = 1 << 17  # compressed bytes that are read at a time
_BUFFER = 1 << 20


def is_compressed(name: str) -> bool:
    """Whether a file of this name is decompressed when it is read."""
    return name.lower().endswith(SUFFIXES)


def open_file(file: Path) -> BinaryIO:
    """Open a file for reading, decompressed if its suffix is one of :data:`SUFFIXES`."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        return file.open("rb")
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstandardFile(file), _BUFFER))
    # a Python may be built without one of them
    if suffix == ".gz":
        import gzip

        return cast(BinaryIO, gzip.open(file))
    if suffix == ".xz":
        import lzma

        return cast(BinaryIO, lzma.open(file))
    import bz2

    return cast(BinaryIO, bz2.open(file))


@contextmanager
def file_errors_as_user_error(name: str) -> Iterator[None]:
    """Turn what readers raise about a truncated or damaged file into a :class:`UserError`."""
    import lzma

    try:
        yield
    except UserError:
        raise
    except EOFError as error:
        raise UserError(
            f"{name}: is truncated, expected a complete file; fetch it again"
        ) from error
    except (zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{name}: is damaged ({error}); fetch it again") from error
    except (OSError, ValueError) as error:
        # with a number it is the system's; readers raise without one
        if isinstance(error, OSError) and error.errno:
            where = error.filename or name
            reason = os.strerror(error.errno)
            raise UserError(f"{where}: cannot be read ({reason}); check it") from error
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: is truncated or damaged ({lines[0][:100]}); fetch it again"
        ) from error


class _ZstandardFile(io.RawIOBase):
    """A .zst file, decompressed; unlike zstandard's own reader it raises where it is truncated."""

    def __init__(self, file: Path) -> None:
        import zstandard

        self._file = file.open("rb")
        # --long archives of up to 2 GiB windows are common for text
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame = self._decompressor.decompressobj()
        self._frame_started = False
        self._error = zstandard.ZstdError
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # a block of a frame may yield nothing yet
        while not self._pending:
            block = self._next_block()
            if not block:
                return 0
            self._frame_started = True
            try:
                self._pending = self._frame.decompress(block)
            except self._error as error:
                raise ValueError(str(error)) from error

        # as much as fits; the rest is for the next call
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _next_block(self) -> bytes:
        """Return compressed bytes, of the last block or of the file; none at its end.

        Raises:
            EOFError: the file ends within a frame.
        """
        block = b""
        # a file may hold several frames: what was read beyond one's end is the next one's start
        if self._frame.eof:
            block = self._frame.unused_data
            self._frame = self._decompressor.decompressobj()
            self._frame_started = False
        block = block or self._file.read(_BLOCK)
        if not block and self._frame_started:
            raise EOFError(f"{self._file.name}: ends within a frame")
        return block

    def close(self) -> None:
        self._file.close()
        super().close()
