"""A data folder from tokenized components: one manifest over their shards, and their tokenizer."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.indexed import index_bytes, token_type
from data_prep.tokenized_folder import (
    MANIFEST,
    TokenizedManifest,
    TokenizedShard,
    read_manifest,
)
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.json_files import read_json
from recipes.common.tokenizer_files import TokenizerFolder, TokenizerIdentity
from recipes.model_folder.files import copy_files, tokenizer_files
from recipes.runs.data_folder import (
    TOKENIZER,
    DataComponent,
    DataManifest,
    DataShard,
    DataTokenizer,
    read_data_manifest,
)

_TOTALS = ("documents", "tokens", "bytes")


@dataclass(frozen=True)
class TokenizedFolder:
    """A folder that ``granite41 data tokenize`` wrote, as a source of a component.

    Attributes:
        folder: its path.
        weight: in its component; None leaves it to the tokens.
    """

    folder: Path
    weight: float | None = None


def parse_components(words: Sequence[str]) -> dict[str, list[TokenizedFolder]]:
    """Return name -> sources of words such as ``code=prepared/code`` or ``math=finemath:0.7``.

    Raises:
        UserError: a word of another form, or weights that are negative, all zero, or missing for a
            part of a component.
    """
    components: dict[str, list[TokenizedFolder]] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if not (name and equals and rest):
            raise UserError(
                f"{word}: expected NAME=DIR or NAME=DIR:WEIGHT, such as code=prepared/code; "
                f"name both"
            )
        components.setdefault(name, []).append(_parse_source(rest))
    for name, sources in components.items():
        _check_weights(name, sources)
    return components


def _parse_source(text: str) -> TokenizedFolder:
    folder, colon, weight = text.rpartition(":")
    if not colon:
        return TokenizedFolder(Path(text))
    try:
        return TokenizedFolder(Path(folder), float(weight))
    except ValueError:
        # the colon is part of the path
        return TokenizedFolder(Path(text))


def _check_weights(name: str, sources: Sequence[TokenizedFolder]) -> None:
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return
    if len(weights) < len(sources):
        raise UserError(
            f"{name}: {len(weights)} of {len(sources)} sources have a weight; "
            f"give all of them one, or none"
        )
    is_valid = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not is_valid or not sum(weights):
        raise UserError(
            f"{name}: its sources have weights {weights}, expected none below 0 and one above; "
            f"correct them"
        )


def assemble(
    output: Path, tokenizer: Path, components: Mapping[str, Sequence[TokenizedFolder]]
) -> DataManifest:
    """Write the data folder ``output``, whole or not at all; the components' files stay in place.

    Args:
        output: a folder that does not exist yet or is empty.
        tokenizer: the folder of the tokenizer that every component was encoded with; its files are
            copied.
        components: name in the mixture -> its sources.

    Returns:
        The manifest; the shards' prefixes are relative to ``output``.

    Raises:
        UserError: a component is unfinished, damaged, empty or of another tokenizer, a shard occurs
            twice, or ``output`` holds something.
    """
    assembler = _Assembler(output, tokenizer)
    assembled = {name: assembler.join(name, sources) for name, sources in components.items()}
    manifest = DataManifest(assembled, assembler.data_tokenizer)
    with atomic_directory(output) as partial:
        (partial / TOKENIZER).mkdir()
        copy_files(tokenizer, tokenizer_files(tokenizer), partial / TOKENIZER)
        manifest.write(partial)
    return manifest


def _read_source(folder: Path, component: str) -> TokenizedManifest:
    """Return the manifest of a tokenized folder, or of a component of a data folder as such.

    Raises:
        UserError: neither is there, or it is damaged; the data folder has no such component, or one
            whose sources have weights.
    """
    path = folder / MANIFEST
    is_data_folder = path.exists() and "components" in read_json(path, "assemble the data again")
    if not is_data_folder:
        return read_manifest(folder)

    data = read_data_manifest(folder)
    if component not in data.components:
        raise UserError(
            f"{folder}: a data folder without a component {component!r}, it has "
            f"{', '.join(data.components)}; name one of them, or a tokenized folder"
        )
    found = data.components[component]
    if any(shard.share is not None for shard in found.shards):
        raise UserError(
            f"{folder}: the sources of its component {component!r} have weights of their own; "
            f"name the tokenized folders that they are"
        )
    shards = []
    for shard in found.shards:
        fields = asdict(shard)
        fields.pop("share")
        shards.append(TokenizedShard(**fields))
    # the data folder's own tokenizer ends its documents
    tokenizer = TokenizerIdentity(
        data.tokenizer.fingerprint,
        data.tokenizer.vocab_size,
        TokenizerFolder(folder / data.tokenizer.folder).end_of_text,
    )
    return TokenizedManifest(
        documents=found.documents,
        tokens=found.tokens,
        bytes=found.bytes,
        left_out=found.left_out,
        licenses=found.licenses,
        sources=found.sources,
        tokenizer=tokenizer,
        shards=shards,
        packed_tokens=found.packed_tokens,
    )


class _Assembler:
    """Joins tokenized folders to components.

    Attributes:
        tokenizer: that all of them must have.
        data_tokenizer: the same for the data folder's manifest.
    """

    def __init__(self, output: Path, tokenizer: Path) -> None:
        self.tokenizer = TokenizerFolder(tokenizer)
        self._identity = self.tokenizer.identity
        self.data_tokenizer = DataTokenizer(
            TOKENIZER, self._identity.vocab_size, self._identity.fingerprint
        )
        self._output = output
        self._prefix_of_sha256: dict[str, Path] = {}

    def join(self, name: str, sources: Sequence[TokenizedFolder]) -> DataComponent:
        """Return the component ``name`` that consists of ``sources``."""
        total_weight = sum(source.weight or 0 for source in sources)
        shards = []
        totals = Counter(dict.fromkeys(_TOTALS, 0))
        inputs = Counter[str]()
        licenses = Counter[str]()
        packed_tokens = 0

        for source in sources:
            manifest = _read_source(source.folder, name)
            self._check_manifest(source.folder, manifest)
            for shard in manifest.shards:
                if not shard.documents:
                    continue
                # a source's share of the component is divided over its shards by their tokens
                share = None
                if source.weight is not None:
                    share = source.weight / total_weight * shard.tokens / manifest.tokens
                prefix = source.folder / shard.prefix
                self._check_shard(prefix, shard)
                # relative, so that the folders can be moved together
                relative = os.path.relpath(prefix.resolve(), self._output.resolve())
                fields = asdict(shard)
                fields["prefix"] = relative
                shards.append(DataShard(**fields, share=share))

            totals.update({key: getattr(manifest, key) for key in _TOTALS})
            inputs.update(manifest.sources)
            licenses.update(manifest.licenses)
            packed_tokens = max(packed_tokens, manifest.packed_tokens or 0)
        return DataComponent(
            shards=shards,
            documents=totals["documents"],
            tokens=totals["tokens"],
            bytes=totals["bytes"],
            sources=dict(inputs),
            licenses=dict(licenses),
            packed_tokens=packed_tokens,
        )

    def _check_manifest(self, folder: Path, manifest: TokenizedManifest) -> None:
        """Raise unless a source is consistent, not empty, and of this tokenizer."""
        file = folder / MANIFEST
        # a manifest that was edited, or mixed from two
        stated = {key: getattr(manifest, key) for key in _TOTALS}
        sums = Counter(dict.fromkeys(_TOTALS, 0))
        for shard in manifest.shards:
            sums.update({key: getattr(shard, key) for key in _TOTALS})
        if sums != stated:
            raise UserError(
                f"{file}: states {stated} but its shards add up to {dict(sums)}; "
                f"tokenize the component again"
            )
        if not manifest.documents:
            raise UserError(
                f"{file}: the component holds no document, expected text; "
                f"leave it out or tokenize some"
            )
        self._check_tokenizer(folder, manifest.tokenizer)

    def _check_tokenizer(self, folder: Path, encoded_with: TokenizerIdentity) -> None:
        """Raise unless a source was encoded with this tokenizer."""
        tokenizer = self.tokenizer
        expected = self._identity
        remedy = "name the tokenizer that encoded it, or encode it again"
        if not tokenizer.has_fingerprint(encoded_with.fingerprint):
            raise UserError(
                f"{folder}: was encoded with tokenizer {encoded_with.fingerprint[:12]} but "
                f"{tokenizer.folder} is {expected.fingerprint[:12]}; {remedy}"
            )
        # fingerprints of former versions of this project hold neither
        for key in ("end_of_text", "vocab_size"):
            found = getattr(encoded_with, key)
            value = getattr(expected, key)
            if found != value:
                raise UserError(
                    f"{folder}: was encoded with {key} {found}, but {tokenizer.folder} has "
                    f"{value}; {remedy}"
                )

    def _check_shard(self, prefix: Path, shard: TokenizedShard) -> None:
        """Raise unless the shard is new, and its files have the sizes that the manifest implies."""
        # sizes are enough: hashing terabytes would take hours
        sizes = {
            "bin": shard.tokens * token_type(self._identity.vocab_size).itemsize,
            "idx": index_bytes(shard.documents),
        }
        for kind, size in sizes.items():
            file = Path(f"{prefix}.{kind}")
            if not file.is_file():
                raise UserError(
                    f"{file}: no such file, but the manifest next to it names it; "
                    f"tokenize the component again"
                )
            file_size = file.stat().st_size
            if file_size != size:
                raise UserError(
                    f"{file}: has {file_size:,} bytes but the manifest's {shard.documents:,} "
                    f"documents of {shard.tokens:,} tokens take {size:,}; "
                    f"tokenize the component again"
                )
        same = self._prefix_of_sha256.get(shard.bin_sha256)
        if same:
            raise UserError(
                f"{prefix}: holds the same tokens as {same} and would be read twice; "
                f"leave one of them out"
            )
        self._prefix_of_sha256[shard.bin_sha256] = prefix
