"""Input files: which ones a folder holds, what is passed over and why, and what identifies one."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from data_prep.compression import SUFFIXES, file_errors_as_user_error, open_file
from data_prep.hub import HUB, HubInput
from data_prep.records import BYTE_ORDER_MARK
from recipes.common.errors import UserError

log = logging.getLogger(__name__)

JSON_LINES = (".jsonl", ".json", ".ndjson")
TEXT = (".txt", ".md", ".rst", ".py")
PARQUET = ".parquet"
GIT = ".git"  # a folder, or a file in a submodule

_PLAN = "plan.json"
# what this project's own commands write next to documents, in a folder with a plan
_OWN_RECORDS = (
    _PLAN,
    "manifest.json",
    "shard-*.json",
    "*.removed.jsonl",
    "*.audit.jsonl",
    "*.undecided.jsonl",
    "curation.*",
)

HIDDEN = "hidden"
OWN = "records of granite41 data"
UNKNOWN = "unknown kind of file"
TWICE = "read under another name"
SPECIAL = "no regular file"

_NAMED = 3  # passed-over files that are named in a message
_HEAD = 4096  # bytes of a file's start, for its encoding
_SAMPLE = 1 << 16  # bytes of each of the three blocks that are hashed


@dataclass(frozen=True)
class InputFile:
    """What tells an input from what it is after a change.

    Attributes:
        path: a file, a folder that is read as one input, or a Hub data set.
        bytes: its size; of a Hub data set, which its commit identifies, 0.
        modified_ns: when it was changed last, in nanoseconds since 1970; says nothing by itself.
        sample_sha256: of its first, middle and last 64 KiB, in hex: the whole of a file up to
            192 KiB. Of a folder, over the names, sizes and samples of its files.
    """

    path: str
    bytes: int
    modified_ns: int
    sample_sha256: str


@dataclass
class Found:
    """The files of inputs.

    Attributes:
        names: files and Hub data sets, in order.
        bytes: of the files together.
        passed_over: reason -> files and folders that are not read.
    """

    names: list[str] = field(default_factory=list)
    bytes: int = 0
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, reason: str, path: Path) -> None:
        """Note a file or folder that is not read."""
        self.passed_over.setdefault(reason, []).append(_printable(path))


def kind_of(name: str) -> str:
    """Return ``hf:`` or a suffix of :data:`JSON_LINES`, :data:`TEXT` or :data:`PARQUET`.

    Raises:
        UserError: another suffix.
    """
    if name.startswith(HUB):
        return HUB
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return suffix
    if suffix in SUFFIXES:
        suffix = Path(path.stem).suffix.lower()
    known = (*JSON_LINES, *TEXT)
    if suffix in known:
        return suffix
    raise UserError(
        f"{name}: unknown kind of file, expected {', '.join(known)} "
        f"(also {', '.join(SUFFIXES)}) or {PARQUET}; rename or convert it"
    )


def find(inputs: Iterable[str]) -> Found:
    """Return the files of inputs, those of a folder sorted by path, and say what is passed over.

    Links are followed; what they make appear again within a folder is read once. Of a folder are
    passed over: hidden files, the records that ``granite41 data`` writes next to documents, other
    kinds of files, and what is no regular file.

    Raises:
        UserError: an input is missing, unreadable or of an unknown kind, a link leads nowhere, or a
            folder holds no file to read.
    """
    found = Found()
    for name in inputs:
        if name.startswith(HUB):
            found.names.append(name)
            continue
        with file_errors_as_user_error(name):
            for file in _files_of(Path(name), found):
                found.names.append(str(file))
                found.bytes += file.stat().st_size

    log_passed_over(found)
    return found


def log_passed_over(found: Found) -> None:
    """Name the files and folders that are not read: some of each reason."""
    for reason, paths in found.passed_over.items():
        # what a folder is expected to hold is no reason to warn
        level = logging.WARNING
        if reason in (HIDDEN, OWN):
            level = logging.DEBUG
        log.log(level, "passed over %s", _describe(reason, paths))


def _files_of(path: Path, found: Found) -> list[Path]:
    """Return a file itself, or those of a folder."""
    if path.is_dir():
        files = list(walk(path, found))
        if not files:
            raise _empty_folder(path, found)
        return files
    if path.is_file():
        _check_name(path)
        kind_of(str(path))
        return [path]
    if path.exists():
        raise UserError(f"{path}: is {SPECIAL}, expected a file or folder; write it to one")
    raise UserError(f"{path}: no such file, expected a file or folder of text; check the path")


def _check_name(file: Path) -> None:
    """Raise unless a plan and manifests, which are in UTF-8, can name the file."""
    name = _printable(file)
    if name != str(file):
        raise UserError(f"{name}: has a name that is not in UTF-8; rename it")


def _printable(path: Path) -> str:
    r"""Return a path with ``\udcff`` for a byte that is no UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _empty_folder(path: Path, found: Found) -> UserError:
    passed_over = ""
    if found.passed_over:
        reasons = [_describe(*item) for item in found.passed_over.items()]
        passed_over = f" (passed over {'; '.join(reasons)})"
    return UserError(
        f"{path}: holds no file that can be read{passed_over}, expected JSON lines, parquet or "
        f"text; check it"
    )


def counts(passed_over: Mapping[str, list[str]]) -> dict[str, int]:
    """Return reason -> how many files and folders are not read."""
    return {reason: len(paths) for reason, paths in passed_over.items()}


def _describe(reason: str, paths: list[str]) -> str:
    """Return ``2 files, unknown kind of file: a.csv, b.pdf``; of many the first are named."""
    names = ", ".join(paths[:_NAMED])
    more = len(paths) - _NAMED
    if more > 0:
        names += f" and {more:,} more"
    noun = "file"
    if len(paths) > 1:
        noun = "files"
    return f"{len(paths):,} {noun}, {reason}: {names}"


def walk(folder: Path, found: Found) -> Iterator[Path]:
    """Yield the files below ``folder`` of a kind that can be read, sorted by path.

    Args:
        found: receives what is passed over.

    Raises:
        UserError: a folder is unreadable, or a link leads nowhere.
    """
    real = folder.resolve()
    yield from _walk(folder, real, {real}, found)


def _walk(folder: Path, real: Path, seen: set[Path], found: Found) -> Iterator[Path]:
    """Yield the files of a folder and of those in it.

    Args:
        real: the folder's path without links.
        seen: such paths of all that was met; keeps links in a circle from being followed for ever.
    """
    entries = _entries(folder)
    is_own = any(entry.name == _PLAN for entry in entries)
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            found.pass_over(HIDDEN, path)
            continue
        target = real / entry.name
        if entry.is_symlink():
            target = follow(path)
        reason = _reason_to_pass_over(path, is_own)
        if target in seen:
            reason = TWICE
        if reason:
            found.pass_over(reason, path)
            continue

        seen.add(target)
        if path.is_dir():
            yield from _walk(path, target, seen, found)
        else:
            _check_name(path)
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(error) from error


def follow(link: Path) -> Path:
    """Return a path without links.

    Raises:
        UserError: it is a link that leads nowhere, or in a circle.
    """
    if not link.exists():
        raise UserError(
            f"{link}: is a link to {link.readlink()}, which cannot be followed; "
            f"restore what it leads to, or remove the link"
        )
    return link.resolve()


def _reason_to_pass_over(path: Path, is_own: bool) -> str | None:
    if path.is_dir():
        return None
    if not path.is_file():
        return SPECIAL
    if is_own and any(fnmatch(path.name, pattern) for pattern in _OWN_RECORDS):
        return OWN
    try:
        kind_of(path.name)
    except UserError:
        return UNKNOWN
    return None


def check_start(file: Path) -> None:
    """Raise :class:`UserError` if a file of text is not in UTF-8, or is an array of JSON."""
    with file_errors_as_user_error(str(file)), open_file(file) as stream:
        head = stream.read(_HEAD)
    # by the byte order mark, or by the zero bytes around an ASCII character
    encoding = json.detect_encoding(head).upper()
    if not encoding.startswith("UTF-8"):
        raise UserError(
            f"{file}: is text in {encoding}, expected UTF-8; convert it, such as with "
            f"`iconv -f {encoding} -t UTF-8`"
        )
    start = head.removeprefix(BYTE_ORDER_MARK.encode()).lstrip()
    if start.startswith(b"[") and kind_of(str(file)) in JSON_LINES:
        raise UserError(
            f"{file}: is an array of JSON, expected JSON lines, one object a line; convert it, "
            f"such as with `jq -c '.[]'`"
        )


def identify(name: str) -> InputFile:
    """Return what tells a file, folder or Hub data set from what it is after a change.

    Raises:
        UserError: a file cannot be read.
    """
    folder: Path | None = Path(name)
    if name.startswith(HUB):
        folder = HubInput.parse(name).folder
    if folder is None:
        return InputFile(name, 0, 0, "")
    if not folder.is_dir():
        return _identify_file(folder)

    # a local data set, or a checked-out repository
    digest = hashlib.sha256()
    total_bytes = 0
    modified_ns = 0
    for file in files_below(folder):
        if file.is_symlink() or not file.is_file():
            continue
        identity = _identify_file(file)
        line = f"{file.relative_to(folder)}\0{identity.bytes}\0{identity.sample_sha256}\n"
        digest.update(os.fsencode(line))
        total_bytes += identity.bytes
        modified_ns = max(modified_ns, identity.modified_ns)
    return InputFile(name, total_bytes, modified_ns, digest.hexdigest())


def _identify_file(file: Path) -> InputFile:
    digest = hashlib.sha256()
    with file_errors_as_user_error(str(file)), file.open("rb", buffering=0) as stream:
        state = os.fstat(stream.fileno())
        last = max(0, state.st_size - _SAMPLE)
        # of a small file these are the same, or overlap
        for start in sorted({0, last // 2, last}):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE))
    return InputFile(str(file), state.st_size, state.st_mtime_ns, digest.hexdigest())


def files_below(root: Path) -> Iterator[Path]:
    """Yield all that is below ``root`` and no folder, links included, but for git's own.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); grant permission or take it away"
        ) from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        # in place: os.walk descends into what is left, in this order
        folders[:] = sorted(set(folders) - {GIT})
        for name in sorted(files + links):
            if name != GIT:
                yield Path(folder, name)


def unreadable(error: OSError) -> UserError:
    """Return the sentence for a file or folder that the system refuses."""
    return UserError(
        f"{error.filename}: cannot be read ({error.strerror}); grant permission or take it away"
    )
