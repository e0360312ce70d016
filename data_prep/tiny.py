"""Data for size tiny: text of this machine or of the user, a tokenizer of it, Megatron's files."""

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
from data_prep.machine_text import CollectedText, Collection
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory, write_text
from recipes.common.tokenizer_files import TokenizerFolder
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

LICENSES = "LICENSES.md"


def prepare(
    output: Path,
    *,
    vocab_size: int = 2048,
    text: Path | None = None,
) -> DataManifest:
    """Collect text, train a tokenizer, encode, and write ``output``, whole or not at all.

    ``output`` receives ``tokenizer/``, ``COMPONENT.bin`` and ``.idx``, ``unigram_counts.json``
    (component -> count of each token id), ``LICENSES.md`` and, last, ``manifest.json``. When it
    already holds a preparation from the same inputs, that one's manifest is returned at once.

    Args:
        output: a folder that does not exist yet, is empty, or holds an earlier preparation.
        vocab_size: entries of the tokenizer, its special tokens included.
        text: a folder of the user's own text, to be used instead of what the machine holds.

    Returns:
        The manifest; each component has one shard.

    Raises:
        UserError: ``vocab_size`` or ``text`` cannot be used, ``output`` holds something else, or
            the disk is full.
    """
    tokenizer.check_vocab_size(vocab_size)
    inputs: dict[str, Any] = {"vocab_size": vocab_size}
    collection = None
    if text is None:
        inputs["packages_sha256"] = machine_text.machine_fingerprint()
        inputs["byte_caps"] = machine_text.BYTE_CAPS
    else:
        collection = _collect_user_text(text, output)
        inputs["text_sha256"] = _collection_sha256(collection)

    # before the output is touched
    finished = _read_finished(output, inputs)
    if finished:
        return finished
    with atomic_directory(output) as folder:
        if collection is None:
            collection = _collect(machine_text.collect_machine)
        manifest = _write(folder, collection, vocab_size, inputs)
    return manifest


def _collect_user_text(text: Path, output: Path) -> Collection:
    if output.resolve().is_relative_to(text.resolve()):
        raise UserError(
            f"{output}: lies in the text folder {text} and would become its text; "
            f"name one outside it"
        )
    return _collect(lambda: machine_text.collect_folder(text))


def _collect(collect: Callable[[], Collection]) -> Collection:
    with _log_step("collect") as results:
        collection = collect()
        for name, documents in collection.components.items():
            results.append(f"{len(documents)} documents of {name}")
    return collection


def _write(
    folder: Path,
    collection: Collection,
    vocab_size: int,
    inputs: dict[str, Any],
) -> DataManifest:
    """Train the tokenizer, encode each component, and write everything to ``folder``."""
    with _log_step("train the tokenizer") as results:
        trained = tokenizer.train(_texts(collection), vocab_size, folder / TOKENIZER)
        results.append(f"{vocab_size} entries")

    # one .bin and .idx for each component
    components = {}
    counts = {}
    for name, documents in collection.components.items():
        with _log_step(f"encode {name}") as results:
            texts = [document.text for document in documents]
            occurrences = indexed.write(folder / name, texts, trained)
            results.append(f"{occurrences.sum()} tokens")
        counts[name] = occurrences.tolist()
        # of this component alone; a stage's blend is computed from the counts
        components[name] = _describe_component(
            folder / name,
            documents,
            collection.left_out[name],
            tokens=sum(counts[name]),
            unigram_entropy=blend_entropy(counts, {name: 1.0}),
        )

    identity = TokenizerFolder(folder / TOKENIZER).identity
    data_tokenizer = DataTokenizer(TOKENIZER, identity.vocab_size, identity.fingerprint)
    manifest = DataManifest(components, data_tokenizer, inputs)
    # a line of digits: an indented one would have a line for each token id
    content = json.dumps(counts, separators=(",", ":"))
    write_text(folder / UNIGRAM_COUNTS, content + "\n")
    write_text(folder / LICENSES, _license_table(collection))
    # last: it says that the folder is complete
    manifest.write(folder)
    return manifest


def _texts(collection: Collection) -> Iterator[str]:
    for documents in collection.components.values():
        for document in documents:
            yield document.text


def _describe_component(
    prefix: Path,
    documents: list[CollectedText],
    left_out: Mapping[str, int],
    tokens: int,
    unigram_entropy: float,
) -> DataComponent:
    size = sum(len(document.text.encode()) for document in documents)
    shard = DataShard(
        prefix=prefix.name,
        documents=len(documents),
        tokens=tokens,
        bytes=size,
        bin_sha256=_file_sha256(Path(f"{prefix}.bin")),
        idx_sha256=_file_sha256(Path(f"{prefix}.idx")),
    )
    licenses = Counter(document.license for document in documents)
    return DataComponent(
        shards=[shard],
        documents=len(documents),
        tokens=tokens,
        bytes=size,
        licenses=dict(sorted(licenses.items())),
        left_out=dict(left_out),
        unigram_entropy=unigram_entropy,
    )


def _read_finished(output: Path, inputs: Mapping[str, Any]) -> DataManifest | None:
    """The manifest in ``output`` when it is of these inputs and every file that it names exists."""
    if not (output / MANIFEST).is_file():
        return None
    try:
        manifest = read_data_manifest(output)
    except UserError:
        return None
    if manifest.inputs != inputs:
        return None
    # an interrupted copy of the folder may lack some
    names = [UNIGRAM_COUNTS, f"{TOKENIZER}/tokenizer.json"]
    for prefix in manifest.shards():
        names += [f"{prefix}.bin", f"{prefix}.idx"]
    if not all((output / name).is_file() for name in names):
        return None
    return manifest


def _license_table(collection: Collection) -> str:
    """A Markdown table of every package whose text was used."""
    used = Counter[tuple[str, str, str]]()
    for component, documents in collection.components.items():
        for document in documents:
            used[document.package, document.license, component] += 1
    lines = [
        "# Licenses of the text in this folder",
        "",
        "As each package's own metadata states them; parts of a package may carry another one.",
        "",
        "| Package | License | Component | Documents |",
        "|---|---|---|---:|",
    ]
    for (package, license, component), count in sorted(used.items()):
        lines.append(f"| {package} | {license} | {component} | {count} |")
    return "\n".join([*lines, ""])


@contextmanager
def _log_step(step: str) -> Iterator[list[str]]:
    """Log what a step yielded, as the caller appends it to the list, and its seconds."""
    results: list[str] = []
    start = time.perf_counter()
    yield results
    seconds = time.perf_counter() - start
    log.info("%s: %s (%.1f s)", step, ", ".join(results), seconds)


def _collection_sha256(collection: Collection) -> str:
    # one line for each text, as sha256sum prints it
    lines = []
    for documents in collection.components.values():
        for document in documents:
            digest = hashlib.sha256(document.text.encode()).hexdigest()
            lines.append(f"{digest} {document.name}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
