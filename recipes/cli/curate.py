"""``granite41 data curate``: rules, duplicates and a judge make a set of conversations."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from recipes.cli.data import (
    AsJson,
    Decontaminate,
    Dryrun,
    Inputs,
    MaxShards,
    NgramWords,
    OneShard,
    Output,
    Workers,
)
from recipes.cli.judge import InFlight, MaxRequests, MaxTokens, RubricFile
from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError
from recipes.runs.curated_folder import MOST_CHARACTERS

JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="URL",
        help="Chat completions of a judge, as http://HOST:PORT/v1/chat/completions; its key is in "
        "OPENAI_API_KEY.",
    ),
]
JudgeModel = Annotated[str | None, typer.Option("--model", help="The judge's name on its server.")]
KeepBorderline = Annotated[
    bool,
    typer.Option("--keep-borderline", help="Keep what the judge neither accepts nor rejects."),
]
MinReply = Annotated[int, typer.Option(min=1, help="Drop what has a shorter reply.")]
MaxCharacters = Annotated[int, typer.Option(min=1, help="Drop longer conversations.")]
OnePass = Annotated[
    str | None,
    typer.Option("--pass", metavar="NAME", help="Do only this: rules, duplicates or selection."),
]


def curate_conversations(
    inputs: Inputs,
    output: Output,
    min_reply_characters: MinReply = 1,
    max_characters: MaxCharacters = MOST_CHARACTERS,
    decontaminate: Decontaminate = None,
    ngram_words: NgramWords = 13,
    judge: JudgeUrl = None,
    model: JudgeModel = None,
    rubric: RubricFile = None,
    keep_borderline: KeepBorderline = False,
    in_flight: InFlight = 64,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    workers: Workers = None,
    shards: MaxShards = None,
    only_pass: OnePass = None,
    shard: OneShard = None,
    dryrun: Dryrun = False,
    as_json: AsJson = False,
) -> None:
    """Curate conversations by rules, exact duplicates and a judge; continue if interrupted."""
    from data_prep.conversations.curate.curation import PASSES, curate
    from data_prep.conversations.curate.rules import RuleSettings
    from data_prep.conversations.curate.selection import Judging
    from data_prep.conversations.judge.client import Budget, Endpoint
    from data_prep.conversations.judge.rubric import load_rubric
    from recipes.reports.curation import print_summary, write_report

    if only_pass not in (None, *PASSES):
        raise UserError(f"--pass {only_pass}: expected {', '.join(PASSES)}; choose one of them")
    if (judge is None) != (model is None):
        raise UserError(
            "--judge and --model: expected both or none; name the judge's server and model"
        )
    judging = None
    if judge and model:
        judging = Judging(
            load_rubric(rubric),
            Endpoint(judge, model, in_flight, option="--judge"),
            Budget(max_requests, max_tokens),
            keep_borderline,
        )
    settings = RuleSettings(
        min_reply_characters, max_characters, tuple(decontaminate or ()), ngram_words
    )
    manifest = curate(
        inputs,
        output,
        settings,
        judging=judging,
        workers=workers or usable_cpus(),
        max_shards=shards,
        only_pass=only_pass,
        only_shard=shard,
        dryrun=dryrun,
    )
    # of a job array the last job has it
    if manifest is None:
        return
    write_report(output, manifest)
    if as_json:
        typer.echo(json.dumps(asdict(manifest), indent=2, ensure_ascii=False))
    else:
        print_summary(manifest)
