"""A tokenizer's folder in the Hugging Face format: loaded, numbered and told apart in one place."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from recipes.common.errors import UserError
from recipes.common.json_files import read_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
SPECIAL_ROLES = ("bos_token", "eos_token", "pad_token")

# The languages that Granite 4.1 names, code, digits and white space: where split expressions and
# loaders differ.
FINGERPRINT_TEXT = (
    "It's 2026; WE'LL count 1234567890 tokens at 3.14 each.\n\n"
    "Straße, größer · el niño comió 12 piñas · l'été à Noël · coração, são · "
    "příliš žluťoučký kůň · perché no?\n"
    "één ijsje · 日本語のテキスト、百二十三 · 中文分词测试2026年 · 한국어 문장입니다 · "
    "السلام عليكم ١٢٣ · 🙂👩‍💻\r\n"
    "def f(x: int) -> float:\n    if x != 0x1F:\n\t\treturn x ** -0.5  # trailing   \n\n\n"
    "    raise Error(f'{x!r}')\n"
)

# far beyond any model's; gigatoken takes 60 bytes for each id
_HIGHEST_ID = (1 << 24) - 1
_REMEDY = "name the folder of a Hugging Face tokenizer, or fetch it again"
# the least that the library loads, to find the damaged key of a file that it does not
_LEAST: dict[str, Any] = {"model": {"type": "BPE", "vocab": {}, "merges": []}}


@dataclass(frozen=True)
class TokenizerIdentity:
    """What tells tokenizers apart.

    Attributes:
        fingerprint: of :class:`TokenizerFolder`.
        vocab_size: the highest id plus one.
        end_of_text: id of the token that ends a document.
    """

    fingerprint: str
    vocab_size: int
    end_of_text: int


@dataclass(frozen=True)
class Renumbered:
    """An added token to which the library gives another id than tokenizer.json states."""

    text: str
    stated: int
    given: int


class TokenizerFolder:
    """A tokenizer's folder, read once.

    Attributes:
        folder: its path.
        tokenizer: of :func:`load`.
        special_tokens: of :func:`special_tokens`.
        entries: text of each token -> its id, added tokens included.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json and the names of the special tokens.

        Raises:
            UserError: tokenizer.json is missing, or a file is damaged.
        """
        self.folder = folder
        self.tokenizer, self._renumbered = _load(folder / TOKENIZER)
        self.special_tokens = special_tokens(folder)
        self.entries = self.tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Of :func:`vocab_size`."""
        return vocab_size(self.entries)

    @property
    def special_ids(self) -> dict[str, int | None]:
        """Role -> id of its token; None for a token that is no entry."""
        return {role: self.entries.get(token) for role, token in self.special_tokens.items()}

    @property
    def end_of_text(self) -> int:
        """Id of the token that ends a document.

        Raises:
            UserError: the folder names none, or one that is no entry.
        """
        token = self.special_tokens.get("eos_token")
        file = self.folder / CONFIG
        if token is None:
            raise UserError(
                f"{file}: names no eos_token, expected the one that ends a document; add it"
            )
        if token not in self.entries:
            raise UserError(
                f"{file}: eos_token {token!r} is no entry of {TOKENIZER}; "
                f"the two files do not belong together"
            )
        return self.entries[token]

    @cached_property
    def text_ids(self) -> list[int]:
        """Ids of :data:`FINGERPRINT_TEXT`, without special tokens added.

        Raises:
            UserError: the tokenizer cannot encode it.
        """
        try:
            return self.tokenizer.encode(FINGERPRINT_TEXT, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{self.folder / TOKENIZER}: cannot encode text ({_reason(error)}); {_REMEDY}"
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of :attr:`text_ids`, entries, added tokens and special tokens, as JSON."""
        by_id = sorted(self.entries.items(), key=itemgetter(1, 0))
        added = self.tokenizer.get_added_tokens_decoder()
        content = [self.text_ids, by_id, sorted(added), sorted(self.special_ids.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def identity(self) -> TokenizerIdentity:
        """What manifests state of the tokenizer; raises as :attr:`end_of_text`."""
        return TokenizerIdentity(self.fingerprint, self.vocab_size, self.end_of_text)

    def check_rows(self, rows: int) -> None:
        """Check that a model with ``rows`` rows of the embedding has one for each id.

        Raises:
            UserError: it has not.
        """
        if self.vocab_size > rows:
            raise UserError(
                f"{self.folder}: the tokenizer has ids up to {self.vocab_size - 1:,} but the model "
                f"only {rows:,} rows; use the tokenizer of the model"
            )

    def check_library_ids(self) -> None:
        """Check that transformers, which loads tokenizer.json by itself, gives the ids it states.

        Raises:
            UserError: an added token gets another one.
        """
        if self._renumbered:
            token = self._renumbered[0]
            raise UserError(
                f"{self.folder / TOKENIZER}: states id {token.stated} for the added token "
                f"{token.text!r}, but transformers gives it {token.given}; write the token into "
                f"model.vocab too, with its id"
            )

    def has_fingerprint(self, stated: str) -> bool:
        """Whether a manifest states this tokenizer.

        Manifests of former versions of this project state :func:`fingerprint_ids`.
        """
        return stated in (self.fingerprint, fingerprint_ids(self.text_ids))

    def difference(self, other: "TokenizerFolder") -> str | None:
        """Return what ``other`` has otherwise, as half a sentence; None where nothing."""
        for role in SPECIAL_ROLES:
            found = other._special_token(role)
            expected = self._special_token(role)
            if found != expected:
                return f"its {role} is {found} in place of {expected}"

        tokens = self.entries.keys() | other.entries.keys()
        differing = [
            token for token in tokens if self.entries.get(token) != other.entries.get(token)
        ]
        if differing:
            token = min(differing)
            return (
                f"{len(differing)} of its tokens have other ids, such as {token!r} with "
                f"{other.entries.get(token)} in place of {self.entries.get(token)}"
            )
        if self.fingerprint != other.fingerprint:
            return "it splits text into other tokens"
        return None

    def _special_token(self, role: str) -> str:
        token = self.special_tokens.get(role)
        if token is None:
            return "not named"
        return f"{token!r} ({self.entries.get(token, 'no entry')})"


def load(folder: Path) -> Tokenizer:
    """Load ``folder``'s tokenizer.json with the ids that it states.

    Its ``truncation`` and ``padding`` are ignored, as in Megatron and transformers, and so is the
    class that tokenizer_config.json names.

    Raises:
        UserError: the file is missing, damaged, or states two ids for a token.
    """
    tokenizer, _ = _load(folder / TOKENIZER)
    return tokenizer


def vocab_size(entries: Mapping[str, int]) -> int:
    """Return the highest id plus one: more than the number of entries where ids are left out."""
    return max(entries.values(), default=-1) + 1


def _load(file: Path) -> tuple[Tokenizer, list[Renumbered]]:
    """Return the tokenizer, and the added tokens to which the library gives other ids."""
    settings = read_json(file, _REMEDY)
    with _library_errors(file, settings):
        tokenizer = Tokenizer.from_file(str(file))
    _check_ids(file, settings)
    renumbered = _renumbered_tokens(tokenizer, settings)
    if renumbered:
        _move_to_model(file, settings)
        with _library_errors(file, settings):
            tokenizer = Tokenizer.from_str(json.dumps(settings))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, renumbered


def _check_ids(file: Path, settings: dict[str, Any]) -> None:
    """Raise where an id is beyond :data:`_HIGHEST_ID`; the library has checked their types."""
    ids = [token["id"] for token in settings.get("added_tokens", [])]
    vocab = settings["model"]["vocab"]
    if isinstance(vocab, dict):
        ids += vocab.values()
    highest = max(ids, default=0)
    if highest > _HIGHEST_ID:
        raise UserError(
            f"{file}: states id {highest:,}, expected at most {_HIGHEST_ID:,}; {_REMEDY}"
        )


@contextmanager
def _library_errors(file: Path, settings: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises nothing narrower
        key = _damaged_key(settings)
        where = f"key {key!r}: " if key else ""
        raise UserError(
            f"{file}: is no Hugging Face tokenizer ({where}{_reason(error)}); {_REMEDY}"
        ) from error


def _damaged_key(settings: dict[str, Any]) -> str | None:
    """Return the first key whose value the library refuses; None where one is missing."""
    for key, value in settings.items():
        try:
            Tokenizer.from_str(json.dumps({**_LEAST, key: value}))
        except Exception:  # the library raises nothing narrower
            return key
    return None


def _renumbered_tokens(tokenizer: Tokenizer, settings: dict[str, Any]) -> list[Renumbered]:
    """Return the added tokens that the library numbers by itself, from the number of entries on."""
    renumbered = []
    for token in settings.get("added_tokens", []):
        given = tokenizer.token_to_id(token["content"])
        if given != token["id"]:
            renumbered.append(Renumbered(token["content"], token["id"], given))
    return renumbered


def _move_to_model(file: Path, settings: dict[str, Any]) -> None:
    """Make the added tokens entries of the model, whose ids the library keeps.

    Text never becomes such an entry but as the added token, which is searched for first.
    """
    vocab = settings["model"]["vocab"]
    # a unigram model's entries are a list, numbered by their position
    if not isinstance(vocab, dict):
        raise UserError(
            f"{file}: its added tokens do not continue the ids of model.vocab, which has no holes "
            f"in a unigram model; {_REMEDY}"
        )
    text_of_id = {number: text for text, number in vocab.items()}
    for token in settings["added_tokens"]:
        text = token["content"]
        number = token["id"]
        same_id = text_of_id.setdefault(number, text)
        same_text = vocab.setdefault(text, number)
        if same_id != text or same_text != number:
            raise UserError(
                f"{file}: states id {number} for the added token {text!r}, but it has "
                f"{same_id!r} with this id and {same_text} for this token; {_REMEDY}"
            )


def special_tokens(folder: Path) -> dict[str, str]:
    """Return ``bos_token``, ``eos_token`` and ``pad_token`` -> text, those that the folder names.

    A key of tokenizer_config.json counts, also as null; special_tokens_map.json adds the keys that
    it lacks, but as in transformers not where it has ``added_tokens_decoder``.

    Raises:
        UserError: a file is damaged.
    """
    values: dict[str, Any] = {}
    file_of: dict[str, Path] = {}
    for name in (CONFIG, SPECIAL_TOKENS_MAP):
        file = folder / name
        if "added_tokens_decoder" in values or not file.exists():
            continue
        stated = read_json(file, _REMEDY)
        values = stated | values
        file_of = dict.fromkeys(stated, file) | file_of

    named = {}
    for role in SPECIAL_ROLES:
        value = values.get(role)
        # a token with its settings
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            named[role] = text
        elif value is not None:
            raise UserError(
                f"{file_of[role]}: key {role!r} holds {value!r:.60}, expected a token's text, or "
                f"an object with it as content; {_REMEDY}"
            )
    return named


def fingerprint_ids(ids: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of ``ids`` written as decimal numbers with commas.

    A loader splits text as tokenizer.json does where its ids of :data:`FINGERPRINT_TEXT`, without
    special tokens added, have the same as :attr:`TokenizerFolder.text_ids`.
    """
    numbers = ",".join(map(str, ids))
    return hashlib.sha256(numbers.encode()).hexdigest()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
