"""Text for size tiny: of a Python installation, with its packages' licenses, or the user's own."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import NoReturn

from data_prep import compression, input_files
from recipes.common.errors import UserError

# Bytes of text per component. Together some 4M tokens at 2048 entries: more than the tiny stages
# read, and collected, trained on and encoded in well under a minute on two cores.
BYTE_CAPS = {"code": 4_000_000, "documentation": 8_000_000}
MIN_CHARACTERS = 200  # shorter ones are stubs ("See the home page")
# longer ones are change logs and tables that would crowd out other packages
MAX_CHARACTERS = 200_000

USER_LICENSE = "the user's own text"
UNKNOWN_LICENSE = "unknown"
PYTHON_LICENSE = "PSF-2.0"

# this project: its text changes without its version, and whether it is installed must not matter
OWN_DISTRIBUTION = "granite41-recipes"
_TEST_FOLDERS = {"test", "tests", "testing", "idle_test", "testdata", "test_data"}
# Not code to learn from: other people's packages, generated character tables, sample programs,
# documentation as data.
_LIBRARY_LEFT_OUT = {
    "site-packages",
    "encodings",
    "idlelib",
    "turtledemo",
    "lib2to3",
    "pydoc_data",
    "__pycache__",
}
_PROSE_SUFFIXES = (".md", ".rst", ".txt")
_PROSE_NAMES = ("readme", "change", "history", "news", "faq", "guide", "tutorial", "intro")
_NOT_PROSE = ("licen", "copying", "notice", "copyright", "requirements")


@dataclass(frozen=True)
class CollectedText:
    """One text and its origin.

    Attributes:
        name: unique within its component; the path below the package's or the user's folder.
        package: the distribution and its version, such as ``numpy 1.26.4``.
        license: as the package's metadata states it, or ``unknown``.
        text: the text, unchanged.
    """

    name: str
    package: str
    license: str
    text: str


@dataclass
class Collection:
    """The texts of each component.

    Attributes:
        components: name -> texts, sorted by package and name.
        left_out: name -> reason -> how many texts were left out.
    """

    components: dict[str, list[CollectedText]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    """A text that can be read; the fields are :class:`CollectedText`'s."""

    package: str
    license: str
    name: str
    read: Callable[[], str]


def machine_fingerprint() -> str:
    """Return the SHA-256 of Python's version and every distribution's name and version."""
    lines = [platform.python_version()]
    for package, _, _ in _distributions():
        lines.append(package)
    return _sha256("\n".join(lines)).hex()


def collect_machine() -> Collection:
    """Collect ``code`` (Python's own library) and ``documentation`` (of Python and its packages).

    Documentation is, in this order until :data:`BYTE_CAPS` is reached: Python's help topics, the
    packages' long descriptions and shipped documents, then the docstrings of the packages' modules
    (one text a module). The selection depends on hashes of names only, with each package taking its
    turn, so that two machines with the same packages select the same text and no package dominates.
    Licenses are those of the packages' metadata.

    Raises:
        UserError: a component is empty, as where Python is installed without its sources.
    """
    prose = list(_help_topics())
    docstrings = []
    for package, license, distribution in _distributions():
        description = partial(str, _get_field(distribution.metadata, "Description"))
        prose.append(_Candidate(package, license, "long description", description))
        for file in distribution.files or []:
            if _is_module(file):
                read = partial(_read_docstrings, file)
                docstrings.append(_Candidate(package, license, f"{file} docstrings", read))
            elif _is_document(file):
                read = partial(_read, file)
                prose.append(_Candidate(package, license, str(file), read))

    # documentation first takes prose, and only then docstrings
    candidates = {
        "code": _spread(_library()),
        "documentation": [*_spread(prose), *_spread(docstrings)],
    }
    collection = Collection()
    # over both components, so that a text is in one of them only
    seen = set[bytes]()
    for component, ordered in candidates.items():
        _select(
            collection,
            component,
            ordered,
            seen,
            MAX_CHARACTERS,
            BYTE_CAPS[component],
        )
        if not collection.components[component]:
            raise UserError(
                f"{component}: this Python installation holds no text for it, expected library "
                f"sources and installed packages; name a folder of your own text"
            )
    return collection


def collect_folder(folder: Path) -> Collection:
    """Collect the user's files of plain text below ``folder`` as the component ``text``.

    Raises:
        UserError: ``folder`` is missing or not a folder, something in it cannot be read or is not
            in UTF-8, or its texts are too short.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder, expected one with text files; check the path")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: is not a folder, expected one with text files; "
            f"name the folder that holds it"
        )
    package = folder.resolve().name
    candidates = []
    found = input_files.Found()
    for file in input_files.walk(folder, found):
        if input_files.kind_of(file.name) not in input_files.TEXT:
            found.pass_over("no plain text", file)
            continue
        input_files.check_start(file)
        name = str(file.relative_to(folder))
        read = partial(_read_user_text, file)
        candidates.append(_Candidate(package, USER_LICENSE, name, read))
    input_files.log_passed_over(found)

    collection = Collection()
    _select(collection, "text", candidates, set())
    collection.left_out["text"] |= input_files.counts(found.passed_over)
    if not collection.components["text"]:
        raise UserError(
            f"{folder}: holds no text, expected UTF-8 files ({', '.join(input_files.TEXT)}) "
            f"of at least {MIN_CHARACTERS} characters; add some or name another folder"
        )
    return collection


def read_license(metadata: importlib.metadata.PackageMetadata) -> str:
    """Return the license that a distribution's metadata states, or ``unknown``."""
    expression = _get_field(metadata, "License-Expression")
    if expression:
        return expression
    stated = _get_field(metadata, "License").strip()
    if stated and "\n" not in stated and stated.upper() != "UNKNOWN":
        return stated

    # such as "License :: OSI Approved :: MIT License"
    names = []
    for classifier in metadata.get_all("Classifier") or []:
        parts = classifier.split(" :: ")
        if parts[0] == "License" and len(parts) > 2:
            names.append(parts[-1])
    if names:
        return " AND ".join(sorted(names))
    if "\n" not in stated:
        return UNKNOWN_LICENSE
    # a whole license text: its title is all that fits
    title = stated.splitlines()[0]
    return title.strip()


def _get_field(metadata: importlib.metadata.PackageMetadata, name: str) -> str:
    """A field of the metadata, or an empty text: importlib_metadata raises where it is missing."""
    return metadata[name] if name in metadata else ""  # noqa: SIM401 the protocol has no get


def _distributions() -> list[tuple[str, str, importlib.metadata.Distribution]]:
    """Name and version, license and distribution of all in this Python's package folders."""
    # not what PYTHONPATH adds
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    distributions = {}
    for distribution in importlib.metadata.distributions(path=folders):
        name = distribution.metadata["Name"]
        if name and name != OWN_DISTRIBUTION:
            distributions[f"{name} {distribution.version}"] = distribution
    found = []
    for package, distribution in sorted(distributions.items()):
        license = read_license(distribution.metadata)
        found.append((package, license, distribution))
    return found


def _library() -> Iterator[_Candidate]:
    root = Path(sysconfig.get_path("stdlib"))
    package = f"Python {platform.python_version()}"
    for file in _walk(root, _LIBRARY_LEFT_OUT | _TEST_FOLDERS):
        # _sysconfigdata holds the paths and flags of the machine that built Python
        if file.suffix == ".py" and not file.name.startswith("_sysconfigdata"):
            name = str(file.relative_to(root))
            read = partial(_read, file)
            yield _Candidate(package, PYTHON_LICENSE, name, read)


def _help_topics() -> Iterator[_Candidate]:
    from pydoc_data.topics import topics

    package = f"Python {platform.python_version()}"
    for topic, text in topics.items():
        read = partial(str, text)
        yield _Candidate(package, PYTHON_LICENSE, f"help topic {topic}", read)


def _is_module(file: PurePath) -> bool:
    """Whether a package's file is a module, and not one of its tests or outside its folder."""
    if file.suffix != ".py":
        return False
    folders = set(file.parts)
    return ".." not in folders and not folders & _TEST_FOLDERS


def _is_document(file: PurePath) -> bool:
    """Whether a package's file is prose, not a license, requirements, word list or test data."""
    suffix = file.suffix.lower()
    if suffix not in _PROSE_SUFFIXES:
        return False
    # not outside of the package, nor its tests, nor its metadata
    folders = {part.lower() for part in file.parts[:-1]}
    if ".." in folders or folders & _TEST_FOLDERS:
        return False
    if any(folder.endswith((".dist-info", ".egg-info")) for folder in folders):
        return False

    name = file.name.lower()
    if any(word in name for word in _NOT_PROSE):
        return False
    if suffix != ".txt":
        return True

    # a .txt file is prose only by its folder or its name
    return bool(folders & {"doc", "docs"}) or name.startswith(_PROSE_NAMES)


def _read_docstrings(file: importlib.metadata.PackagePath) -> str:
    """The docstrings of a module, its classes, methods and functions, in the source's order."""
    with warnings.catch_warnings(action="ignore"):
        module = ast.parse(file.read_binary())
    return "\n\n".join(filter(None, _docstrings(module)))


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[str]:
    yield ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def _read(file: Path | importlib.metadata.PackagePath) -> str:
    # read_text would change line ends
    if isinstance(file, Path):
        return file.read_bytes().decode("utf-8")
    return file.read_binary().decode("utf-8")


def _read_user_text(file: Path) -> str:
    with compression.file_errors_as_user_error(str(file)), compression.open_file(file) as stream:
        data = stream.read()
    # without a byte order mark
    return data.decode("utf-8-sig")


def _walk(folder: Path, left_out: Iterable[str] = ()) -> Iterator[Path]:
    """Files below ``folder`` in sorted order; unlike ``Path.rglob`` an unreadable folder raises."""

    def fail(error: OSError) -> NoReturn:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        # in place: os.walk descends into what is left
        folders[:] = sorted(set(folders) - set(left_out))
        for name in sorted(files):
            yield Path(root, name)


def _spread(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Let each package take its turn; packages and their texts are in the order of hashes."""
    packages = defaultdict[str, list[_Candidate]](list)
    for candidate in candidates:
        packages[candidate.package].append(candidate)

    for members in packages.values():
        members.sort(key=lambda candidate: _sha256(candidate.name))

    # all first texts, then all second ones, and so on
    ordered = [packages[package] for package in sorted(packages, key=_sha256)]
    spread = []
    for turn in zip_longest(*ordered):
        spread += [candidate for candidate in turn if candidate is not None]
    return spread


def _select(
    collection: Collection,
    component: str,
    candidates: list[_Candidate],
    seen: set[bytes],
    max_characters: int | None = None,
    byte_cap: int | None = None,
) -> None:
    """Read candidates in order into ``component`` up to the cap; count those that are left out.

    Args:
        seen: SHA-256 of the texts of all components so far; those selected are added.
    """
    selected: list[CollectedText] = []
    left_out = Counter[str]()
    selected_bytes = 0
    for position, candidate in enumerate(candidates):
        text, problem = _try_read(candidate, max_characters)
        if problem:
            left_out[problem] += 1
            continue
        digest = _sha256(text)
        if digest in seen:
            left_out["exact duplicate"] += 1
            continue

        size = len(text.encode())
        if byte_cap and selected_bytes + size > byte_cap:
            # this one and all that follow
            left_out[f"beyond {byte_cap} bytes"] = len(candidates) - position
            break

        seen.add(digest)
        selected_bytes += size
        selected.append(
            CollectedText(
                name=candidate.name,
                package=candidate.package,
                license=candidate.license,
                text=text,
            )
        )

    selected.sort(key=lambda item: (item.package, item.name))
    collection.components[component] = selected
    collection.left_out[component] = dict(sorted(left_out.items()))


def _try_read(candidate: _Candidate, max_characters: int | None) -> tuple[str, str]:
    """Return a candidate's text and an empty text, or why it cannot be used."""
    try:
        text = candidate.read()
        # half of a surrogate pair cannot be written
        text.encode("utf-8")
    except UnicodeError:
        return "", "not UTF-8"
    except (SyntaxError, ValueError):
        return "", "not Python 3"
    except FileNotFoundError:
        return "", "missing file"
    if len(text) < MIN_CHARACTERS:
        return "", f"under {MIN_CHARACTERS} characters"
    if max_characters and len(text) > max_characters:
        return "", f"over {max_characters} characters"
    return text, ""


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
