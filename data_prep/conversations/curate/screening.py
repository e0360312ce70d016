"""The first pass: rules, and what is needed to find duplicates of what they leave."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep import documents
from data_prep.conversations.conversation import ASSISTANT, MESSAGES, USER, without_nulls
from data_prep.conversations.curate.rules import RuleSettings, Screened, screen
from data_prep.documents import Part
from data_prep.input_files import JSON_LINES, kind_of
from data_prep.quality.contamination import Index
from data_prep.quality.duplicates import IDENTITY
from data_prep.records import BadRow, to_json
from recipes.runs.curated_folder import DROPPED, CurationCounts, Example

CANDIDATES = ".candidates.jsonl"
AUDIT = ".audit.jsonl"
IDENTITIES = ".identities"
_EXCERPT = 200  # characters


def screen_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    settings: RuleSettings,
    index_file: Path | None,
    sources: list[str],
) -> dict[str, Any]:
    """Write a shard's candidates, an audit line a record, and the candidates' identities.

    Returns:
        The counts of what the rules drop and change.
    """
    index = Index.load(index_file) if index_file else None
    counts = CurationCounts()
    identity = np.empty(1, IDENTITY)
    with (
        (folder / f"{name}{CANDIDATES}").open("wb") as candidates,
        (folder / f"{name}{AUDIT}").open("wb") as audit,
        (folder / f"{name}{IDENTITIES}").open("wb") as identities,
    ):
        for part in parts:
            source = documents.source(part)
            before = documents.records_before(part)
            is_json = kind_of(part.input) in JSON_LINES
            for number, row in documents.read_records(part, MESSAGES, None):
                if isinstance(row, dict) and not is_json:
                    row = without_nulls(row)
                screened, line = _screen(row, settings, index)
                record = before + number
                entry = {"input": source, "record": record, **_audit_entry(screened)}
                audit.write(to_json(entry))
                _count(counts, screened, row, source, record)
                if line is None:
                    continue
                candidates.write(line)
                high, low = divmod(xxhash.xxh3_128_intdigest(screened.identity), 2**64)
                identity[0] = (high, low, sources.index(source), record)
                identities.write(identity.tobytes())
    return asdict(counts)


def _screen(
    row: dict[str, Any] | BadRow, settings: RuleSettings, index: Index | None
) -> tuple[Screened, bytes | None]:
    """Return a record after the rules, and its line where no rule drops it."""
    screened = screen(row, settings, index)
    if screened.record is None:
        return screened, None
    try:
        return screened, to_json(screened.record)
    except TypeError as error:
        # bytes of a parquet file, or half of a surrogate pair
        steps = {"record": f"dropped: cannot be written as JSON ({error})"}
        return Screened(steps, screened.category, None), None


def _audit_entry(screened: Screened) -> dict[str, Any]:
    outcome = None if screened.record is not None else DROPPED
    steps = {name: printable(said) for name, said in screened.steps.items()}
    return {"category": screened.category, "outcome": outcome, "steps": steps}


def _count(
    counts: CurationCounts,
    screened: Screened,
    row: dict[str, Any] | BadRow,
    source: str,
    record: int,
) -> None:
    counts.read += 1
    for name, said in screened.steps.items():
        if said.startswith("changed"):
            counts.changed_by[name] = counts.changed_by.get(name, 0) + 1
    step = screened.dropped_by
    if step is None:
        return
    counts.add_outcome(DROPPED, screened.category)
    counts.dropped_by[step] = counts.dropped_by.get(step, 0) + 1
    why = screened.steps[step].partition(": ")[2]
    counts.add_example(step, example(source, record, why, row))


def example(source: str, record: int, why: str, row: Any) -> Example:
    """Return an example for the report, whatever the record holds."""
    messages = row.get(MESSAGES) if isinstance(row, dict) else None
    said: dict[str, str] = {}
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        content = message.get("content") or message.get("tool_calls") or ""
        # the first of the user, the last of the assistant
        if role == ASSISTANT or (role == USER and USER not in said):
            said[role] = printable(str(content)[:_EXCERPT])
    return Example(source, record, printable(why), said.get(USER, ""), said.get(ASSISTANT, ""))


def printable(text: str) -> str:
    """Return a text that UTF-8 can write: halves of surrogate pairs become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
