"""``granite41 data curate``: rules, duplicates and a judge make a set of conversations."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RunDir,
    Where,
    Workers,
)
from recipes.cli.judge import InFlight, MaxRequests, MaxTokens, RubricFile, Vllm
from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError
from recipes.common.servers import KEY
from recipes.runs.commands import MADE_UP, CurateOptions
from recipes.runs.curated_folder import MANIFEST, MOST_CHARACTERS

if TYPE_CHECKING:
    from data_prep.conversations.curate.selection import Judging

JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="URL",
        help="Chat completions of a judge, as http://HOST:PORT/v1/chat/completions; its key is in "
        "OPENAI_API_KEY. Or made-up: one on this machine that knows `data made-up`.",
    ),
]
JudgeFile = Annotated[
    Path | None,
    typer.Option(help="Instead of --judge: what `data judge-server` writes; is waited for."),
]
JudgeModel = Annotated[str | None, typer.Option("--model", help="The judge's name on its server.")]
Serve = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Instead of --judge: on a cluster, serve this model by vLLM in a job of its own.",
    ),
]
KeepBorderline = Annotated[
    bool,
    typer.Option("--keep-borderline", help="Keep what the judge neither accepts nor rejects."),
]
MinReply = Annotated[int, typer.Option(min=1, help="Drop what has a shorter reply.")]
MaxCharacters = Annotated[int, typer.Option(min=1, help="Drop longer conversations.")]
OnePass = Annotated[
    str | None,
    typer.Option("--only", metavar="NAME", help="Do only this: rules, duplicates or selection."),
]


def curate_conversations(
    inputs: Inputs,
    output: Output,
    min_reply_characters: MinReply = 1,
    max_characters: MaxCharacters = MOST_CHARACTERS,
    decontaminate: Decontaminate = None,
    ngram_words: NgramWords = 13,
    judge: JudgeUrl = None,
    judge_file: JudgeFile = None,
    model: JudgeModel = None,
    serve: Serve = None,
    vllm: Vllm = "vllm",
    rubric: RubricFile = None,
    keep_borderline: KeepBorderline = False,
    in_flight: InFlight = 64,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    workers: Workers = None,
    shards: MaxShards = None,
    only: OnePass = None,
    shard: OneShard = None,
    on: Where = "local",
    run_dir: RunDir = None,
    dryrun: Dryrun = False,
    as_json: AsJson = False,
) -> None:
    """Curate conversations by rules, exact duplicates and a judge; continue if interrupted."""
    options = CurateOptions(
        inputs=tuple(inputs),
        output=output,
        min_reply_characters=min_reply_characters,
        max_characters=max_characters,
        decontaminate=tuple(decontaminate or ()),
        ngram_words=ngram_words,
        judge=judge,
        judge_file=judge_file,
        model=model,
        rubric=rubric,
        keep_borderline=keep_borderline,
        in_flight=in_flight,
        max_requests=max_requests,
        max_tokens=max_tokens,
        workers=workers,
        shards=shards,
        only=only,
    )
    _check(options, serve, on)
    if on == "local":
        _curate(options, shard, dryrun, as_json)
        return

    from recipes.launch.on_slurm import curate_on_cluster

    if shard is not None or only is not None:
        raise UserError(
            f"--only and --shard: --on {on} does every pass and shard, each in its job; leave "
            f"them out"
        )
    curate_on_cluster(on, run_dir, options, serve, vllm, dryrun)


def _check(options: CurateOptions, serve: str | None, on: str) -> None:
    judges = [value for value in (options.judge, options.judge_file, serve) if value]
    if len(judges) > 1:
        raise UserError("--judge, --judge-file and --serve: expected one of them; leave out others")
    if serve and on == "local":
        raise UserError(
            f"--serve {serve}: a judge is served by a job of a cluster; add --on CLUSTER, or start "
            f"a server and give --judge URL"
        )
    needs_name = bool(options.judge or options.judge_file)
    if needs_name != bool(options.model):
        raise UserError("--judge and --model: expected both or none; name the server and the model")


def _curate(options: CurateOptions, shard: int | None, dryrun: bool, as_json: bool) -> None:
    from data_prep.conversations.curate.curation import PASSES, curate
    from data_prep.conversations.curate.rules import RuleSettings
    from recipes.reports.curation import print_summary, write_report

    only = options.only
    if only not in (None, *PASSES):
        raise UserError(f"--only {only}: expected {', '.join(PASSES)}; choose one of them")
    settings = RuleSettings(
        options.min_reply_characters,
        options.max_characters,
        options.decontaminate,
        options.ngram_words,
    )
    output = Path(options.output)
    with _judge_address(options.judge) as url:
        manifest = curate(
            options.inputs,
            output,
            settings,
            judging=_judging(replace(options, judge=url)),
            workers=options.workers or usable_cpus(),
            max_shards=options.shards,
            only=only,
            shard=shard,
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


@contextmanager
def _judge_address(judge: str | None) -> Iterator[str | None]:
    """Yield the judge's address; the one that knows `data made-up` is served meanwhile."""
    if judge != MADE_UP:
        yield judge
        return
    from data_prep.conversations.judge.scripted_server import ScriptedJudge, serving
    from data_prep.conversations.made_up.judging import judge_by_rule

    with serving(ScriptedJudge(judge_by_rule)) as url:
        yield url


def _judging(options: CurateOptions) -> "Judging | None":
    """Return the judge that the options name."""
    from data_prep.conversations.curate.selection import Judging
    from data_prep.conversations.judge.client import Budget, Endpoint
    from data_prep.conversations.judge.rubric import load_rubric
    from data_prep.conversations.judge.server import wait_for_server

    if options.model is None:
        return None
    rubric = load_rubric(Path(options.rubric) if options.rubric else None)
    url = options.judge or ""
    # what is complete needs no server any more
    if options.judge_file and not (Path(options.output) / MANIFEST).exists():
        server = wait_for_server(Path(options.judge_file))
        url = server.url
        os.environ[KEY] = server.key
    return Judging(
        rubric,
        Endpoint(url, options.model, options.in_flight, option="--judge"),
        Budget(options.max_requests, options.max_tokens),
        options.keep_borderline,
    )
