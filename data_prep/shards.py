"""Work cut into shards: each a pure function of inputs and index, done once, whole or not at all.

An output folder holds ``plan.json`` (which parts make which shard, what identifies the inputs, and
the settings), and for every finished shard its files and, written last, its manifest
``shard-NNNNN.json``. A run that was killed resumes with the shards that have no manifest. Each
shard may be done by another process or machine, as in a Slurm job array.
"""

import json
import logging
import math
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep import documents, input_files
from data_prep.documents import Part
from data_prep.input_files import InputFile
from recipes.common.errors import UserError
from recipes.common.files import disk_full_as_user_error, write_text
from recipes.common.json_files import (
    Record,
    parse_record,
    read_json_or_none,
    read_record,
    write_json,
)
from recipes.common.locks import file_lock
from recipes.common.progress import Progress, duration

log = logging.getLogger(__name__)

PLAN = "plan.json"
SHARD_BYTES = 32 * 2**20
MAX_SHARDS = 1000

_LOCK_HOLDER = "is writing here"
_KEPT = "finished shards are kept"
_PLAN_REMEDY = "name another --output, or remove the folder and run again"
_MANIFEST_REMEDY = "remove the file and run the same command again, which does its shard again"

Work = Callable[[list[Part], Path, str], dict[str, Any]]
"""``work(parts, folder, name)`` writes ``name.*`` to ``folder``, and returns the manifest."""


@dataclass(frozen=True)
class Plan:
    """Which parts make which shard.

    Attributes:
        shards: the parts of each.
        inputs: what identifies the files and data sets that the parts are of.
        passed_over: reason -> files and folders of the inputs that are not read.
    """

    shards: list[list[Part]]
    inputs: list[InputFile] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def only(self, index: int) -> "Plan":
        """Return the plan of one shard."""
        parts = self.shards[index]
        names = {part.input for part in parts}
        inputs = [file for file in self.inputs if file.path in names]
        return Plan([parts], inputs)


@dataclass(frozen=True)
class _PlanFile:
    """The contents of plan.json.

    Attributes:
        settings: what decides, besides the inputs, what the shards hold; any JSON.
        plan: made from the inputs.
    """

    settings: dict[str, Any]
    plan: Plan


@dataclass(frozen=True)
class _ShardManifest:
    """The keys that every shard's manifest has, besides those of its work.

    Attributes:
        index: the shard's number, from 0.
        file_bytes: name and size of each of its files.
        notes: sentences on what was noticed in its inputs.
    """

    index: int
    file_bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def make_plan(inputs: Sequence[str], max_shards: int | None = None) -> Plan:
    """Cut inputs into shards, as :func:`cut`, with parts small enough for that.

    Raises:
        UserError: as :func:`input_files.find` and :func:`documents.split`.
    """
    found = input_files.find(inputs)
    count = max_shards or _default_count(found.bytes)
    piece_bytes = math.ceil(found.bytes / count)
    parts = documents.split(found.names, max(1, piece_bytes))
    return plan_parts(parts, max_shards, found.passed_over)


def plan_parts(
    parts: Sequence[Part],
    max_shards: int | None = None,
    passed_over: dict[str, list[str]] | None = None,
) -> Plan:
    """Return the plan of ``parts``, with what identifies their inputs.

    Raises:
        UserError: an input cannot be read.
    """
    names = dict.fromkeys(part.input for part in parts)
    inputs = [input_files.identify(name) for name in names]
    return Plan(cut(parts, max_shards), inputs, passed_over or {})


def cut(parts: Sequence[Part], max_shards: int | None = None) -> list[list[Part]]:
    """Group consecutive parts into at most ``max_shards`` shards of nearly equal bytes.

    Without ``max_shards`` there is one for every 32 MiB of input, but at most a thousand.
    """
    # of Hub data sets, whose files' sizes are not known, each counts as one shard's worth
    sizes = [part.bytes or SHARD_BYTES for part in parts]
    total = sum(sizes)
    count = max_shards or _default_count(total)

    # consecutive parts, so that the shards together keep the order of the inputs
    groups: list[list[Part]] = [[] for _ in range(count)]
    before = 0
    for part, size in zip(parts, sizes, strict=True):
        # the group in which the part's middle lies, were all bytes divided evenly
        middle = before + size / 2
        group = int(middle / total * count)
        groups[group].append(part)
        before += size
    return [group for group in groups if group]


def _default_count(size: int) -> int:
    count = math.ceil(size / SHARD_BYTES)
    return max(1, min(MAX_SHARDS, count))


def shard_name(index: int) -> str:
    """Return a shard's name, such as ``shard-00007``."""
    return f"shard-{index:05d}"


def manifest_file(output: Path, index: int) -> Path:
    """Return the file of a shard's manifest."""
    return output / f"{shard_name(index)}.json"


def manifests(output: Path) -> list[dict[str, Any]] | None:
    """Return the manifests of ``output``'s shards, in order, or None while one is missing.

    Raises:
        UserError: the folder's plan is damaged.
    """
    if not (output / PLAN).exists():
        return None
    count = len(read_plan(output).shards)
    found = []
    for index in range(count):
        manifest = read_json_or_none(manifest_file(output, index))
        if manifest is None:
            return None
        found.append(manifest)
    return found


def read_manifests(output: Path, record_type: type[Record]) -> list[Record] | None:
    """Return :func:`manifests` as dataclasses.

    Raises:
        UserError: the folder's plan or a manifest is damaged.
    """
    found = manifests(output)
    if found is None:
        return None
    records = []
    for index, manifest in enumerate(found):
        file = str(manifest_file(output, index))
        records.append(parse_record(record_type, manifest, file, _MANIFEST_REMEDY))
    return records


def check_output(output: Path) -> None:
    """Raise :class:`UserError` unless ``output`` is new, empty, or was started by :func:`run`."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(
            f"{output}: is a file, expected a folder to write to; name another --output"
        )
    if (output / PLAN).exists():
        return
    if any(not item.name.startswith(".") for item in output.iterdir()):
        raise UserError(
            f"{output}: holds other files, expected a folder that is new, empty, or has unfinished "
            f"output of this command; name another --output"
        )


def begin(output: Path, plan: Plan, settings: dict[str, Any]) -> None:
    """Make ``output`` with its plan and do no shard; :func:`run` does them.

    For work that has more to do before its shards. Raises what :func:`run` does about the folder.
    """
    with disk_full_as_user_error(output), _locked_folder(output, None):
        _write_or_compare_plan(output, _PlanFile(settings, plan))


def run(
    output: Path,
    plan: Plan,
    settings: dict[str, Any],
    work: Work,
    *,
    workers: int = 1,
    only: int | None = None,
    label: str = "",
) -> None:
    """Do the shards that ``output`` does not hold yet, or only shard number ``only``.

    A line is logged for each finished shard, and each of its manifest's ``notes`` as a warning.

    Args:
        output: the folder; created, or continued when its plan is the same.
        plan: of :func:`make_plan`.
        settings: everything else that decides what the shards hold; any JSON.
        work: a picklable function; files that it leaves when it raises are removed.
        workers: processes; with 1 the work is done in this one.
        only: index of one shard, as in an array job.
        label: before each logged line, where a command has several passes.

    Raises:
        UserError: of ``work``; another or a damaged plan in ``output``, or an input that has
            changed since; another process at work there; no space left; a worker died.
    """
    count = len(plan.shards)
    if only is not None and not 0 <= only < count:
        raise UserError(
            f"shard {only}: there are {count}, expected 0 to {count - 1}; choose one of them"
        )
    with disk_full_as_user_error(output, _KEPT), _locked_folder(output, only):
        _write_or_compare_plan(output, _PlanFile(settings, plan))
        indices = list(range(count))
        if only is not None:
            indices = [only]
        todo = [index for index in indices if not _is_finished(output, index)]
        progress = _ShardProgress(plan, len(indices), todo, label)
        for index, manifest in _do_shards(output, plan, todo, work, workers):
            progress.log_finished(index, manifest)


def _do_shards(
    output: Path,
    plan: Plan,
    todo: list[int],
    work: Work,
    workers: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield index and manifest of each shard of ``todo`` when it is finished."""
    if workers == 1 or len(todo) <= 1:
        for index in todo:
            yield index, _do_shard(output, index, plan.only(index), work)
        return

    # fresh interpreters: a fork would copy the locks of threads of libraries that are loaded here
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(todo)), context)
    try:
        futures = {}
        for index in todo:
            future = pool.submit(_do_shard, output, index, plan.only(index), work)
            futures[future] = index
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{output}: a worker process died, perhaps for lack of memory; {_KEPT}, "
            f"run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _do_shard(output: Path, index: int, plan: Plan, work: Work) -> dict[str, Any]:
    """Do the shard of ``plan`` in a folder of its own; move its files out, the manifest last."""
    name = shard_name(index)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=output))
    try:
        with disk_full_as_user_error(output, _KEPT):
            [parts] = plan.shards
            manifest = {"index": index, **work(parts, folder, name)}
            # a file may have been replaced since the plan was made, or while it was read
            now = [input_files.identify(file.path) for file in plan.inputs]
            compare_inputs(output, plan.inputs, now)

            # the manifest comes last: it says that the shard is finished
            files = sorted(folder.iterdir())
            manifest["file_bytes"] = {file.name: file.stat().st_size for file in files}
            last = folder / f"{name}.json"
            write_json(last, manifest)
            for file in [*files, last]:
                file.replace(output / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


class _ShardProgress:
    """Logs a line per finished shard: what it holds, how fast it went, and the time left."""

    def __init__(self, plan: Plan, total: int, todo: list[int], label: str) -> None:
        self._label = label
        self._sizes = []
        for parts in plan.shards:
            self._sizes.append(sum(part.bytes for part in parts))
        self._total = total
        self._done = total - len(todo)
        # of the shards that are left, for the time that they take
        self._progress = Progress(sum(self._sizes[index] for index in todo))
        if self._done:
            log.info("%s%d of %d shards are finished already", label, self._done, total)

    def log_finished(self, index: int, manifest: dict[str, Any]) -> None:
        for note in manifest.get("notes", ()):
            log.warning("%s", note)
        self._done += 1
        self._progress.advance(self._sizes[index])

        counts = []
        for key in ("documents", "tokens", "read"):
            if key in manifest:
                counts.append(f"{manifest[key]:,} {key}")
        speed = f"{self._progress.rate / 1e6:.1f} MB/s of input"
        # unknown for Hub data sets, whose sizes are not known
        if self._progress.seconds_left:
            speed += f", {duration(self._progress.seconds_left)} left"
        log.info(
            "%s%s, %d/%d: %s (%s)",
            self._label,
            shard_name(index),
            self._done,
            self._total,
            ", ".join(counts),
            speed,
        )


def _is_finished(output: Path, index: int) -> bool:
    """Whether the shard's manifest exists and its files have the sizes that it states."""
    file = manifest_file(output, index)
    content = read_json_or_none(file)
    if content is None:
        return False
    manifest = parse_record(_ShardManifest, content, str(file), _MANIFEST_REMEDY)
    # a copy may have been interrupted, or a file removed
    for name, size in manifest.file_bytes.items():
        path = output / name
        if not path.is_file() or path.stat().st_size != size:
            return False
    return True


def read_plan(output: Path) -> Plan:
    """Return the plan of a folder.

    Raises:
        UserError: it is missing, damaged, or of a former version, which did not identify inputs.
    """
    return _read_plan_file(output).plan


def read_settings(output: Path) -> dict[str, Any]:
    """Return the settings with which a folder was started, as JSON gives them back.

    Raises:
        UserError: as :func:`read_plan`.
    """
    return _read_plan_file(output).settings


def _read_plan_file(output: Path) -> _PlanFile:
    return read_record(_PlanFile, output / PLAN, _PLAN_REMEDY)


def _write_or_compare_plan(output: Path, plan_file: _PlanFile) -> None:
    """Write the plan, or raise where the folder has another one."""
    text = json.dumps(asdict(plan_file), ensure_ascii=False)
    if not (output / PLAN).exists():
        write_text(output / PLAN, text + "\n")
        return

    # as JSON gives it back: no tuples
    settings = json.loads(text)["settings"]
    kept = _read_plan_file(output)
    if kept.settings != settings:
        keys = [key for key, value in settings.items() if kept.settings.get(key) != value]
        raise _started_with_other(output, ", ".join(keys) or "settings")
    compare_inputs(output, kept.plan.inputs, plan_file.plan.inputs)
    if kept.plan.shards != plan_file.plan.shards:
        raise _started_with_other(output, "shards")


def _started_with_other(output: Path, what: str) -> UserError:
    return UserError(
        f"{output}: was started with other {what} than now, and shards "
        f"of both would be mixed; name another --output, or give the same again"
    )


def compare_inputs(output: Path, kept: Sequence[InputFile], now: Sequence[InputFile]) -> None:
    """Raise :class:`UserError` where inputs are others than those that ``output`` was started with.

    A file that has another time, but the same size and sample, is the same.
    """
    kept_by_path = {file.path: file for file in kept}
    now_by_path = {file.path: file for file in now}
    remedy = "name another --output, or give the same again"
    for path, file in now_by_path.items():
        former = kept_by_path.get(path)
        if former is None:
            raise UserError(f"{path}: was no input when {output} was started; {remedy}")
        if (file.bytes, file.sample_sha256) != (former.bytes, former.sample_sha256):
            modified = datetime.fromtimestamp(file.modified_ns / 1e9, UTC)
            raise UserError(
                f"{path}: has changed since {output} was started (on {modified:%Y-%m-%d %H:%M:%S} "
                f"UTC, from {former.bytes:,} to {file.bytes:,} bytes), and shards of both would be "
                f"mixed; {remedy}"
            )
    for path in kept_by_path:
        if path not in now_by_path:
            raise UserError(f"{path}: is an input of {output} and is not given now; {remedy}")


@contextmanager
def _locked_folder(output: Path, only: int | None) -> Iterator[None]:
    """Lock the folder alone, or one of its shards while other processes do others.

    What a killed run left is removed once the folder is locked alone.
    """
    check_output(output)
    with file_lock(output / ".lock", _LOCK_HOLDER, shared=only is not None):
        if only is None:
            # nobody else is at work here, so these are of runs that were killed
            for leftover in output.glob(".shard-*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
        else:
            with file_lock(output / f".{shard_name(only)}.lock", _LOCK_HOLDER):
                yield
