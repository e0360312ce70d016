"""The texts of RULER's prompts: the published ones or, without a download, the project's own.

``fetch`` downloads the files of ``corpora.yaml`` into a folder, each compared with its SHA-256,
and writes ``manifest.json`` with address, SHA-256, bytes and license of each.
"""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from evaluation.ruler.question_sets import Questions, parse_hotpotqa, parse_squad
from evaluation.ruler.settings import NEEDLE_TASKS
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.json_files import write_json

log = logging.getLogger(__name__)

TextKind = Literal["published", "fallback"]
MANIFEST = "manifest.json"
# without a byte, until a server counts as unreachable
_TIMEOUT_SECONDS = 30
_PAIRS = 1 << 17
_FALLBACK = files("evaluation.ruler") / "fallback"
_FALLBACK_FILES = ("essays.md", "made_up_questions.yaml")
_WORD_LISTS = ("adjective", "noun", "verb")
_WORD_LIST_TASKS = (*NEEDLE_TASKS, "cwe")
# task -> beginnings of the names of its files, published and fallback; the other tasks need none
_FILES = {
    "niah_single_2": ("essays",),
    "niah_single_3": ("essays",),
    "niah_multikey_1": ("essays",),
    "niah_multivalue": ("essays",),
    "niah_multiquery": ("essays",),
    "cwe": ("english_words",),
    "qa_1": ("squad", "made_up_questions"),
    "qa_2": ("hotpotqa", "made_up_questions"),
}


@dataclass(frozen=True)
class CorpusFile:
    """A file to download.

    Attributes:
        places: address and SHA-256 (hex) there, in the order in which they are tried.
        license: of the content.
    """

    places: tuple[tuple[str, str], ...]
    license: str


def _read_sources() -> dict[str, CorpusFile]:
    path = Path(__file__).with_name("corpora.yaml")
    content = yaml.safe_load(path.read_bytes())
    sources = {}

    essays = content["essays"]
    for name, checksum in essays["sha256"].items():
        place = (f"{essays['url']}{name}.txt", checksum)
        sources[f"essays/{name}.txt"] = CorpusFile((place,), essays["license"])

    for name, entry in content["files"].items():
        places = tuple((place["url"], place["sha256"]) for place in entry["places"])
        sources[name] = CorpusFile(places, entry["license"])
    return sources


SOURCES = _read_sources()


def fetch(output: Path) -> None:
    """Download every file of ``SOURCES`` into the new folder ``output``, all or none.

    Raises:
        UserError: ``output`` has content, or no place serves a file with the right checksum.
    """
    with atomic_directory(output) as folder:
        manifest = {}
        for name, source in SOURCES.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            url, checksum = _download(name, source, path)

            size = path.stat().st_size
            manifest[name] = {
                "url": url,
                "sha256": checksum,
                "bytes": size,
                "license": source.license,
            }
            if not name.startswith("essays/"):
                log.info("%s: %s bytes from %s", name, f"{size:,}", url)
        write_json(folder / MANIFEST, manifest)
    log.info("%s: %d files", output, len(SOURCES))


def _download(
    name: str,
    source: CorpusFile,
    path: Path,
) -> tuple[str, str]:
    """Write ``source`` to ``path`` and return its address and checksum."""
    import requests

    failures = []
    for url, checksum in source.places:
        digest = hashlib.sha256()
        try:
            with (
                requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response,
                path.open("wb") as file,
            ):
                response.raise_for_status()
                for block in response.iter_content(1 << 20):
                    digest.update(block)
                    file.write(block)
        except requests.RequestException as error:
            failures.append(f"{url} ({type(error).__name__})")
            continue

        # another file, such as a login page, counts as a failure
        found = digest.hexdigest()
        if found == checksum:
            return url, checksum
        failures.append(f"{url} (SHA-256 {found}, expected {checksum})")

    places = " or ".join(failures)
    raise UserError(f"{name}: cannot be fetched from {places}; try again, or from another network")


def load(folder: Path | None) -> "Corpora":
    """Return the texts in ``folder``, which ``fetch`` made, or with None the project's own.

    Raises:
        UserError: a file of ``folder`` is missing or is not the one that was fetched.
    """
    if folder is None:
        checksums = {name: _sha256(_FALLBACK / name) for name in _FALLBACK_FILES}
        return Corpora(None, checksums)

    checksums = {}
    for name, source in SOURCES.items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file, expected one of RULER's texts; "
                f"fetch them again into a new folder"
            )
        checksums[name] = _sha256(path)
        expected = [checksum for _, checksum in source.places]
        if checksums[name] not in expected:
            raise UserError(
                f"{path}: is not the file that was fetched (SHA-256 differs); "
                f"fetch it into a new folder"
            )
    return Corpora(folder, checksums)


class Corpora:
    """RULER's texts, each read at its first use.

    Attributes:
        kind: ``published``, or ``fallback`` for the project's own.
    """

    def __init__(self, folder: Path | None, checksums: dict[str, str]) -> None:
        self.kind: TextKind = "fallback" if folder is None else "published"
        self._folder = folder
        self._checksums = checksums
        self._questions: dict[str, Questions] = {}
        self._pools: dict[str, list[str]] = {}

    def used_by(self, task: str) -> tuple[TextKind | None, str]:
        """Return the kind of ``task``'s texts, None where it needs none, and their fingerprint.

        The word lists count as no text: they are always wonderwords', and the metadata's settings
        say what is taken beyond them. They are part of the fingerprint all the same.
        """
        beginnings = _FILES.get(task, ())
        kind = None if task == "cwe" or not beginnings else self.kind

        # changing this changes the fingerprints, and files of samples are made again
        parts: list[object] = []
        if task in _WORD_LIST_TASKS:
            parts += [word_list(name) for name in _WORD_LISTS]
        for name, checksum in self._checksums.items():
            if name.startswith(beginnings):
                parts.append([name, checksum])

        fingerprint = hashlib.sha256(json.dumps(parts).encode())
        return kind, fingerprint.hexdigest()

    @cached_property
    def essays(self) -> str:
        """All essays as one text, with one space between words."""
        if self._folder is None:
            text = (_FALLBACK / "essays.md").read_text(encoding="utf-8")
            text = re.sub(r"^# .*", "", text, flags=re.MULTILINE)
        else:
            # without a space between them, as NVIDIA joins them
            paths = sorted((self._folder / "essays").glob("*.txt"))
            text = "".join(path.read_text(encoding="utf-8") for path in paths)
        return re.sub(r"\s+", " ", text).strip()

    @cached_property
    def sentence_starts(self) -> list[int]:
        """Where the sentences of ``essays`` begin, in characters."""
        # without a trained model, as those of nltk have to be downloaded
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        spans = PunktSentenceTokenizer().span_tokenize(self.essays)
        return [start for start, _ in spans]

    @property
    def larger_pool(self) -> str:
        """The pool for lists that need more words than wonderwords has."""
        return "pairs" if self._folder is None else "english_words"

    def pool(self, name: str) -> list[str]:
        """Return different words.

        Args:
            name: ``wonderwords``, ``english_words`` (NVIDIA's), or ``pairs`` of wonderwords.
        """
        if name not in self._pools:
            different = dict.fromkeys(self._read_pool(name))
            self._pools[name] = list(different)
        return self._pools[name]

    def _read_pool(self, name: str) -> list[str]:
        if name == "english_words":
            numbered = self._read_json("english_words.json")
            return list(numbered.values())
        if name == "pairs":
            return _read_pairs()

        words: set[str] = set()
        for part in _WORD_LISTS:
            words.update(word_list(part))
        return sorted(words)

    def questions(self, task: str) -> Questions:
        """Return the questions of ``qa_1`` (SQuAD) or ``qa_2`` (HotpotQA), or the project's own."""
        if task not in self._questions:
            self._questions[task] = self._read_questions(task)
        return self._questions[task]

    def _read_questions(self, task: str) -> Questions:
        from evaluation.ruler.fallback import made_up_questions

        if task == "qa_1":
            articles = self._read_json("squad.json")
            return parse_squad(articles or made_up_questions.squad_format())
        questions = self._read_json("hotpotqa.json")
        return parse_hotpotqa(questions or made_up_questions.hotpotqa_format())

    def _read_json(self, name: str) -> Any:
        """Return the content of a fetched file, whose checksum ``load`` has compared, or None."""
        if self._folder is None:
            return None
        path = self._folder / name
        return json.loads(path.read_text(encoding="utf-8"))


@cache
def word_list(part: str) -> list[str]:
    """Return wonderwords' list of ``adjective``, ``noun`` or ``verb``."""
    path = files("wonderwords.assets") / f"{part}list.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.rstrip() for line in lines]


def _read_pairs() -> list[str]:
    """Return pairs of an adjective and a noun, evenly spaced among all pairs."""
    adjectives = word_list("adjective")
    nouns = word_list("noun")
    step = len(adjectives) * len(nouns) // _PAIRS

    pairs = []
    for number in range(_PAIRS):
        adjective, noun = divmod(number * step, len(nouns))
        pairs.append(f"{adjectives[adjective]}-{nouns[noun]}")
    return pairs


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
