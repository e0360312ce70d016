"""The filter: input files through the quality steps to shards of JSON lines, with an audit of what was removed.

Without a search for duplicates there is one pass. With it there are three: signatures of every document that the
earlier steps leave, the decision which of them go, and the pass that writes. Each goes on where it was interrupted.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard

from data_prep import documents, shards
from data_prep.documents import Document, Part
from data_prep.quality import contamination, duplicates, steps
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory, write_text
from recipes.common.locks import file_lock

MANIFEST = "manifest.json"
_PASSES = ".passes"  # in the output, until it is complete
_ZSTANDARD_LEVEL = 3


@dataclass(frozen=True)
class Steps:
    """What to do; nothing else is done, but that empty documents go. The order of the attributes is that of the steps.

    Attributes:
        normalise: see :func:`steps.normalise`.
        min_characters, max_characters: limits of a text's length, both allowed lengths.
        exact_duplicates: keep the first of equal texts.
        near_duplicates: keep the first of texts with at least this Jaccard similarity of their sets of word 5-grams.
        decontaminate: specs of evaluation texts, see :func:`contamination.build`.
        ngram_words: words of the n-grams that a text must not share with them.
    """

    normalise: bool = False
    min_characters: int | None = None
    max_characters: int | None = None
    exact_duplicates: bool = False
    near_duplicates: float | None = None
    decontaminate: tuple[str, ...] = ()
    ngram_words: int = contamination.NGRAM_WORDS

    def asked(self) -> list[str]:
        """Return the names of the steps that were asked for, in order."""
        return [
            name
            for name, value in asdict(self).items()
            if name != "ngram_words" and value not in (None, False, ())
        ]

    def check(self) -> None:
        """Raise a :class:`UserError` if no step is asked for, or no text could pass."""
        if not self.asked():
            raise UserError(
                "no step is asked for, expected at least one such as --normalise; see --help"
            )
        if (
            self.min_characters
            and self.max_characters
            and self.min_characters > self.max_characters
        ):
            raise UserError(
                f"--min-characters {self.min_characters}: no text passes --max-characters {self.max_characters} too; "
                f"expected a smaller number"
            )


def run(
    inputs: list[str],
    output: Path,
    wanted: Steps,
    *,
    text_field: str = "text",
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the documents of ``inputs`` that pass to ``output``, in input order, and return its manifest.

    ``output`` gets shard-NNNNN.jsonl.zst (the records with all their fields), shard-NNNNN.removed.jsonl (a line for
    each document removed: ``input``, ``record``, ``step``, ``reason``, and ``duplicates`` and ``similarity``, or
    ``ngram`` and ``suite``), shard-NNNNN.json, and at the end manifest.json: ``documents_in``, ``documents``,
    ``changed``, ``removed`` (step -> documents), ``bytes_in`` and ``bytes`` (of text in UTF-8), ``settings``,
    ``evaluation`` (suite -> texts, too_short), ``inputs``. ``documents_in`` is ``documents`` and all removed.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``.
        output: a new, empty or begun folder; a run that was interrupted goes on with what is missing.
        wanted: the steps.
        text_field: the field of a record that holds the text.
        workers: processes; they change nothing in the output.
        say: receives progress.

    Raises:
        UserError: an input or evaluation text cannot be read, a record is no text, ``output`` began with other inputs
            or steps or is being written by another process, or there is no space.
    """
    wanted.check()
    shards.check_output(output)
    plan = shards.plan(inputs)
    sources = list(dict.fromkeys(documents.source(part) for parts in plan for part in parts))
    settings: dict[str, Any] = {"text_field": text_field, **asdict(wanted)}
    index, evaluation = None, dict[str, dict[str, int]]()
    if wanted.decontaminate:
        index, evaluation = contamination.build(wanted.decontaminate, wanted.ngram_words)
        settings["evaluation_sha256"] = index.digest()
    shards.begin(output, plan, settings)
    with file_lock(output / ".filter.lock", "is writing here"):
        passes = output / _PASSES
        if index:
            index.save(passes / "contamination.npz")
        if (wanted.exact_duplicates or wanted.near_duplicates) and shards.manifests(output) is None:
            _find_duplicates(passes, plan, settings, wanted, sources, workers, say)
        work = partial(
            filter_shard, passes=passes, wanted=wanted, text_field=text_field, sources=sources
        )
        shards.run(output, plan, settings, work, workers=workers)
        found = shards.manifests(output) or []
        manifest = _total(found, wanted) | {
            "settings": settings,
            "evaluation": evaluation,
            "inputs": sources,
        }
        write_text(output / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(passes, ignore_errors=True)
    return manifest


def table(manifest: dict[str, Any]) -> list[list[str]]:
    """Return a row for each step: its name, documents removed, changed, and remaining after it."""
    left = manifest["documents_in"]
    rows = [["input", "", "", f"{left:,}"]]
    for step in (
        ("normalise", *manifest["removed"])
        if manifest["settings"]["normalise"]
        else manifest["removed"]
    ):
        removed = manifest["removed"].get(step, 0)
        left -= removed
        changed = f"{manifest['changed']:,}" if step == "normalise" else ""
        rows.append([step, f"{removed:,}", changed, f"{left:,}"])
    return rows


def sign_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    wanted: Steps,
    text_field: str,
    sources: list[str],
) -> dict[str, Any]:
    """Write the signatures of a shard's documents that the steps before leave, as :func:`duplicates.decide` reads."""
    numbers = {source: number for number, source in enumerate(sources)}
    row, count = np.empty(1, duplicates.IDENTITY), 0
    with (
        (folder / f"{name}.identities").open("wb") as identities,
        (folder / f"{name}.minhash").open("wb") as minhash,
    ):
        for part in parts:
            number, before = numbers[documents.source(part)], documents.records_before(part)
            for document, text, step in _screened(part, wanted, text_field):
                if step:
                    continue
                row[0] = (*duplicates.text_hash(text), number, before + document.record)
                identities.write(row.tobytes())
                if wanted.near_duplicates:
                    minhash.write(duplicates.signature(text).tobytes())
                count += 1
    return {"documents": count}


def filter_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    passes: Path,
    wanted: Steps,
    text_field: str,
    sources: list[str],
) -> dict[str, Any]:
    """Write one shard's documents and its audit, and return its counts."""
    index = contamination.Index.load(passes / "contamination.npz") if wanted.decontaminate else None
    removals = _removals(passes, name, wanted, sources)
    totals = Counter(documents=0, documents_in=0, changed=0, bytes=0, bytes_in=0)
    removed, compared = Counter[str](), 0
    with (
        _compressed(folder / f"{name}.jsonl.zst") as out,
        (folder / f"{name}.removed.jsonl").open("wb") as audit,
    ):
        for part in parts:
            source, before = documents.source(part), None
            for document, text, step in _screened(part, wanted, text_field):
                why: dict[str, Any] | None = None
                if step:
                    why = {
                        "step": step,
                        "reason": f"{len(text):,} characters" if text.strip() else "no text",
                    }
                else:
                    why = removals.pop(compared, None)
                    compared += 1
                    if why and why.pop("text_hash") != duplicates.text_hash(text):
                        raise _changed(source)
                if not why and index and (match := index.find(text)):
                    ngram, suite = match
                    why = {
                        "step": "decontaminate",
                        "reason": "shares words",
                        "ngram": ngram,
                        "suite": suite,
                    }
                size = len(document.text.encode())
                totals.update(documents_in=1, bytes_in=size, changed=text != document.text)
                if why:
                    before = documents.records_before(part) if before is None else before
                    line = {"input": source, "record": before + document.record, **why}
                    audit.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                    removed[why["step"]] += 1
                else:
                    out.write(_line(part, document, {text_field: text, **document.fields}))
                    totals.update(
                        documents=1, bytes=size if text is document.text else len(text.encode())
                    )
    if removals:
        raise _changed(", ".join(dict.fromkeys(part.input for part in parts)))
    return {**totals, "removed": dict(removed)}


def _find_duplicates(
    passes: Path,
    plan: list[list[Part]],
    settings: dict[str, Any],
    wanted: Steps,
    sources: list[str],
    workers: int,
    say: Callable[[str], None],
) -> None:
    signatures, decided = passes / "signatures", passes / "duplicates"
    if decided.exists():
        return
    work = partial(sign_shard, wanted=wanted, text_field=settings["text_field"], sources=sources)
    shards.run(
        signatures,
        plan,
        settings,
        work,
        workers=workers,
        label="signatures: ",
    )
    names = [shards.shard_name(number) for number in range(len(plan))]
    with atomic_directory(decided) as folder:
        duplicates.decide(
            [signatures / name for name in names],
            [folder / name for name in names],
            exact=wanted.exact_duplicates,
            threshold=wanted.near_duplicates,
            say=say,
        )


def _screened(
    part: Part, wanted: Steps, text_field: str
) -> Iterator[tuple[Document, str, str | None]]:
    """Each document, its text after normalisation, and the step that removes it for its length."""
    for document in documents.read(part, text_field, others=None):
        text = steps.normalise(document.text) if wanted.normalise else document.text
        yield (
            document,
            text,
            steps.too_short_or_long(text, wanted.min_characters, wanted.max_characters),
        )


def _removals(
    passes: Path, name: str, wanted: Steps, sources: list[str]
) -> dict[int, dict[str, Any]]:
    """Why documents of the shard go as duplicates, by their number among those compared."""
    if not (wanted.exact_duplicates or wanted.near_duplicates):
        return {}
    file = passes / "duplicates" / name
    if not file.is_file():
        raise UserError(
            f"{passes.parent}: a finished shard is gone or damaged, expected all; remove the folder and run again"
        )
    found = {}
    for row in np.fromfile(file, duplicates.REMOVAL):
        why: dict[str, Any] = {"step": "exact_duplicates", "reason": "equal text"}
        if row["similarity"] != duplicates.EXACT:
            why = {
                "step": "near_duplicates",
                "reason": "similar text",
                "similarity": round(float(row["similarity"]), 4),
            }
        kept = {"input": sources[row["input"]], "record": int(row["record"])}
        found[int(row["document"])] = {
            **why,
            "duplicates": kept,
            "text_hash": (int(row["high"]), int(row["low"])),
        }
    return found


def _changed(source: str) -> UserError:
    return UserError(
        f"{source}: was changed while it was being filtered, expected the same text; remove the output, run again"
    )


def _line(part: Part, document: Document, record: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
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


def _total(found: list[dict[str, Any]], wanted: Steps) -> dict[str, Any]:
    """Sum the shards' counts; a step that was asked for and removed nothing says so."""
    keys = ("documents_in", "documents", "changed", "bytes_in", "bytes")
    totals = {key: sum(shard[key] for shard in found) for key in keys}
    removed = Counter({step: 0 for step in ("empty", *wanted.asked()) if step != "normalise"})
    for shard in found:
        removed.update(shard["removed"])
    return {**totals, "removed": dict(removed)}
