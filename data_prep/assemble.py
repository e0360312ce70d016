"""A data folder from tokenized components: one manifest over their shards, with the tokenizer that wrote them."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.blend import MANIFEST, TOKENIZER
from data_prep.indexed import token_type
from data_prep.tokenizer import fingerprint, vocab_size
from recipes.spec.errors import UserError
from recipes.spec.files import whole_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_ADDED_UP = ("documents", "tokens", "bytes")
# of Megatron's .idx: a header and a last boundary; and of each document its length, its place and its boundary
_INDEX_BYTES, _INDEX_BYTES_PER_DOCUMENT = 34 + 8, 4 + 8 + 8


def parse_components(words: Sequence[str]) -> dict[str, Path]:
    """Return name -> folder of words such as ``code=prepared/code``.

    Raises:
        UserError: a word of another form, or a name given twice.
    """
    components: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(f"{word}: expected NAME=COMPONENT_DIR, such as code=prepared/code; name both")
        if name in components:
            raise UserError(f"{word}: component {name!r} is {components[name]} already; tokenize both into one folder")
        components[name] = Path(folder)
    return components


def assemble(output: Path, tokenizer: Path, components: Mapping[str, Path]) -> dict[str, Any]:
    """Write the data folder ``output``, which appears whole or not at all; the components' files stay where they are.

    Args:
        output: a folder that does not exist yet or is empty.
        tokenizer: the folder of the tokenizer that every component was encoded with; its files are copied.
        components: name in the mixture -> folder that ``granite41 data tokenize`` wrote.

    Returns:
        The manifest: ``components`` (name -> shards, each with its prefix relative to ``output``, documents, tokens,
        bytes of text and SHA-256 of both files; their sums; sources and licences); ``tokenizer`` (folder, vocab_size,
        fingerprint).

    Raises:
        UserError: a component is unfinished, damaged, empty or of another tokenizer, a shard is given twice, or
            ``output`` holds something.
    """
    expected, entries = fingerprint(tokenizer), vocab_size(tokenizer)
    parts = {}
    seen: dict[str, Path] = {}
    for name, folder in components.items():
        component = _read(folder)
        found = component.pop("fingerprint")
        if found != expected:
            raise UserError(
                f"{folder}: was encoded with tokenizer {found[:12]} but {tokenizer} is {expected[:12]}; "
                f"name the tokenizer that encoded it, or encode it again"
            )
        shards = []
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
            shards.append({**shard, "prefix": os.path.relpath(prefix.resolve(), output.resolve())})
        parts[name] = {**component, "shards": shards}
    manifest = {
        "components": parts,
        "tokenizer": {"folder": TOKENIZER, "vocab_size": entries, "fingerprint": expected},
    }
    with whole_folder(output) as partial:
        (partial / TOKENIZER).mkdir()
        for file in TOKENIZER_FILES:
            if (tokenizer / file).exists():
                shutil.copyfile(tokenizer / file, partial / TOKENIZER / file)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    """What the data folder keeps of a component's manifest, and its fingerprint; the component is whole, not empty."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sums = {key: sum(shard[key] for shard in manifest["shards"]) for key in _ADDED_UP}
        stated = {key: manifest[key] for key in _ADDED_UP}
        told = {key: manifest[key] for key in ("sources", "licences")}
        found = manifest["tokenizer"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the manifest of a tokenized component, which is written last; "
            f"finish it with `granite41 data tokenize --output {folder}`"
        ) from error
    if sums != stated:
        raise UserError(f"{path}: states {stated} but its shards add up to {sums}; tokenize the component again")
    if not manifest["documents"]:
        raise UserError(f"{path}: the component holds no document, expected text; leave it out or tokenize some")
    return {"fingerprint": found, "shards": manifest["shards"], **stated, **told}


def _check_files(prefix: Path, shard: Mapping[str, Any], dtype: np.dtype) -> None:
    """Raise unless both files are there, with the sizes that the shard's documents and tokens imply."""
    expected = {
        "bin": shard["tokens"] * dtype.itemsize,
        "idx": _INDEX_BYTES + _INDEX_BYTES_PER_DOCUMENT * shard["documents"],
    }
    for kind, size in expected.items():
        file = Path(f"{prefix}.{kind}")
        if not file.is_file():
            raise UserError(f"{file}: no such file, but the manifest beside it names it; tokenize the component again")
        if file.stat().st_size != size:
            raise UserError(
                f"{file}: has {file.stat().st_size:,} bytes but the manifest's {shard['documents']:,} documents of "
                f"{shard['tokens']:,} tokens take {size:,}; tokenize the component again"
            )
