"""Judging the conversations of files: a line a verdict, and counts."""

import json
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data_prep.conversations.judge.cache import open_cache
from data_prep.conversations.judge.client import Budget, Client, Endpoint
from data_prep.conversations.judge.judging import Judge, Judgement, judge_all
from data_prep.conversations.judge.prompts import CATEGORIES
from data_prep.conversations.judge.reading import read_conversations
from data_prep.conversations.judge.rubric import BUCKETS, Rubric
from data_prep.records import BadRow
from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.common.json_files import write_json

log = logging.getLogger(__name__)

VERDICTS = "verdicts.jsonl"
SUMMARY = "summary.json"
BAD_RECORD = "bad_record"
_LOG_EVERY = 1000


@dataclass
class Summary:
    """Counts of a run.

    Attributes:
        model: the judge's name.
        conversations: judged; the sum of ``buckets``, and of all counts in ``categories``.
        bad_records: records that are no conversation.
        buckets: bucket -> conversations.
        categories: category -> bucket -> conversations.
        faults: fault -> conversations that have it.
        requests, tokens: that this run cost.
        rubric: weights and thresholds with their origins.
    """

    model: str
    rubric: dict[str, Any]
    conversations: int = 0
    bad_records: int = 0
    buckets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    categories: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: dict.fromkeys(BUCKETS, 0) for name in CATEGORIES}
    )
    faults: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    tokens: int = 0

    def add(self, judgement: Judgement) -> None:
        """Count a conversation."""
        self.conversations += 1
        self.buckets[judgement.bucket] += 1
        self.categories[judgement.category][judgement.bucket] += 1
        if judgement.verdict is None:
            return
        for name, has_fault in judgement.verdict.faults.items():
            self.faults[name] = self.faults.get(name, 0) + has_fault


async def judge_files(
    inputs: list[str], output: Path, rubric: Rubric, endpoint: Endpoint, budget: Budget
) -> Summary:
    """Judge the conversations of ``inputs``; write ``verdicts.jsonl`` and ``summary.json``.

    Both appear whole, at the end. Answers are kept in ``judge.sqlite`` from the first on, so a run
    that ended early is continued by the same one.

    Args:
        inputs: files or folders of JSON lines.
        output: a folder.
        rubric: weights and thresholds.
        endpoint: the judge.
        budget: of this run.

    Raises:
        UserError: as :func:`read_conversations` and :meth:`Client.ask`; there is no space.
    """
    # before anything is written
    _require_conversation(inputs)
    client = Client(endpoint, rubric.sampling, budget)
    summary = Summary(client.model, asdict(rubric))

    with open_cache(output) as cache:
        async with client:
            with (
                atomic_write(output / VERDICTS) as temporary,
                # half of a surrogate pair in the judge's words becomes an escape, which is JSON too
                temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
            ):
                judge = Judge(rubric, client, cache)
                records = read_conversations(inputs)
                await _write(judge, records, file, summary, endpoint.in_flight)
        summary.requests = budget.requests
        summary.tokens = budget.tokens
        write_json(output / SUMMARY, asdict(summary))
    return summary


def _require_conversation(inputs: list[str]) -> None:
    """Raise UserError where no record can be judged."""
    bad: list[str] = []
    count = 0
    for where, row in read_conversations(inputs):
        if not isinstance(row, BadRow):
            return
        count += 1
        if not bad:
            bad = [f", but {where}: {row.reason}"]
    more = f" and {count - 1:,} more" if count > 1 else ""
    raise UserError(
        f"{', '.join(inputs)}: no conversation in it{''.join(bad)}{more}; name other files"
    )


async def _write(
    judge: Judge,
    records: Iterator[tuple[str, dict[str, Any] | BadRow]],
    file: TextIO,
    summary: Summary,
    in_flight: int,
) -> None:
    """Write a line a record, in order."""
    # place, and why it is not judged, of records without a line
    waiting: deque[tuple[str, str]] = deque()

    def conversations() -> Iterator[dict[str, Any]]:
        for place, row in records:
            if isinstance(row, BadRow):
                waiting.append((place, row.reason))
                continue
            waiting.append((place, ""))
            yield row

    def write_bad() -> None:
        while waiting and waiting[0][1]:
            place, reason = waiting.popleft()
            _write_line(file, {"record": place, "bucket": BAD_RECORD, "reason": reason})
            summary.bad_records += 1

    async with aclosing(judge_all(judge, conversations(), in_flight)) as judgements:
        async for judgement in judgements:
            write_bad()
            place, _ = waiting.popleft()
            line = {"record": place, **vars(judgement)}
            if judgement.verdict:
                line["verdict"] = vars(judgement.verdict)
            _write_line(file, line)
            summary.add(judgement)
            if summary.conversations % _LOG_EVERY == 0:
                log.info("%s conversations judged", f"{summary.conversations:,}")
    write_bad()


def _write_line(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
