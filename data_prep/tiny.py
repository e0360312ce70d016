"""Data for size tiny: real text of this machine or of the user, a tokenizer trained on it, Megatron's files."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep import indexed, machine_text, tokenizer
from recipes.common import tokenizer_files
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.runs.data_folder import (
    MANIFEST,
    TOKENIZER,
    UNIGRAM_COUNTS,
    DataComponent,
    DataManifest,
    DataShard,
    DataTokenizer,
    read_data_manifest,
)
from recipes.runs.unigram_entropy import blend_entropy

log = logging.getLogger(__name__)

LICENCES = "LICENCES.md"


def prepare(
    output: Path,
    *,
    vocab_size: int = 2048,
    text: Path | None = None,
    say: Callable[[str], None] = log.info,
) -> DataManifest:
    """Collect text, train a tokenizer, encode, and write it all to ``output``, which appears whole or not at all.

    ``output`` receives ``tokenizer/``, ``COMPONENT.bin`` and ``.idx``, ``unigram_counts.json`` (component -> count of
    each token id), ``LICENCES.md`` and, last, ``manifest.json``. When it already holds a preparation from the same
    inputs, that one's manifest is returned at once.

    Args:
        output: a folder that does not exist yet, is empty, or holds an earlier preparation.
        vocab_size: entries of the tokenizer, its two special tokens included.
        text: a folder of the user's own text, to be used instead of what the machine holds.
        say: receives one line for each step that takes seconds.

    Returns:
        The manifest; each component has one shard.

    Raises:
        UserError: ``vocab_size`` or ``text`` cannot be used, ``output`` holds something else, or the disk is full.
    """
    tokenizer.check_vocab_size(vocab_size)
    inputs: dict[str, Any] = {"vocab_size": vocab_size}
    if text is None:
        inputs |= {
            "packages_sha256": machine_text.machine_fingerprint(),
            "byte_caps": machine_text.BYTE_CAPS,
        }
    else:
        if output.resolve().is_relative_to(text.resolve()):
            raise UserError(
                f"{output}: lies in the text folder {text} and would become its text; name one outside it"
            )
        own_text = _collect(say, lambda: machine_text.collect_folder(text))
        inputs["text_sha256"] = _text_sha256(own_text)
    manifest = _complete(output, inputs)
    if manifest:
        return manifest
    with atomic_directory(output) as folder:
        collection = _collect(say, machine_text.collect_machine) if text is None else own_text
        texts = {
            name: [document.text for document in documents]
            for name, documents in collection.components.items()
        }
        with _timed(say, "train the tokenizer") as found:
            trained = tokenizer.train(
                (text for part in texts.values() for text in part), vocab_size, folder / TOKENIZER
            )
            found.append(f"{vocab_size} entries")
        components, counts = {}, {}
        for name, documents in collection.components.items():
            with _timed(say, f"encode {name}") as found:
                occurrences = indexed.write(folder / name, texts[name], trained)
                found.append(f"{occurrences.sum()} tokens")
            counts[name] = occurrences.tolist()
            size = {
                "documents": len(documents),
                "tokens": sum(counts[name]),
                "bytes": sum(len(text.encode()) for text in texts[name]),
            }
            shard = DataShard(
                prefix=name,
                **size,
                bin_sha256=_file_sha256(folder / f"{name}.bin"),
                idx_sha256=_file_sha256(folder / f"{name}.idx"),
            )
            licenses = Counter(document.licence for document in documents)
            components[name] = DataComponent(
                shards=[shard],
                **size,
                licenses=dict(sorted(licenses.items())),
                left_out=dict(collection.left_out[name]),
                unigram_entropy=blend_entropy(counts, {name: 1.0}),
            )
        manifest = DataManifest(
            components,
            DataTokenizer(
                folder=TOKENIZER,
                vocab_size=tokenizer_files.vocab_size(folder / TOKENIZER),
                fingerprint=tokenizer_files.fingerprint(folder / TOKENIZER),
            ),
            inputs,
        )
        (folder / UNIGRAM_COUNTS).write_text(
            json.dumps(counts, separators=(",", ":")) + "\n", encoding="utf-8"
        )
        (folder / LICENCES).write_text(_licences(collection), encoding="utf-8")
        manifest.write(folder)
    return manifest


def _complete(output: Path, inputs: Mapping[str, Any]) -> DataManifest | None:
    """The manifest in ``output`` when it is of these inputs and every file that it names is there."""
    if not (output / MANIFEST).is_file():
        return None
    try:
        manifest = read_data_manifest(output)
    except UserError:
        return None
    if manifest.inputs != inputs:
        return None
    names = [UNIGRAM_COUNTS, LICENCES, f"{TOKENIZER}/tokenizer.json"]
    shards = manifest.shards()
    names += [f"{prefix}.{kind}" for prefix in shards for kind in ("bin", "idx")]
    return manifest if shards and all((output / name).is_file() for name in names) else None


def _collect(
    say: Callable[[str], None], collect: Callable[[], machine_text.Collection]
) -> machine_text.Collection:
    with _timed(say, "collect") as found:
        collection = collect()
        found += [
            f"{len(documents)} documents of {name}"
            for name, documents in collection.components.items()
        ]
    return collection


def _licences(collection: machine_text.Collection) -> str:
    """A Markdown table of every package whose text was used."""
    used = Counter(
        (document.package, document.licence, component)
        for component, documents in collection.components.items()
        for document in documents
    )
    rows = [
        f"| {package} | {licence} | {name} | {count} |"
        for (package, licence, name), count in sorted(used.items())
    ]
    return "\n".join(
        [
            "# Licences of the text in this folder",
            "",
            "As each package's own metadata states them; parts of a package may carry another one.",
            "",
            "| Package | Licence | Component | Documents |",
            "|---|---|---|---:|",
            *rows,
            "",
        ]
    )


@contextmanager
def _timed(say: Callable[[str], None], step: str) -> Iterator[list[str]]:
    """Say what a step yielded, as the caller appends it to the list, and its seconds."""
    found: list[str] = []
    start = time.perf_counter()
    yield found
    say(f"{step}: {', '.join(found)} ({time.perf_counter() - start:.1f} s)")


def _text_sha256(collection: machine_text.Collection) -> str:
    lines = [
        f"{hashlib.sha256(document.text.encode()).hexdigest()} {document.name}"
        for documents in collection.components.values()
        for document in documents
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
