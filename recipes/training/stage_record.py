"""A stage's manifest over one start of it: running, then finished, failed or stopped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.runs.stage_manifest import StageManifest, write_manifest

_MOST_ERROR_CHARACTERS = 500


class StageRecord:
    """Writes the manifest of a stage that runs.

    Args:
        folder: of the stage.
        manifest: as it is at the start, with the seconds of earlier starts.
    """

    def __init__(self, folder: Path, manifest: StageManifest) -> None:
        self._folder = folder
        self._manifest = manifest

    def begin(self) -> None:
        """Write that the stage runs; it still says so after a kill."""
        self._started = time.monotonic()
        write_manifest(self._folder, self._manifest)

    def finish(self, **results: Any) -> None:
        """Write that the stage is finished, with the fields that only a finished one has."""
        self._end(status="finished", **results)

    def fail(self, error: Exception) -> None:
        """Write why the stage failed."""
        reason = str(error)
        if not isinstance(error, UserError):
            reason = f"{type(error).__name__}: {error}"
        one_line = " ".join(reason.split())
        self._end(status="failed", error=one_line[:_MOST_ERROR_CHARACTERS])

    def stop(self) -> None:
        """Write that a signal stopped the stage."""
        self._end(status="stopped")

    def _end(self, **values: Any) -> None:
        seconds = self._manifest.seconds + time.monotonic() - self._started
        ended = replace(self._manifest, **values, seconds=round(seconds, 1))
        write_manifest(self._folder, ended)


@contextmanager
def failures_recorded(record: StageRecord) -> Iterator[None]:
    """Write the manifest of a stage that fails or is stopped within the block."""
    # a full disk may not hold the manifest either
    unwritten = suppress(OSError, UserError)
    try:
        yield
    except Exception as error:
        with unwritten:
            record.fail(error)
        raise
    except (SystemExit, KeyboardInterrupt):
        with unwritten:
            record.stop()
        raise
