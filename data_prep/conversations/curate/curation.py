"""Curation of conversations: rules, exact duplicates over all inputs, and a judge's verdicts.

Three passes over the same shards, each of which resumes where it was interrupted: the rules; the
duplicates of all shards together; and the selection, which asks the judge. On a cluster the first
and the last are arrays of jobs.

The output holds, for each shard, shard-NNNNN.jsonl (what is kept), .undecided.jsonl (what has no
verdict), .audit.jsonl (a line for each record: ``input``, ``record``, ``category``, ``outcome`` and
``steps``, what each step that saw it did) and .json, and at the end manifest.json.
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep import documents, shards
from data_prep.conversations.curate.rules import JUDGE, STEPS, RuleSettings
from data_prep.conversations.curate.screening import screen_shard
from data_prep.conversations.curate.selection import Judging, select_shard
from data_prep.conversations.judge.prompts import CATEGORIES
from data_prep.conversations.judge.verdict import schema
from data_prep.input_files import counts
from data_prep.quality import contamination, duplicates
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.locks import file_lock
from recipes.runs.curated_folder import ANSWERS, CurationCounts, CurationManifest

RULES = "rules"
DUPLICATES = "duplicates"
SELECTION = "selection"
PASSES = (RULES, DUPLICATES, SELECTION)
# in the output, until it is complete: of the first two passes
_PASSES_FOLDER = ".passes"


@dataclass(frozen=True)
class _Run:
    """What is curated, where to, and how."""

    output: Path
    plan: shards.Plan
    settings: RuleSettings
    judging: Judging | None
    workers: int

    @property
    def folder(self) -> Path:
        """Of the first two passes."""
        return self.output / _PASSES_FOLDER

    @property
    def sources(self) -> list[str]:
        """The inputs, each once."""
        parts = chain.from_iterable(self.plan.shards)
        return list(dict.fromkeys(map(documents.source, parts)))

    @property
    def names(self) -> list[str]:
        """The shards."""
        return [shards.shard_name(number) for number in range(len(self.plan.shards))]


def curate(
    inputs: Sequence[str],
    output: Path,
    settings: RuleSettings,
    *,
    judging: Judging | None = None,
    workers: int = 1,
    max_shards: int | None = None,
    only: str | None = None,
    shard: int | None = None,
    dryrun: bool = False,
) -> CurationManifest | None:
    """Curate the conversations of ``inputs`` into ``output``.

    Memory does not grow with the inputs but for 100 bytes for each conversation that the rules
    leave, while duplicates are looked for.

    Args:
        inputs: files, folders, or ``hf:NAME[:CONFIGURATION[:SPLIT]]``.
        output: a folder that is new, empty, or has unfinished output of this function.
        settings: of the rules.
        judging: the judge, or None to keep all that the rules leave.
        workers: processes; they change nothing in the output. The judge is asked by one.
        max_shards: shards at most, instead of one for every 32 MiB of input.
        only: one of :data:`PASSES`, as in a chain of jobs.
        shard: do this one shard of the pass.
        dryrun: print what would be done and do nothing.

    Returns:
        The manifest, or None while a shard is missing.

    Raises:
        UserError: an input cannot be read; the judge does not answer or its budget is spent; the
            output was started with other inputs or settings; there is no space.
    """
    _require_pass(only, shard)
    shards.check_output(output)
    plan = shards.make_plan(inputs, max_shards)
    run = _Run(output, plan, settings, judging, workers)
    if dryrun:
        megabytes = sum(file.bytes for file in plan.inputs) / 1e6
        print(f"{len(plan.shards)} shards of {megabytes:,.1f} MB would be curated into {output}")
        return None

    index = _load_index(run)
    if judging and only in (SELECTION, None) and shards.manifests(output) is None:
        # a wrong address or key is named before anything is written
        asyncio.run(_probe(judging))
    if only:
        return _do_pass(run, index, only, shard)

    shards.begin(output, plan, _all_settings(run, index))
    with file_lock(output / ".curate.lock", "is writing here"):
        if shards.manifests(output) is None:
            _screen(run, index)
            _decide(run)
        _select(run, index)
    return finish(output)


def _require_pass(name: str | None, shard: int | None) -> None:
    if shard is not None and name not in (RULES, SELECTION):
        raise UserError(
            f"--shard {shard}: expected --only {RULES} or --only {SELECTION} with it; "
            f"name one, or leave --shard out"
        )


async def _probe(judging: Judging) -> None:
    async with judging.client() as client:
        await client.probe(schema(CATEGORIES[0]))


def _do_pass(
    run: _Run, index: contamination.Index | None, name: str, shard: int | None
) -> CurationManifest | None:
    if shards.manifests(run.output) is not None:
        return finish(run.output)
    if name == RULES:
        _screen(run, index, shard)
        return None
    if shards.manifests(run.folder / RULES) is None:
        raise UserError(f"{run.output}: shards are missing, expected all; do --only {RULES} first")
    if name == DUPLICATES:
        _decide(run)
        return None
    if not (run.folder / DUPLICATES).exists():
        raise UserError(
            f"{run.output}: duplicates have not been looked for; do --only {DUPLICATES} first"
        )
    _select(run, index, shard)
    return finish(run.output)


# --- The passes


def _load_index(run: _Run) -> contamination.Index | None:
    """Return the n-grams of the evaluation texts; those of an unfinished run are kept."""
    settings = run.settings
    if not settings.decontaminate:
        return None
    file = _index_file(run)
    if file.exists():
        return contamination.Index.load(file)
    index, _ = contamination.build(settings.decontaminate, settings.ngram_words)
    return index


def _index_file(run: _Run) -> Path:
    return run.folder / "contamination.npz"


def _rule_settings(run: _Run, index: contamination.Index | None) -> dict[str, Any]:
    settings = asdict(run.settings)
    if index:
        settings["evaluation_sha256"] = index.digest()
    return settings


def _all_settings(run: _Run, index: contamination.Index | None) -> dict[str, Any]:
    judge = run.judging.settings() if run.judging else None
    return {"rules": _rule_settings(run, index), JUDGE: judge}


def _screen(run: _Run, index: contamination.Index | None, shard: int | None = None) -> None:
    if index and not _index_file(run).exists():
        index.save(_index_file(run))
    work = partial(
        screen_shard,
        settings=run.settings,
        index_file=_index_file(run) if index else None,
        sources=run.sources,
    )
    shards.run(
        run.folder / RULES,
        run.plan,
        _rule_settings(run, index),
        work,
        workers=run.workers,
        only=shard,
        label="rules: ",
    )


def _decide(run: _Run) -> None:
    """Find the duplicates of all shards together; the first of equal conversations stays."""
    decided = run.folder / DUPLICATES
    if decided.exists():
        return
    with atomic_directory(decided) as folder:
        duplicates.decide(
            [run.folder / RULES / name for name in run.names],
            [folder / name for name in run.names],
            exact=True,
            threshold=None,
        )


def _select(run: _Run, index: contamination.Index | None, shard: int | None = None) -> None:
    work = partial(
        select_shard,
        screened=run.folder / RULES,
        duplicates=run.folder / DUPLICATES,
        answers=run.output / ANSWERS,
        judging=run.judging,
        sources=run.sources,
    )
    # one process has the budget and many requests in flight
    workers = 1 if run.judging else run.workers
    shards.run(run.output, run.plan, _all_settings(run, index), work, workers=workers, only=shard)


def finish(output: Path) -> CurationManifest | None:
    """Write the manifest once all shards are finished, and return it.

    Raises:
        UserError: the plan or a shard's manifest is damaged.
    """
    finished = shards.read_manifests(output, CurationCounts)
    if finished is None:
        return None
    settings = shards.read_settings(output)
    steps = [step for step in STEPS if step != JUDGE or settings[JUDGE]]
    manifest = CurationManifest(
        steps=steps,
        settings=settings,
        passed_over=counts(shards.read_plan(output).passed_over),
    )
    for shard in finished:
        manifest.add(shard)
    manifest.write(output)
    # only now: an interrupted run needs the first passes
    shutil.rmtree(output / _PASSES_FOLDER, ignore_errors=True)
    return manifest
