"""The first pass: rules, and what is needed to find duplicates of what they leave."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep import documents
from data_prep.conversations.conversation import ASSISTANT, MESSAGES, USER, without_nulls
from data_prep.conversations.curate.rules import RuleSettings, Screened, identity, screen
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
    screener = _Screener(settings, index)
    with (
        (folder / f"{name}{CANDIDATES}").open("wb") as candidates,
        (folder / f"{name}{AUDIT}").open("wb") as audit,
        (folder / f"{name}{IDENTITIES}").open("wb") as identities,
    ):
        for part in parts:
            source = documents.source(part)
            source_number = sources.index(source)
            for record, row in _records(part):
                screened, line = screener.screen(source, record, row)
                audit.write(_audit_line(source, record, screened))
                if line is None or screened.conversation is None:
                    continue
                candidates.write(line)
                row_hash = _hash(identity(screened.conversation))
                place = np.array([(*row_hash, source_number, record)], IDENTITY)
                identities.write(place.tobytes())
    return asdict(screener.counts)


def _records(part: Part) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield number in the input and value of each record."""
    before = documents.records_before(part)
    is_json = kind_of(part.input) in JSON_LINES
    for number, row in documents.read_records(part, MESSAGES, None):
        if isinstance(row, dict) and not is_json:
            row = without_nulls(row)
        yield before + number, row


def _audit_line(source: str, record: int, screened: Screened) -> bytes:
    entry = {
        "input": source,
        "record": record,
        "category": screened.category,
        # of what is left, the last pass decides
        "outcome": DROPPED if screened.dropped_by else None,
        "steps": {name: printable(said) for name, said in screened.steps.items()},
    }
    return to_json(entry)


def _hash(content: bytes) -> tuple[int, int]:
    """Return the halves of the content's xxh3-128 hash."""
    return divmod(xxhash.xxh3_128_intdigest(content), 2**64)


class _Screener:
    """Passes records through the rules.

    Attributes:
        counts: of what the rules dropped and changed.
    """

    def __init__(self, settings: RuleSettings, index: Index | None) -> None:
        self._settings = settings
        self._index = index
        self.counts = CurationCounts()

    def screen(
        self, source: str, record: int, row: dict[str, Any] | BadRow
    ) -> tuple[Screened, bytes | None]:
        """Return a record after the rules, and its line where no rule drops it."""
        screened = screen(row, self._settings, self._index)
        line = None
        if screened.record is not None:
            try:
                line = to_json(screened.record)
            except TypeError as error:
                # bytes of a parquet file, or half of a surrogate pair
                steps = {"record": f"dropped: cannot be written as JSON ({error})"}
                screened = Screened(steps, screened.category, None)

        counts = self.counts
        counts.read += 1
        for name, said in screened.steps.items():
            if said.startswith("changed"):
                counts.count_change(name)
        step = screened.dropped_by
        if step:
            why = screened.steps[step].partition(": ")[2]
            counts.count_drop(step, screened.category)
            counts.add_example(step, example(source, record, why, row))
        return screened, line


def example(source: str, record: int, why: str, row: Any) -> Example:
    """Return an example for the report, whatever the record holds."""
    messages = row.get(MESSAGES) if isinstance(row, dict) else None
    if not isinstance(messages, list):
        messages = []
    prompt = ""
    reply = ""
    for message in messages:
        if not isinstance(message, dict):
            continue
        content = message.get("content") or message.get("tool_calls") or ""
        excerpt = printable(str(content)[:_EXCERPT])
        role = message.get("role")
        # the first of the user, the last of the assistant
        if role == USER:
            prompt = prompt or excerpt
        elif role == ASSISTANT:
            reply = excerpt
    return Example(source, record, printable(why), prompt, reply)


def printable(text: str) -> str:
    """Return a text that UTF-8 can write: halves of surrogate pairs become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
