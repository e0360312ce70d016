"""A data folder from tokenized components: one manifest over their shards, with the tokenizer that wrote them."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.indexed import token_type
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.tokenizer_files import fingerprint, vocab_size
from recipes.runs.data_folder import (
    MANIFEST,
    TOKENIZER,
    DataComponent,
    DataManifest,
    DataShard,
    DataTokenizer,
)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_ADDED_UP = ("documents", "tokens", "bytes")
# of Megatron's .idx: a header and a last boundary; and of each document its length, its place and its boundary
_INDEX_BYTES, _INDEX_BYTES_PER_DOCUMENT = 34 + 8, 4 + 8 + 8


@dataclass(frozen=True)
class Source:
    """A folder that ``granite41 data tokenize`` wrote, and its weight in its component; None leaves it to tokens."""

    folder: Path
    weight: float | None = None


def parse_components(words: Sequence[str]) -> dict[str, list[Source]]:
    """Return name -> sources of words such as ``code=prepared/code`` or ``math=prepared/finemath:0.7``.

    Raises:
        UserError: a word of another form, or weights that are negative, all zero, or given for a part of a component.
    """
    components: dict[str, list[Source]] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if not (name and equals and rest):
            raise UserError(
                f"{word}: expected NAME=DIR or NAME=DIR:WEIGHT, such as code=prepared/code; name both"
            )
        folder, colon, weight = rest.rpartition(":")
        try:
            source = Source(Path(folder), float(weight)) if colon else Source(Path(rest))
        except ValueError:
            source = Source(Path(rest))
        components.setdefault(name, []).append(source)
    for name, sources in components.items():
        weights = [source.weight for source in sources if source.weight is not None]
        if weights and len(weights) < len(sources):
            raise UserError(
                f"{name}: {len(weights)} of {len(sources)} sources have a weight; give all of them one, or none"
            )
        if any(not math.isfinite(weight) or weight < 0 for weight in weights) or (
            weights and not sum(weights)
        ):
            raise UserError(
                f"{name}: its sources have weights {weights}, expected none below 0 and one above; correct them"
            )
    return components


def assemble(
    output: Path, tokenizer: Path, components: Mapping[str, Sequence[Source]]
) -> DataManifest:
    """Write the data folder ``output``, which appears whole or not at all; the components' files stay where they are.

    Args:
        output: a folder that does not exist yet or is empty.
        tokenizer: the folder of the tokenizer that every component was encoded with; its files are copied.
        components: name in the mixture -> its sources.

    Returns:
        The manifest.

    Raises:
        UserError: a component is unfinished, damaged, empty or of another tokenizer, a shard is given twice, or
            ``output`` holds something.
    """
    expected, entries = fingerprint(tokenizer), vocab_size(tokenizer)
    parts: dict[str, DataComponent] = {}
    seen: dict[str, Path] = {}
    for name, sources in components.items():
        shards: list[DataShard] = []
        totals: Counter[str] = Counter()
        inputs: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        packed_tokens = 0
        whole = sum(source.weight or 0 for source in sources)
        for folder, weight in ((source.folder, source.weight) for source in sources):
            component = _read(folder)
            if component["fingerprint"] != expected:
                raise UserError(
                    f"{folder}: was encoded with tokenizer {component['fingerprint'][:12]} but {tokenizer} is "
                    f"{expected[:12]}; name the tokenizer that encoded it, or encode it again"
                )
            for shard in component["shards"]:
                if not shard["documents"]:
                    continue
                prefix = folder / shard["prefix"]
                _check_files(prefix, shard, token_type(entries))
                if shard["bin_sha256"] in seen:
                    raise UserError(
                        f"{prefix}: holds the same tokens as {seen[shard['bin_sha256']]} and would be read twice; "
                        f"leave one of them out"
                    )
                seen[shard["bin_sha256"]] = prefix
                share = None
                if weight is not None:
                    share = weight / whole * shard["tokens"] / component["tokens"]
                relative = os.path.relpath(prefix.resolve(), output.resolve())
                shards.append(DataShard(**{**shard, "prefix": relative}, share=share))
            totals.update({key: component[key] for key in _ADDED_UP})
            inputs.update(component["sources"])
            licenses.update(component["licences"])
            packed_tokens = max(packed_tokens, component["packed_tokens"])
        parts[name] = DataComponent(
            shards=shards,
            documents=totals["documents"],
            tokens=totals["tokens"],
            bytes=totals["bytes"],
            sources=dict(inputs),
            licenses=dict(licenses),
            packed_tokens=packed_tokens,
        )
    manifest = DataManifest(parts, DataTokenizer(TOKENIZER, entries, expected))
    with atomic_directory(output) as partial:
        (partial / TOKENIZER).mkdir()
        for file in TOKENIZER_FILES:
            if (tokenizer / file).exists():
                shutil.copyfile(tokenizer / file, partial / TOKENIZER / file)
        manifest.write(partial)
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    """What the data folder keeps of a component's manifest, and its fingerprint; the component is whole, not empty."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sums = {key: sum(shard[key] for shard in manifest["shards"]) for key in _ADDED_UP}
        stated = {key: manifest[key] for key in _ADDED_UP}
        licences = manifest["licenses"] if "licenses" in manifest else manifest["licences"]
        told = {"sources": manifest["sources"], "licences": licences}
        found = manifest["tokenizer"]["fingerprint"]
        packed = int(manifest.get("packed_tokens", 0))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: not the manifest of a tokenized component, which is written last; "
            f"finish it with `granite41 data tokenize --output {folder}`"
        ) from error
    if sums != stated:
        raise UserError(
            f"{path}: states {stated} but its shards add up to {sums}; tokenize the component again"
        )
    if not manifest["documents"]:
        raise UserError(
            f"{path}: the component holds no document, expected text; leave it out or tokenize some"
        )
    return {
        "fingerprint": found,
        "shards": manifest["shards"],
        "packed_tokens": packed,
        **stated,
        **told,
    }


def _check_files(prefix: Path, shard: Mapping[str, Any], dtype: np.dtype) -> None:
    """Raise unless both files are there, with the sizes that the shard's documents and tokens imply."""
    expected = {
        "bin": shard["tokens"] * dtype.itemsize,
        "idx": _INDEX_BYTES + _INDEX_BYTES_PER_DOCUMENT * shard["documents"],
    }
    for kind, size in expected.items():
        file = Path(f"{prefix}.{kind}")
        if not file.is_file():
            raise UserError(
                f"{file}: no such file, but the manifest beside it names it; tokenize the component again"
            )
        if file.stat().st_size != size:
            raise UserError(
                f"{file}: has {file.stat().st_size:,} bytes but the manifest's {shard['documents']:,} documents of "
                f"{shard['tokens']:,} tokens take {size:,}; tokenize the component again"
            )
