"""A tokenized folder: the manifests of its shards, and its own over all of them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.json_files import parse_record, read_json, write_json
from recipes.common.tokenizer_files import TokenizerIdentity

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardSource:
    """A part of an input in a shard: its bounds as in :class:`data_prep.documents.Part`."""

    input: str
    start: int
    stop: int
    documents: int


@dataclass
class EncoderReport:
    """The library that encoded a shard, and how many documents were compared with the reference.

    The numbers are those of :class:`recipes.common.encoder.Encoder`.
    """

    name: str
    checked_documents: int = 0
    differing_documents: int = 0
    documents_with_newer_characters: int = 0


@dataclass
class ShardManifest:
    """The manifest of one shard.

    Attributes:
        documents, tokens, bytes: what it holds; tokens with end-of-text, bytes of text in UTF-8.
        bin_sha256, idx_sha256: of its two files, in hex.
        end_of_text_within_documents: how often a document spells the token out, and is cut there.
        left_out: reason -> records.
        sources: the parts that it was made of.
        license: of the text, as the user states it.
        tokenizer: that encoded it.
        encoder: the library that encoded it.
        notes: sentences on what was noticed.
    """

    documents: int
    tokens: int
    bytes: int
    bin_sha256: str
    idx_sha256: str
    end_of_text_within_documents: int
    left_out: dict[str, int]
    sources: list[ShardSource]
    license: str
    tokenizer: TokenizerIdentity
    encoder: EncoderReport
    notes: list[str]


@dataclass(frozen=True)
class TokenizedShard:
    """A shard in the folder's manifest; its files are ``prefix``.bin and ``prefix``.idx."""

    prefix: str
    documents: int
    tokens: int
    bytes: int
    bin_sha256: str
    idx_sha256: str


@dataclass(frozen=True)
class TokenizedManifest:
    """The manifest of a tokenized folder, written when all shards are finished.

    Attributes:
        documents, tokens, bytes: sums over the shards.
        left_out: reason -> records.
        licenses: license -> documents.
        sources: input -> documents.
        tokenizer: that encoded all shards.
        shards: those that hold a document.
        packed_tokens: the most tokens that ``granite41 data repositories`` packed into a document
            of an input; None where none is packed.
        passed_over: reason -> files of the inputs that were not read.
    """

    documents: int
    tokens: int
    bytes: int
    left_out: dict[str, int]
    licenses: dict[str, int]
    sources: dict[str, int]
    tokenizer: TokenizerIdentity
    shards: list[TokenizedShard]
    packed_tokens: int | None = None
    passed_over: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it to ``folder``, whole or not at all; without the keys that are None."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        write_json(folder / MANIFEST, values)


def read_manifest(folder: Path) -> TokenizedManifest:
    """Return the manifest of a tokenized folder.

    Raises:
        UserError: it is missing or damaged.
    """
    file = folder / MANIFEST
    remedy = f"finish the folder with `granite41 data tokenize --output {folder}`"
    values: dict[str, Any] = read_json(file, remedy)
    # folders from before the key was renamed
    if "licences" in values:
        values.setdefault("licenses", values["licences"])
    return parse_record(TokenizedManifest, values, str(file), remedy)
