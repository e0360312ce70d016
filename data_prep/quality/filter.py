"""Filter text through quality steps into shards of JSON lines, with an audit of what was removed.

Without a search for duplicates there is one pass. With it there are three: signatures of every
document that the earlier steps leave, the decision which of them are removed, and the pass that
writes. Each resumes where it was interrupted.

The output holds shard-NNNNN.jsonl.zst (the records with all their fields),
shard-NNNNN.removed.jsonl (a line for each document removed: ``input``, ``record``, ``step``,
``reason``, and ``duplicates`` and ``similarity``, or ``ngram`` and ``suite``), shard-NNNNN.json,
and at the end manifest.json: ``documents_in``, ``documents``, ``changed``, ``removed`` (step ->
documents), ``bytes_in`` and ``bytes`` (of text in UTF-8), ``settings``, ``evaluation`` (suite ->
texts, too_short), ``inputs``, ``passed_over`` (reason -> files of the inputs that were not read).
``documents_in`` is ``documents`` and all removed.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from data_prep import documents, shards
from data_prep.documents import Document, Part
from data_prep.input_files import counts
from data_prep.quality import contamination, duplicates, steps
from data_prep.records import to_json
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.json_files import write_json
from recipes.common.locks import file_lock

MANIFEST = "manifest.json"
_PASSES = ".passes"  # in the output, until it is complete
_ZSTANDARD_LEVEL = 3


@dataclass(frozen=True)
class Steps:
    """What to do, in the order of the attributes; besides, empty documents are always removed.

    Attributes:
        normalize: see :func:`steps.normalize`.
        min_characters, max_characters: limits of a text's length, both allowed lengths.
        exact_duplicates: keep the first of equal texts.
        near_duplicates: keep the first of texts with at least this Jaccard similarity of their sets
            of word 5-grams.
        decontaminate: specs of evaluation texts, see :func:`contamination.build`.
        ngram_words: words of the n-grams that a text must not share with them.
    """

    normalize: bool = False
    min_characters: int | None = None
    max_characters: int | None = None
    exact_duplicates: bool = False
    near_duplicates: float | None = None
    decontaminate: tuple[str, ...] = ()
    ngram_words: int = contamination.NGRAM_WORDS

    @property
    def find_duplicates(self) -> bool:
        """Whether documents are compared with each other."""
        return self.exact_duplicates or self.near_duplicates is not None

    def names(self) -> list[str]:
        """Return the names of the chosen steps, in order."""
        values = asdict(self)
        # no step, but how one works
        del values["ngram_words"]
        return [name for name, value in values.items() if value not in (None, False, ())]

    def check(self) -> None:
        """Raise a :class:`UserError` if no step is chosen, or no text could pass."""
        if not self.names():
            raise UserError(
                "no step is asked for, expected at least one such as --normalize; see --help"
            )
        if (
            self.min_characters
            and self.max_characters
            and self.min_characters > self.max_characters
        ):
            raise UserError(
                f"--min-characters {self.min_characters}: no text passes --max-characters "
                f"{self.max_characters} too; expected a smaller number"
            )


def run(
    inputs: list[str],
    output: Path,
    chosen: Steps,
    *,
    text_field: str = "text",
    workers: int = 1,
) -> dict[str, Any]:
    """Write the documents of ``inputs`` that pass to ``output``; return the manifest.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``.
        output: a new, empty or unfinished folder; an interrupted run does what is missing.
        chosen: the steps.
        text_field: the field of a record that holds the text.
        workers: processes; they change nothing in the output.

    Raises:
        UserError: an input or evaluation text cannot be read, a record is no text, ``output`` was
            started with other inputs or steps or is being written by another process, or there is
            no space.
    """
    chosen.check()
    shards.check_output(output)
    plan = shards.make_plan(inputs)
    # each once, in the order of the input
    sources = list(dict.fromkeys(map(documents.source, chain.from_iterable(plan.shards))))

    settings: dict[str, Any] = {"text_field": text_field, **asdict(chosen)}
    index = None
    evaluation: dict[str, dict[str, int]] = {}
    if chosen.decontaminate:
        index, evaluation = contamination.build(chosen.decontaminate, chosen.ngram_words)
        settings["evaluation_sha256"] = index.digest()
    # refuse a folder of other work before the first pass writes to it
    shards.begin(output, plan, settings)

    with file_lock(output / ".filter.lock", "is writing here"):
        passes = output / _PASSES
        if index:
            index.save(passes / "contamination.npz")
        if chosen.find_duplicates and shards.manifests(output) is None:
            _find_duplicates(passes, plan, settings, chosen, sources, workers)

        work = partial(
            filter_shard, passes=passes, chosen=chosen, text_field=text_field, sources=sources
        )
        shards.run(output, plan, settings, work, workers=workers)
        manifest = {
            **_total(shards.read_manifests(output, _Filtered) or [], chosen),
            "settings": settings,
            "evaluation": evaluation,
            "inputs": sources,
            "passed_over": counts(shards.read_plan(output).passed_over),
        }
        write_json(output / MANIFEST, manifest)
        # only now: an interrupted run reads the first passes again
        shutil.rmtree(passes, ignore_errors=True)
    return manifest


def table(manifest: dict[str, Any]) -> list[list[str]]:
    """Return a row for each step: its name, documents removed, changed, and remaining after it."""
    left = manifest["documents_in"]
    rows = [["input", "", "", f"{left:,}"]]
    # the one step that changes documents and removes none
    if manifest["settings"]["normalize"]:
        changed = f"{manifest['changed']:,}"
        rows.append(["normalize", "0", changed, f"{left:,}"])
    for step, removed in manifest["removed"].items():
        left -= removed
        rows.append([step, f"{removed:,}", "", f"{left:,}"])
    return rows


def sign_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    chosen: Steps,
    text_field: str,
    sources: list[str],
) -> dict[str, Any]:
    """Write the signatures of documents that earlier steps leave, for :func:`duplicates.decide`."""
    numbers = {source: number for number, source in enumerate(sources)}
    row = np.empty(1, duplicates.IDENTITY)
    count = 0
    with (
        (folder / f"{name}.identities").open("wb") as identities,
        (folder / f"{name}.minhash").open("wb") as minhash,
    ):
        for part in parts:
            number = numbers[documents.source(part)]
            before = documents.records_before(part)
            for document, text, step in _screened(part, chosen, text_field):
                if step:
                    continue
                high, low = duplicates.text_hash(text)
                row[0] = (high, low, number, before + document.record)
                identities.write(row.tobytes())
                if chosen.near_duplicates:
                    minhash.write(duplicates.signature(text).tobytes())
                count += 1
    return {"documents": count}


def filter_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    passes: Path,
    chosen: Steps,
    text_field: str,
    sources: list[str],
) -> dict[str, Any]:
    """Write one shard's documents and its audit, and return its counts."""
    judge = _Judge(passes, name, chosen, sources)
    # looked up for each removed document, and for parquet a read of the file
    records_before = lru_cache(1)(documents.records_before)
    totals = Counter(documents=0, documents_in=0, changed=0, bytes=0, bytes_in=0)
    removed = Counter[str]()
    with (
        _compressed(folder / f"{name}.jsonl.zst") as out,
        (folder / f"{name}.removed.jsonl").open("wb") as audit,
    ):
        for part in parts:
            for document, text, step in _screened(part, chosen, text_field):
                removal = judge.removal(part, text, step)
                is_changed = text != document.text
                size = len(document.text.encode())
                totals.update(documents_in=1, bytes_in=size, changed=is_changed)
                if removal:
                    removed[removal["step"]] += 1
                    line = {
                        "input": documents.source(part),
                        "record": records_before(part) + document.record,
                        **removal,
                    }
                    audit.write(to_json(line))
                    continue

                record = {text_field: text, **document.fields}
                out.write(_line(part, document, record))
                if is_changed:
                    size = len(text.encode())
                totals.update(documents=1, bytes=size)
    judge.check_all_seen(parts)
    return {**totals, "removed": dict(removed)}


class _Judge:
    """Decides for each document of a shard, in their order, whether it is removed and why."""

    def __init__(self, passes: Path, name: str, chosen: Steps, sources: list[str]) -> None:
        self._index: contamination.Index | None = None
        if chosen.decontaminate:
            self._index = contamination.Index.load(passes / "contamination.npz")
        self._duplicates = _removals(passes, name, chosen, sources)
        # of the documents that the duplicates were looked for among
        self._number = 0

    def removal(self, part: Part, text: str, step: str | None) -> dict[str, Any] | None:
        """Return the first step that removes a document, with its reason; None if it stays.

        Args:
            step: the step that removes it for its length.
        """
        if step:
            reason = "no text"
            if text.strip():
                reason = f"{len(text):,} characters"
            return {"step": step, "reason": reason}

        # the first pass counted the same documents in the same order
        duplicate = self._duplicates.pop(self._number, None)
        self._number += 1
        if duplicate:
            if duplicate.pop("text_hash") != duplicates.text_hash(text):
                raise _changed(documents.source(part))
            return duplicate

        if self._index is None:
            return None
        match = self._index.find(text)
        if match is None:
            return None
        ngram, suite = match
        return {
            "step": "decontaminate",
            "reason": "shares words",
            "ngram": ngram,
            "suite": suite,
        }

    def check_all_seen(self, parts: list[Part]) -> None:
        """Raise where a duplicate was not seen again, as the input was changed meanwhile."""
        if self._duplicates:
            inputs = dict.fromkeys(part.input for part in parts)
            raise _changed(", ".join(inputs))


def _find_duplicates(
    passes: Path,
    plan: shards.Plan,
    settings: dict[str, Any],
    chosen: Steps,
    sources: list[str],
    workers: int,
) -> None:
    signatures = passes / "signatures"
    decided = passes / "duplicates"
    if decided.exists():
        return
    work = partial(
        sign_shard,
        chosen=chosen,
        text_field=settings["text_field"],
        sources=sources,
    )
    shards.run(signatures, plan, settings, work, workers=workers, label="signatures: ")
    names = [shards.shard_name(number) for number in range(len(plan.shards))]
    with atomic_directory(decided) as folder:
        duplicates.decide(
            [signatures / name for name in names],
            [folder / name for name in names],
            exact=chosen.exact_duplicates,
            threshold=chosen.near_duplicates,
        )


def _screened(
    part: Part, chosen: Steps, text_field: str
) -> Iterator[tuple[Document, str, str | None]]:
    """Yield each document, its normalized text, and the step that removes it for its length."""
    for document in documents.read(part, text_field, others=None):
        text = document.text
        if chosen.normalize:
            text = steps.normalize(text)
        step = steps.too_short_or_long(text, chosen.min_characters, chosen.max_characters)
        yield document, text, step


def _removals(
    passes: Path, name: str, chosen: Steps, sources: list[str]
) -> dict[int, dict[str, Any]]:
    """Return why documents are removed as duplicates, by their number among those compared."""
    if not chosen.find_duplicates:
        return {}
    file = passes / "duplicates" / name
    if not file.is_file():
        raise UserError(
            f"{passes.parent}: a finished shard is gone or damaged, expected all; "
            f"remove the folder and run again"
        )
    removals = {}
    for row in np.fromfile(file, duplicates.REMOVAL):
        similarity = float(row["similarity"])
        removal: dict[str, Any] = {}
        if similarity == duplicates.EXACT:
            removal["step"] = "exact_duplicates"
            removal["reason"] = "equal text"
        else:
            removal["step"] = "near_duplicates"
            removal["reason"] = "similar text"
            removal["similarity"] = round(similarity, 4)
        # the one that stays
        removal["duplicates"] = {
            "input": sources[row["input"]],
            "record": int(row["record"]),
        }
        removal["text_hash"] = (int(row["high"]), int(row["low"]))
        removals[int(row["document"])] = removal
    return removals


def _changed(source: str) -> UserError:
    return UserError(
        f"{source}: was changed while it was being filtered, expected the same text; "
        f"remove the output, run again"
    )


def _line(part: Part, document: Document, record: dict[str, Any]) -> bytes:
    try:
        return to_json(record)
    except TypeError as error:
        where = documents.where(part, document.record)
        raise UserError(
            f"{where}: a field cannot be written as JSON ({error}); leave it out of the input"
        ) from error


@contextmanager
def _compressed(file: Path) -> Iterator[Any]:
    with (
        file.open("wb") as stream,
        zstandard.ZstdCompressor(_ZSTANDARD_LEVEL).stream_writer(stream, closefd=False) as writer,
    ):
        yield writer


@dataclass(frozen=True)
class _Filtered:
    """A shard's manifest; ``removed`` is step -> documents."""

    documents_in: int
    documents: int
    changed: int
    bytes_in: int
    bytes: int
    removed: dict[str, int]


def _total(manifests: list[_Filtered], chosen: Steps) -> dict[str, Any]:
    """Sum the shards' counts; a chosen step that removed nothing says so."""
    totals = dict.fromkeys(("documents_in", "documents", "changed", "bytes_in", "bytes"), 0)
    # empty documents are always removed; normalize removes none
    removed = Counter[str](empty=0)
    removed.update({step: 0 for step in chosen.names() if step != "normalize"})

    for manifest in manifests:
        for key in totals:
            totals[key] += getattr(manifest, key)
        removed.update(manifest.removed)
    return {**totals, "removed": dict(removed)}
