"""``granite41 data prompts``: prompts for reinforcement learning."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli.data import AsJson, Decontaminate, NgramWords, Output, Workers
from recipes.common.cpus import usable_cpus
from recipes.common.errors import UserError

if TYPE_CHECKING:
    from data_prep.prompts.difficulty import Trial
    from recipes.runs.prompts import PromptManifest

Sources = Annotated[
    list[str],
    typer.Option(
        "--source",
        metavar="NAME[=COUNT]...",
        help="A generator with a count, a public set, a file of prompts or hf:NAME; see "
        "docs/prompts.md.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of what is made up, and of what is drawn.")]
Easy = Annotated[bool, typer.Option("--easy", help="Make up what a model of size tiny can learn.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Chat completions of a model, as http://HOST:PORT/v1/chat/completions: leave out "
        "what it always or never solves.",
    ),
]
Model = Annotated[str, typer.Option(help="The model's name on that server.")]
Samples = Annotated[int, typer.Option(min=2, help="Answers of the model to a prompt.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")]
InFlight = Annotated[int, typer.Option(min=1, help="Requests at a time.")]


def data_prompts(
    sources: Sources,
    output: Output,
    seed: Seed = 1234,
    easy: Easy = False,
    decontaminate: Decontaminate = None,
    ngram_words: NgramWords = 13,
    endpoint: Url = None,
    model: Model = "",
    samples: Samples = 16,
    max_tokens: MaxTokens = 2048,
    in_flight: InFlight = 64,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Prepare prompts for RL with answers that can be checked; continue if interrupted."""
    from data_prep.prompts.preparation import Settings, prepare
    from data_prep.prompts.sources import Source

    trial = None
    if endpoint:
        trial = _trial(endpoint, model, samples, max_tokens, in_flight)
    settings = Settings(
        seed=seed,
        is_easy=easy,
        decontaminate=tuple(decontaminate or ()),
        ngram_words=ngram_words,
        trial=trial,
    )
    parsed = [Source.parse(text) for text in sources]
    manifest = prepare(parsed, output, settings, workers or usable_cpus())
    if as_json:
        typer.echo(json.dumps(asdict(manifest), indent=2))
    else:
        _print_manifest(manifest)


def _trial(endpoint: str, model: str, samples: int, max_tokens: int, in_flight: int) -> "Trial":
    from data_prep.conversations.judge.client import Endpoint
    from data_prep.conversations.judge.rubric import Sampling
    from data_prep.prompts.difficulty import Trial
    from recipes.registry.stages import STAGES
    from recipes.spec.rl import RlStage

    if not model:
        raise UserError("--endpoint: needs --model, the model's name on that server")
    # as the rollouts of RL, which is the same in its four stages
    temperature = next(
        stage.temperature.value for stage in STAGES.values() if isinstance(stage, RlStage)
    )
    return Trial(Endpoint(endpoint, model, in_flight), samples, Sampling(temperature, max_tokens))


def _print_manifest(manifest: "PromptManifest") -> None:
    from recipes.common.tables import print_table

    rows = []
    for name, source in manifest.sources.items():
        rows.append([name, f"{source.prompts:,}", source.license or "unknown", ""])
        for reason, count in source.left_out.items():
            rows.append(["", "", "", f"{count:,} {reason}"])
    print_table(["source", "prompts", "license", "left out"], rows)
    domains = ", ".join(f"{count:,} {domain}" for domain, count in manifest.domains.items())
    typer.echo(f"{manifest.prompts:,} prompts: {domains}")
