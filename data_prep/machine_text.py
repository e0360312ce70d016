"""Real text for size tiny: what a Python installation holds, with each package's licence, or the user's own files."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath
from typing import NoReturn

from recipes.common.errors import UserError

# Bytes of text per component. Together some 4M tokens at 2048 entries: more than the tiny stages read, and collected,
# trained on and encoded in well under a minute on two cores.
BYTE_CAPS = {"code": 4_000_000, "documentation": 8_000_000}
MINIMUM_CHARACTERS = 200  # shorter ones are stubs ("See the home page")
MAXIMUM_CHARACTERS = (
    200_000  # longer ones are change logs and tables that would crowd out other packages
)

TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py"}
TEXT_LICENCE = "the user's own text"
UNKNOWN_LICENCE = "unknown"
PYTHON_LICENCE = "PSF-2.0"

OWN_DISTRIBUTION = "granite41-recipes"  # its text changes without its version; whether it is installed must not matter
_TEST_FOLDERS = {"test", "tests", "testing", "idle_test", "testdata", "test_data"}
# Not code to learn from: other people's packages, generated character tables, sample programs, documentation as data.
_LIBRARY_LEFT_OUT = {
    "site-packages",
    "encodings",
    "idlelib",
    "turtledemo",
    "lib2to3",
    "pydoc_data",
    "__pycache__",
}
_LICENCE_WORDS = ("licen", "copying", "notice", "copyright")
_PROSE_NAMES = ("readme", "change", "history", "news", "faq", "guide", "tutorial", "intro")


@dataclass(frozen=True)
class Document:
    """One text and where it comes from.

    Attributes:
        name: unique within its component; the path below the package's or the user's folder.
        package: the distribution and its version, such as ``numpy 1.26.4``.
        licence: as the package's metadata states it, or ``unknown``.
        text: the text as found.
    """

    name: str
    package: str
    licence: str
    text: str


@dataclass
class Collection:
    """Documents of each component, sorted by package and name, and how many others were left out for which reason."""

    components: dict[str, list[Document]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    package: str
    licence: str
    name: str
    read: Callable[[], str]


def machine_fingerprint() -> str:
    """Return the SHA-256 of Python's version and every installed distribution's name and version."""
    lines = [platform.python_version(), *(package for package, _, _ in _distributions())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def collect_machine() -> Collection:
    """Collect ``code`` (Python's own library) and ``documentation`` (of Python and the installed packages).

    Documentation is, in this order until :data:`BYTE_CAPS` is reached: Python's help topics, the packages' long
    descriptions and shipped documents, then the docstrings of the packages' modules (one document a module). Which
    documents are taken depends on hashes of names only, with each package taking its turn, so that two machines with
    the same packages select the same text and no package stands for all. Licences are those of the packages' metadata.

    Raises:
        UserError: a component is empty, as where Python is installed without its sources.
    """
    prose, docstrings = [*_help_topics()], []
    for package, licence, distribution in _distributions():
        description = partial(str, _field(distribution.metadata, "Description"))
        prose.append(_Candidate(package, licence, "long description", description))
        for file in distribution.files or []:
            if (
                file.suffix == ".py"
                and ".." not in file.parts
                and not _TEST_FOLDERS & set(file.parts)
            ):
                docstrings.append(
                    _Candidate(package, licence, f"{file} docstrings", partial(_docstrings, file))
                )
            elif _is_document(file):
                prose.append(_Candidate(package, licence, str(file), partial(_read, file)))
    collection, seen = Collection(), set[bytes]()
    _select(collection, "code", _spread(_library()), seen, MAXIMUM_CHARACTERS, BYTE_CAPS["code"])
    documentation = [*_spread(prose), *_spread(docstrings)]
    _select(
        collection,
        "documentation",
        documentation,
        seen,
        MAXIMUM_CHARACTERS,
        BYTE_CAPS["documentation"],
    )
    for component, documents in collection.components.items():
        if not documents:
            raise UserError(
                f"{component}: this Python installation holds no text for it, expected library sources and installed "
                f"packages; name a folder of your own text"
            )
    return collection


def collect_folder(folder: Path) -> Collection:
    """Collect the user's own .txt, .md, .rst and .py files below ``folder`` as the one component ``text``.

    Raises:
        UserError: ``folder`` is missing, not a folder or unreadable, or holds no text of the least length.
    """
    collection = Collection()
    try:
        if not folder.exists():
            raise UserError(
                f"{folder}: no such folder, expected one with text files; check the path"
            )
        if not folder.is_dir():
            raise UserError(
                f"{folder}: is not a folder, expected one with text files; name the folder that holds it"
            )
        package = folder.resolve().name
        candidates = [
            _Candidate(package, TEXT_LICENCE, str(file.relative_to(folder)), partial(_read, file))
            for file in _walk(folder)
            if file.suffix.lower() in TEXT_SUFFIXES
        ]
        _select(collection, "text", candidates, set())
    except PermissionError as error:
        raise UserError(
            f"{error.filename}: permission to read denied, expected readable text; grant it or move it away"
        ) from error
    if not collection.components["text"]:
        raise UserError(
            f"{folder}: holds no text, expected UTF-8 files ({', '.join(sorted(TEXT_SUFFIXES))}) of at least "
            f"{MINIMUM_CHARACTERS} characters; add some or name another folder"
        )
    return collection


def licence_of(metadata: importlib.metadata.PackageMetadata) -> str:
    """Return the licence that a distribution's metadata states, as it states it, or ``unknown``."""
    if expression := _field(metadata, "License-Expression"):
        return expression
    stated = _field(metadata, "License").strip()
    if stated and "\n" not in stated and stated.upper() != "UNKNOWN":
        return stated
    classifiers = [text.split(" :: ") for text in metadata.get_all("Classifier") or []]
    names = sorted(parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2)
    if names:
        return " AND ".join(names)
    # a whole licence text: its title is all that fits
    return stated.splitlines()[0].strip() if "\n" in stated else UNKNOWN_LICENCE


def _field(metadata: importlib.metadata.PackageMetadata, name: str) -> str:
    """A field of the metadata, empty where there is none: for which importlib_metadata, once loaded, raises."""
    return metadata[name] if name in metadata else ""  # noqa: SIM401 the protocol has no get


def _distributions() -> list[tuple[str, str, importlib.metadata.Distribution]]:
    """Name and version, licence and distribution of everything in this Python's own package folders, sorted."""
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = {}
    for distribution in importlib.metadata.distributions(path=folders):
        name = distribution.metadata["Name"]
        if name and name != OWN_DISTRIBUTION:
            found[f"{name} {distribution.version}"] = distribution
    return [
        (package, licence_of(found[package].metadata), found[package]) for package in sorted(found)
    ]


def _library() -> Iterator[_Candidate]:
    root = Path(sysconfig.get_path("stdlib"))
    package = f"Python {platform.python_version()}"
    for file in _walk(root, _LIBRARY_LEFT_OUT | _TEST_FOLDERS):
        # _sysconfigdata holds the paths and flags of the machine that built Python
        if file.suffix == ".py" and not file.name.startswith("_sysconfigdata"):
            yield _Candidate(
                package, PYTHON_LICENCE, str(file.relative_to(root)), partial(_read, file)
            )


def _help_topics() -> Iterator[_Candidate]:
    from pydoc_data.topics import topics

    for topic, text in topics.items():
        yield _Candidate(
            f"Python {platform.python_version()}",
            PYTHON_LICENCE,
            f"help topic {topic}",
            partial(str, text),
        )


def _is_document(file: PurePath) -> bool:
    """Whether a package's file is prose to read: not a licence, a list of requirements, a word list or test data."""
    suffix = file.suffix.lower()
    if suffix not in (".md", ".rst", ".txt"):
        return False
    parts, name = {part.lower() for part in file.parts[:-1]}, file.name.lower()
    if (
        ".." in parts
        or parts & _TEST_FOLDERS
        or any(part.endswith((".dist-info", ".egg-info")) for part in parts)
    ):
        return False
    if any(word in name for word in (*_LICENCE_WORDS, "requirements")):
        return False
    return suffix != ".txt" or bool(parts & {"doc", "docs"}) or name.startswith(_PROSE_NAMES)


def _docstrings(file: importlib.metadata.PackagePath) -> str:
    """The docstrings of a module, its classes, methods and functions, in the source's order, a blank line between."""
    with warnings.catch_warnings(action="ignore"):
        module = ast.parse(file.read_binary())

    def docstrings(
        node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    ) -> Iterator[str]:
        yield ast.get_docstring(node) or ""
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from docstrings(child)

    return "\n\n".join(filter(None, docstrings(module)))


def _read(file: Path | importlib.metadata.PackagePath) -> str:
    data = file.read_bytes() if isinstance(file, Path) else file.read_binary()
    return data.decode("utf-8")


def _walk(folder: Path, left_out: Iterable[str] = ()) -> Iterator[Path]:
    """Files below ``folder`` in sorted order; unlike ``Path.rglob`` an unreadable folder raises."""

    def fail(error: OSError) -> NoReturn:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(set(folders) - set(left_out))
        yield from (Path(root, name) for name in sorted(files))


def _spread(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Packages take turns; their order, and the documents' order within a package, is that of the names' hashes."""

    def key(candidate: _Candidate) -> tuple[str, str]:
        return _sha256(candidate.package).hex(), _sha256(candidate.name).hex()

    turns = []
    for package, group in groupby(
        sorted(candidates, key=key), key=lambda candidate: candidate.package
    ):
        turns += [(turn, _sha256(package), candidate) for turn, candidate in enumerate(group)]
    return [candidate for *_, candidate in sorted(turns, key=lambda entry: entry[:2])]


def _select(
    collection: Collection,
    component: str,
    candidates: list[_Candidate],
    seen: set[bytes],
    maximum_characters: int | None = None,
    byte_cap: int | None = None,
) -> None:
    """Read candidates in order into ``component`` until the cap, leaving out and counting what is not fit to use."""
    documents: list[Document] = []
    left_out = Counter[str]()
    taken = 0
    for position, candidate in enumerate(candidates):
        try:
            text = candidate.read()
            data = text.encode("utf-8")
        except UnicodeError:
            left_out["not UTF-8"] += 1
            continue
        except (SyntaxError, ValueError):
            left_out["not Python 3"] += 1
            continue
        except FileNotFoundError:
            left_out["missing file"] += 1
            continue
        digest = hashlib.sha256(data).digest()
        if len(text) < MINIMUM_CHARACTERS:
            left_out[f"under {MINIMUM_CHARACTERS} characters"] += 1
        elif maximum_characters and len(text) > maximum_characters:
            left_out[f"over {maximum_characters} characters"] += 1
        elif digest in seen:
            left_out["exact duplicate"] += 1
        elif byte_cap and taken + len(data) > byte_cap:
            left_out[f"beyond {byte_cap} bytes"] = len(candidates) - position
            break
        else:
            seen.add(digest)
            taken += len(data)
            documents.append(Document(candidate.name, candidate.package, candidate.licence, text))
    collection.components[component] = sorted(
        documents, key=lambda document: (document.package, document.name)
    )
    collection.left_out[component] = dict(sorted(left_out.items()))


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
