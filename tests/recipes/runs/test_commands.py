"""``granite41`` reads the command line of each options' dataclass back to the same values."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from recipes.cli.main import app
from recipes.runs.commands import (
    CorporaOptions,
    CurateOptions,
    EvaluateOptions,
    ExportOptions,
    GateOptions,
    GenerateOptions,
    ImportOptions,
    JudgeServerOptions,
    MadeUpOptions,
    MergeOptions,
    Options,
    PackOptions,
    PromptsOptions,
    ReportOptions,
    RolloutServerOptions,
    RulerOptions,
    TinyDataOptions,
    TokenizeOptions,
    TrainOptions,
)

HERE = Path("some/folder")
EVERY_OPTION = [
    TinyDataOptions(output=HERE, vocab_size=512),
    MadeUpOptions(output=HERE / "a.jsonl", conversations=9),
    PackOptions(inputs=("a.jsonl", "hf:b"), tokenizer=HERE / "t", sequence_length=64, output=HERE),
    TokenizeOptions(
        inputs=("a.jsonl", "hf:b"),
        output=HERE,
        tokenizer=HERE / "tokenizer",
        shards=7,
        text_field="a+b",
        license="MIT",
        skip_bad_records=True,
        workers=3,
    ),
    CurateOptions(
        inputs=("a.jsonl", "hf:b"),
        output=HERE,
        min_reply_characters=2,
        max_characters=9,
        decontaminate=("a.txt", "task:b"),
        ngram_words=8,
        judge="http://h/v1/chat/completions",
        judge_file=HERE / "judge.json",
        model="judge",
        rubric=HERE / "rubric.yaml",
        keep_borderline=True,
        in_flight=2,
        max_requests=3,
        max_tokens=4,
        workers=5,
        shards=7,
        only="rules",
    ),
    JudgeServerOptions(model="hf/judge", output=HERE, file=HERE / "judge.json", vllm="/v/vllm"),
    PromptsOptions(sources=("arithmetic=3", "logic=4"), output=HERE, easy=True),
    ImportOptions(hf="ibm-granite/granite", output=HERE),
    TrainOptions(
        stage="phase2",
        size="tiny",
        run_dir=HERE,
        data=HERE / "data",
        init=HERE / "init",
        overrides=("seed=1", "mixture.code=3"),
    ),
    RolloutServerOptions(
        folder=HERE,
        model=HERE / "hf",
        python="/opt/vllm/bin/python",
        host="10.0.0.7",
        max_length=512,
        tensor_parallel=2,
        vllm_options="--dtype bfloat16",
    ),
    MergeOptions(
        method="linear", parents=(HERE / "a", HERE / "b"), weights=(0.25, 0.75), output=HERE
    ),
    ExportOptions(checkpoint=HERE, output=HERE / "hf"),
    EvaluateOptions(
        suite="long-context",
        model="lce_32k",
        size="8b",
        run_dir=HERE,
        unmerged=True,
        stage="phase4",
        label="weight-0.3",
        output=HERE / "output",
        tasks=("one", "two"),
        samples=5,
        backend="vllm",
        url="http://localhost:1/v1/completions",
        batch_size="auto",
        backend_args="dtype=float32",
        ruler_samples=HERE / "ruler",
        allow_code=True,
        corpora=HERE / "corpora",
        lengths=(4096, 8192),
    ),
    CorporaOptions(output=HERE),
    RulerOptions(
        tokenizer=HERE, lengths=(256, 512), samples=3, output=HERE / "o", corpora=HERE / "c"
    ),
    GateOptions(
        folders=(HERE / "a", HERE / "b"),
        reference="none",
        baseline=HERE / "c",
        allow_fallback=True,
    ),
    ReportOptions(run_dir=HERE),
    GenerateOptions(folder=HERE, prompt="a b", chat=True),
]


def _parse(argv: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the name of the command that ``argv`` runs, and its parameters."""
    command = typer.main.get_command(app)
    name: str | None = None
    rest = list(argv)
    while isinstance(command, click.Group):
        name, subcommand, rest = command.resolve_command(click.Context(command), rest)
        assert subcommand
        command = subcommand
    assert name
    return name, command.make_context(name, rest).params


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(item) for item in values]


@pytest.mark.parametrize("options", EVERY_OPTION, ids=lambda options: type(options).__name__)
def test_the_command_reads_what_the_options_hold(options: Options) -> None:
    name, parameters = _parse(options.to_argv())
    for option in fields(options):
        value = getattr(options, option.name)
        # a suite is a command of its own
        read = name if option.name == "suite" else parameters[option.name]
        assert _words(read) == _words(value), option.name


def test_every_options_class_is_read_back() -> None:
    assert {type(options) for options in EVERY_OPTION} == set(Options.__subclasses__())


def test_what_is_not_set_is_left_out() -> None:
    options = EvaluateOptions(suite="base", model="phase1", size="tiny")
    assert options.to_argv() == ("eval", "base", "--model", "phase1", "--size", "tiny")


def test_weights_are_short_numbers() -> None:
    argv = MergeOptions(method="linear", parents=("a", "b"), weights=(0.6, 1 - 0.6), output="o")
    assert argv.to_argv()[6:9] == ("--weights", "0.6", "0.4")
