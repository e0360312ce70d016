"""The last pass: duplicates and the judge's verdicts decide what is kept."""

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversations.curate.rules import DUPLICATES, JUDGE
from data_prep.conversations.curate.screening import AUDIT, CANDIDATES, example, printable
from data_prep.conversations.judge.cache import open_cache
from data_prep.conversations.judge.client import Budget, Client, Endpoint
from data_prep.conversations.judge.judging import Judge, Judgement, judge_all
from data_prep.conversations.judge.rubric import ACCEPT, BORDERLINE, Rubric
from data_prep.documents import Part
from data_prep.quality.duplicates import REMOVAL
from data_prep.records import from_json, to_json
from recipes.common.errors import UserError
from recipes.common.json_files import read_record
from recipes.runs.curated_folder import DROPPED, KEPT, UNDECIDED, CurationCounts

UNDECIDED_RECORDS = ".undecided.jsonl"
# a line of the audit
Entry = dict[str, Any]


@dataclass(frozen=True)
class Judging:
    """The judge, and what is kept of what it says.

    Attributes:
        rubric: weights and thresholds.
        endpoint: the server.
        budget: of this run.
        keep_borderline: keep what is neither accepted nor rejected.
    """

    rubric: Rubric
    endpoint: Endpoint
    budget: Budget
    keep_borderline: bool = False

    def settings(self) -> dict[str, Any]:
        """Return what decides what is kept; the server's address does not."""
        return {
            "model": self.endpoint.model,
            "rubric": asdict(self.rubric),
            "keep_borderline": self.keep_borderline,
        }

    def client(self) -> Client:
        """Return a client of the server."""
        return Client(self.endpoint, self.rubric.sampling, self.budget)


def select_shard(
    parts: list[Part],
    folder: Path,
    name: str,
    *,
    screened: Path,
    duplicates: Path,
    answers: Path,
    judging: Judging | None,
    sources: list[str],
) -> dict[str, Any]:
    """Write a shard's kept and undecided conversations and its audit; return its counts.

    Args:
        parts: of the inputs, which the first pass has read.
        folder: to write to.
        name: of the shard.
        screened: folder of the first pass.
        duplicates: folder of what :func:`data_prep.quality.duplicates.decide` wrote.
        answers: folder of the judge's caches, one for each shard.
        judging: the judge, or None.
        sources: names of the inputs.

    Raises:
        UserError: of the judge's server and its budget; the first pass's files have changed.
    """
    with ExitStack() as files:
        removals = _read_removals(duplicates / name, sources)
        keep_borderline = judging is not None and judging.keep_borderline
        selection = _Selection(screened, folder, name, removals, keep_borderline, files)
        if judging is None:
            for _ in selection.candidates():
                selection.settle(None)
        else:
            asyncio.run(_judge(selection, judging, answers / name))
        selection.finish()
    return asdict(selection.counts)


def _read_removals(file: Path, sources: list[str]) -> dict[int, str]:
    """Return number of a candidate -> the one that it repeats."""
    removals = {}
    for row in np.fromfile(file, REMOVAL):
        number = int(row["document"])
        source = sources[row["input"]]
        removals[number] = f"{source}, record {row['record']}"
    return removals


async def _judge(selection: "_Selection", judging: Judging, answers: Path) -> None:
    records = from_json(selection.candidates(), exact=True)
    with open_cache(answers) as cache:
        async with judging.client() as client:
            judge = Judge(judging.rubric, client, cache)
            in_flight = judging.endpoint.in_flight
            async with aclosing(judge_all(judge, records, in_flight)) as judgements:
                async for judgement in judgements:
                    selection.settle(judgement)


class _Selection:
    """Decides about the records of a shard, in their order.

    Attributes:
        counts: of what was decided, and of what the rules dropped.
    """

    def __init__(
        self,
        screened: Path,
        folder: Path,
        name: str,
        removals: dict[int, str],
        keep_borderline: bool,
        files: ExitStack,
    ) -> None:
        self._name = name
        self._removals = removals
        self._kept_buckets = [ACCEPT]
        if keep_borderline:
            self._kept_buckets.append(BORDERLINE)
        self.counts = read_record(CurationCounts, screened / f"{name}.json", "run again")

        # what the first pass wrote
        audit = (screened / f"{name}{AUDIT}").open("rb")
        lines = (screened / f"{name}{CANDIDATES}").open("rb")
        self._audit_in = files.enter_context(audit)
        self._lines = files.enter_context(lines)
        # what this one writes
        self._kept = files.enter_context((folder / f"{name}.jsonl").open("wb"))
        self._undecided = files.enter_context((folder / f"{name}{UNDECIDED_RECORDS}").open("wb"))
        self._audit = files.enter_context((folder / f"{name}{AUDIT}").open("wb"))
        # audit entry and line of records that are not written yet; no line of what is dropped
        self._waiting: deque[tuple[Entry, bytes]] = deque()

    def candidates(self) -> Iterator[bytes]:
        """Yield the lines of the records that are to be settled."""
        number = 0
        for audited in self._audit_in:
            entry = json.loads(audited)
            if entry["outcome"] is not None:
                self._waiting.append((entry, b""))
                continue
            line = self._lines.readline()
            same = self._removals.get(number)
            number += 1
            if same is not None:
                self._drop(entry, line, DUPLICATES, f"equals {same}")
                self._waiting.append((entry, b""))
                continue
            entry["steps"][DUPLICATES] = "passed"
            self._waiting.append((entry, line))
            yield line

    def settle(self, judgement: Judgement | None) -> None:
        """Decide about the first candidate that waits, by what the judge says of it."""
        self._write_decided()
        entry, line = self._waiting.popleft()
        outcome = KEPT
        if judgement is not None:
            outcome = self._judged(entry, line, judgement)
        if outcome == KEPT:
            self._kept.write(line)
        elif outcome == UNDECIDED:
            self._undecided.write(line)
        if outcome != DROPPED:
            self.counts.add_outcome(outcome, entry["category"])

        entry["outcome"] = outcome
        self._audit.write(to_json(entry))

    def finish(self) -> None:
        """Write what is left.

        Raises:
            UserError: a conversation is missing, or there is one more.
        """
        self._write_decided()
        counts = self.counts
        if not counts.is_complete or self._waiting:
            raise UserError(
                f"{self._name}: {counts.read:,} conversations were read, but {counts.kept:,} kept, "
                f"{counts.dropped:,} dropped and {counts.undecided:,} undecided do not add up to "
                f"them; remove the output, run again"
            )

    def _write_decided(self) -> None:
        while self._waiting and not self._waiting[0][1]:
            entry, _ = self._waiting.popleft()
            self._audit.write(to_json(entry))

    def _judged(self, entry: Entry, line: bytes, judgement: Judgement) -> str:
        """Count a judgement, and return what becomes of the conversation."""
        bucket = judgement.bucket
        verdict = judgement.verdict
        if verdict is None:
            reason = printable(judgement.reason)
            entry["steps"][JUDGE] = f"{bucket}: {reason}"
            self.counts.count_verdict(bucket, ())
            self._add_example(entry, line, UNDECIDED, reason)
            return UNDECIDED

        faults = [name for name, has_fault in verdict.faults.items() if has_fault]
        said = ", ".join([bucket, f"{judgement.score:.2f}", *faults])
        outcome = DROPPED
        if bucket in self._kept_buckets:
            outcome = KEPT
            entry["steps"][JUDGE] = f"passed: {said}"
        else:
            self._drop(entry, line, JUDGE, f"{said}: {verdict.reason}")
        self.counts.count_verdict(bucket, faults)
        self.counts.count_scores(verdict.scores, outcome)
        return outcome

    def _drop(self, entry: Entry, line: bytes, step: str, why: str) -> None:
        why = printable(why)
        entry["outcome"] = DROPPED
        entry["steps"][step] = f"dropped: {why}"
        self.counts.count_drop(step, entry["category"])
        self._add_example(entry, line, step, why)

    def _add_example(self, entry: Entry, line: bytes, step: str, why: str) -> None:
        (row,) = from_json([line], exact=True)
        found = example(entry["input"], entry["record"], why, row)
        self.counts.add_example(step, found)
