"""Work cut into shards: each is a pure function of its inputs and index, done once, whole or not at all.

An output folder holds ``plan.json`` (which parts make which shard, and the settings), and for every finished shard its
files and, written last, ``shard-NNNNN.json``, its manifest. A run that was killed goes on with the shards that have no
manifest. Every shard may be done by another process or machine, as in a Slurm job array.
"""

import fcntl
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.documents import Part, size_of, split_inputs
from recipes.common.errors import UserError
from recipes.common.files import disk_full_as_user_error, write_text

PLAN = "plan.json"
SHARD_BYTES = 32 * 2**20
MOST_SHARDS = 1000

Work = Callable[[list[Part], Path, str], dict[str, Any]]
"""``work(parts, folder, name)`` writes files called ``name.*`` to ``folder`` and returns the shard's manifest."""


def plan(inputs: Sequence[str], wanted: int | None = None) -> list[list[Part]]:
    """Cut inputs into shards, as :func:`cut`, with parts small enough for that.

    Raises:
        UserError: as :func:`data_prep.documents.split_inputs`.
    """
    size = size_of(inputs)
    return cut(split_inputs(inputs, max(1, math.ceil(size / (wanted or _default(size))))), wanted)


def cut(parts: Sequence[Part], wanted: int | None = None) -> list[list[Part]]:
    """Group consecutive parts into at most ``wanted`` shards of nearly equal bytes.

    Without ``wanted`` there is one for every 32 MiB of input, but at most a thousand.
    """
    # how large a Hub data set's files are is not known: each counts as one shard's worth
    sizes = [part.bytes or SHARD_BYTES for part in parts]
    wanted = wanted or _default(sum(sizes))
    groups: list[list[Part]] = [[] for _ in range(wanted)]
    before = 0
    for part, size in zip(parts, sizes, strict=True):
        groups[int((before + size / 2) / sum(sizes) * wanted)].append(part)
        before += size
    return [group for group in groups if group]


def _default(size: int) -> int:
    return max(1, min(MOST_SHARDS, math.ceil(size / SHARD_BYTES)))


def shard_name(index: int) -> str:
    """Return a shard's name, such as ``shard-00007``."""
    return f"shard-{index:05d}"


def manifests(output: Path) -> list[dict[str, Any]] | None:
    """Return the manifests of all shards of ``output``'s plan, in order, or None while one is missing."""
    plan = _read(output / PLAN)
    found = (
        [_read(output / f"{shard_name(index)}.json") for index in range(len(plan["shards"]))]
        if plan
        else [None]
    )
    return None if None in found else found  # type: ignore[return-value]


def check_output(output: Path) -> None:
    """Raise :class:`UserError` unless ``output`` is a folder that is new, empty or begun by :func:`run`."""
    if output.exists() and not output.is_dir():
        raise UserError(
            f"{output}: is a file, expected a folder to write to; name another --output"
        )
    if (
        output.exists()
        and not (output / PLAN).exists()
        and any(not item.name.startswith(".") for item in output.iterdir())
    ):
        raise UserError(
            f"{output}: holds other files, expected a new, empty or begun folder; name another --output"
        )


def begin(output: Path, shards: list[list[Part]], settings: dict[str, Any]) -> None:
    """Make ``output`` with its plan and do no shard; :func:`run` goes on from there.

    For work that has more to do before its shards. Raises what :func:`run` does about the folder.
    """
    with disk_full_as_user_error(output), _alone(output, None):
        _keep_plan(output, shards, settings)


def run(
    output: Path,
    shards: list[list[Part]],
    settings: dict[str, Any],
    work: Work,
    *,
    workers: int = 1,
    only: int | None = None,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> None:
    """Do the shards that ``output`` does not hold yet, or only shard number ``only``.

    Args:
        output: the folder; created, or continued when its plan is the same.
        shards: of :func:`cut`.
        settings: everything else that decides what the shards hold; any JSON.
        work: a picklable function; files that it leaves when it raises are removed.
        workers: processes; with 1 the work is done in this one.
        only: index of one shard, as in an array job.
        say: receives a line when a shard is finished.
        warn: receives the sentences under ``notes`` in a shard's manifest.

    Raises:
        UserError: of ``work``; another plan in ``output``; another process at work there; no space left; a worker died.
    """
    if only is not None and not 0 <= only < len(shards):
        raise UserError(
            f"shard {only}: there are {len(shards)}, expected 0 to {len(shards) - 1}; choose one of them"
        )
    with disk_full_as_user_error(output, "finished shards are kept"), _alone(output, only):
        _keep_plan(output, shards, settings)
        wanted = range(len(shards)) if only is None else [only]
        todo = [index for index in wanted if not _finished(output, index)]
        told = _Progress(shards, len(wanted), todo, say, warn)
        if workers == 1 or len(todo) <= 1:
            for index in todo:
                told.finished(index, _do(output, index, shards[index], work))
            return
        # fresh interpreters: a fork would copy the threads' locks of libraries that the caller has loaded
        pool = ProcessPoolExecutor(min(workers, len(todo)), multiprocessing.get_context("spawn"))
        try:
            futures = {
                pool.submit(_do, output, index, shards[index], work): index for index in todo
            }
            for future in as_completed(futures):
                told.finished(futures[future], future.result())
        except BrokenProcessPool as error:
            raise UserError(
                f"{output}: a worker process died, perhaps for lack of memory; finished shards are kept, run again "
                f"with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _do(output: Path, index: int, parts: list[Part], work: Work) -> dict[str, Any]:
    """Do one shard in a folder of its own, move its files to ``output``, then write its manifest."""
    name = shard_name(index)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=output))
    try:
        with disk_full_as_user_error(output, "finished shards are kept"):
            manifest = {"index": index, **work(parts, folder, name)}
            manifest["file_bytes"] = {
                file.name: file.stat().st_size for file in sorted(folder.iterdir())
            }
            last = folder / f"{name}.json"
            last.write_text(
                json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            for file in sorted(folder.iterdir(), key=lambda file: file == last):
                file.replace(output / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


class _Progress:
    """A line per finished shard: what it holds, how fast it went, and when the rest will be done."""

    def __init__(
        self,
        shards: list[list[Part]],
        total: int,
        todo: list[int],
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.sizes = [sum(part.bytes for part in parts) for parts in shards]
        self.say, self.warn, self.total, self.done = say, warn, total, total - len(todo)
        self.bytes_left = sum(self.sizes[index] for index in todo)
        self.bytes_done, self.start = 0, time.monotonic()
        if self.done:
            say(f"{self.done} of {total} shards are finished already")

    def finished(self, index: int, manifest: dict[str, Any]) -> None:
        for note in manifest.get("notes", ()):
            self.warn(note)
        self.done += 1
        self.bytes_done += self.sizes[index]
        self.bytes_left -= self.sizes[index]
        seconds = max(1e-9, time.monotonic() - self.start)
        rate = self.bytes_done / seconds
        left = f", {self.bytes_left / rate:.0f} s left" if rate and self.bytes_left else ""
        counts = ", ".join(
            f"{manifest[key]:,} {key}" for key in ("documents", "tokens") if key in manifest
        )
        self.say(
            f"{shard_name(index)}, {self.done}/{self.total}: {counts} ({rate / 1e6:.1f} MB/s of input{left})"
        )


def _finished(output: Path, index: int) -> bool:
    """Whether the shard's manifest is there and so are its files, as long as it says."""
    manifest = _read(output / f"{shard_name(index)}.json")
    if manifest is None:
        return False
    files = [(output / name, size) for name, size in manifest.get("file_bytes", {}).items()]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def _keep_plan(output: Path, shards: list[list[Part]], settings: dict[str, Any]) -> None:
    """Write the plan, or refuse to go on with another one than the folder's."""
    plan = json.loads(
        json.dumps(
            {"settings": settings, "shards": [[asdict(part) for part in parts] for parts in shards]}
        )
    )
    kept = _read(output / PLAN)
    if kept is None:
        write_text(output / PLAN, json.dumps(plan, ensure_ascii=False) + "\n")
    elif kept != plan:
        differs = [
            key
            for key, value in plan["settings"].items()
            if kept.get("settings", {}).get(key) != value
        ]
        raise UserError(
            f"{output}: began with other {', '.join(differs) or 'inputs'} than now, and shards of both would be mixed; "
            f"name another --output, or give the same again"
        )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def _alone(output: Path, only: int | None) -> Iterator[None]:
    """Hold the folder for a whole run, or one of its shards beside processes that do others; clear what a kill left."""
    check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", output, shared=only is not None):
        if only is None:
            for left in output.glob(".shard-*.partial"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        else:
            with locked(output / f".{shard_name(only)}.lock", output):
                yield


@contextmanager
def locked(file: Path, output: Path, shared: bool = False) -> Iterator[None]:
    """An advisory lock that ends with the process, however that ends."""
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{output}: another process is writing here, expected to be alone; wait for it or name another --output"
            ) from error
        yield
