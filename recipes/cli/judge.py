"""``granite41 data judge`` and ``data judge-check``: a language model judges conversations."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli.data import AsJson, Inputs, Output

if TYPE_CHECKING:
    from data_prep.conversations.judge.agreement import Estimate
    from data_prep.conversations.judge.check import Moved, Report
    from data_prep.conversations.judge.files import Summary

Url = Annotated[
    str,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Chat completions of the judge, as http://HOST:PORT/v1/chat/completions; "
        "its key is in OPENAI_API_KEY.",
    ),
]
Model = Annotated[str, typer.Option(help="The judge's name on that server.")]
RubricFile = Annotated[
    Path | None,
    typer.Option("--rubric", help="Your own weights and thresholds, as in rubric.yaml."),
]
InFlight = Annotated[int, typer.Option(min=1, help="Requests at a time.")]
Vllm = Annotated[str, typer.Option(metavar="PROGRAM", help="vLLM's program on the nodes.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Stop after so many requests.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after so many tokens of prompts and answers."),
]


def judge_conversations(
    inputs: Inputs,
    output: Output,
    endpoint: Url,
    model: Model,
    rubric: RubricFile = None,
    in_flight: InFlight = 64,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
) -> None:
    """Judge conversations: accept, borderline, reject, undecided; continue if interrupted."""
    import asyncio

    from data_prep.conversations.judge.client import Budget, Endpoint
    from data_prep.conversations.judge.files import judge_files
    from data_prep.conversations.judge.rubric import load_rubric

    summary = asyncio.run(
        judge_files(
            inputs,
            output,
            load_rubric(rubric),
            Endpoint(endpoint, model, in_flight),
            Budget(max_requests, max_tokens),
        )
    )
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=2))
    else:
        _print_summary(summary)


def _print_summary(summary: "Summary") -> None:
    from recipes.common.tables import print_table

    buckets = list(summary.buckets)
    rows = []
    for category, counts in summary.categories.items():
        if any(counts.values()):
            rows.append([category, *(f"{counts[name]:,}" for name in buckets)])
    rows.append(["all", *(f"{count:,}" for count in summary.buckets.values())])
    print_table(["conversations", *buckets], rows)
    typer.echo(
        f"{summary.conversations:,} conversations judged, {summary.bad_records:,} bad records; "
        f"this run: {summary.requests:,} requests, {summary.tokens:,} tokens"
    )


def serve_judge(
    model: Annotated[str, typer.Option(help="A model's folder, or its name on the Hub.")],
    output: Annotated[Path, typer.Option(help="Of the curation that it is for.")],
    file: Annotated[Path, typer.Option(help="Receives the address and a new key.")],
    vllm: Vllm = "vllm",
    host: Annotated[str, typer.Option(help="Inner address of this machine.")] = "127.0.0.1",
) -> None:
    """Serve a judge by vLLM until a curation is complete: a job of `data curate --on`."""
    from data_prep.conversations.judge.server import serve

    serve(model, output, file, host, vllm)


def check_judge(
    labels: Annotated[
        Path,
        typer.Option(help="JSON lines: conversations with labels, see docs/judge.md."),
    ],
    output: Output,
    endpoint: Url,
    model: Model,
    rubric: RubricFile = None,
    probes: Annotated[
        int,
        typer.Option(min=0, help="Samples that are judged again, changed."),
    ] = 50,
    in_flight: InFlight = 64,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
) -> None:
    """Compare a judge with labels; probe it with padding, another order and injections."""
    import asyncio

    from data_prep.conversations.judge.check import check
    from data_prep.conversations.judge.client import Budget, Endpoint
    from data_prep.conversations.judge.rubric import load_rubric

    report = asyncio.run(
        check(
            labels,
            output,
            load_rubric(rubric),
            Endpoint(endpoint, model, in_flight),
            Budget(max_requests, max_tokens),
            probes,
        )
    )
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        _print_report(report)


def _print_report(report: "Report") -> None:
    from recipes.common.tables import print_table

    rows = []
    for name, found in report.agreement.items():
        row = [name, str(found.samples), *_cells(found.accuracy), *_cells(found.kappa)]
        difference = report.differences.get(name)
        row.append(f"{difference.value:+.2f}" if difference else "-")
        rows.append(row)
    columns = ["agreement", "samples", "accuracy", "95 %", "kappa", "95 %", "score - label"]
    print_table(columns, rows)
    for title, group in (("probe", report.probes), ("injection", report.injections)):
        print_table(
            [title, "samples", "better", "worse", "change of score", "95 %"],
            [_moved_row(moved) for moved in group],
        )
    buckets = ", ".join(f"{count} {name}" for name, count in report.buckets.items())
    typer.echo(f"labelled samples: {buckets}")
    typer.echo(
        f"{report.flips} injected conversations in a better bucket; this run: "
        f"{report.requests:,} requests, {report.tokens:,} tokens"
    )


def _moved_row(moved: "Moved") -> list[str]:
    counts = [str(moved.samples), str(moved.better), str(moved.worse)]
    return [moved.name, *counts, *_cells(moved.score)]


def _cells(estimate: "Estimate") -> list[str]:
    if estimate.value is None:
        return ["-", "-"]
    return [f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}"]
