"""The commands ``granite41 eval ...``; each imports what it needs when it runs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.common.errors import UserError
from recipes.common.multi_value import MultiValueCommand
from recipes.common.tables import print_table

if TYPE_CHECKING:
    from evaluation.results import Evaluation

SUITES = ("base", "instruct", "long-context", "smoke")
REFERENCE = "reference.json"

eval_app = typer.Typer(
    help="Evaluate models: suites through lm-eval, RULER, gates and reports.",
    no_args_is_help=True,
    rich_markup_mode=None,
    suggest_commands=False,
)

SizeOption = Annotated[str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")]
ModelOption = Annotated[
    str, typer.Option(help="A stage of the run, a folder, or hf:NAME of the Hub.")
]
SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help=f"One of {', '.join(SUITES)}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunDirOption = Annotated[Path | None, typer.Option(help="The run's folder  [default: runs/SIZE]")]
BackendOption = Annotated[str, typer.Option(help="hf, vllm or local-completions.")]
UrlOption = Annotated[
    str | None,
    typer.Option(help="For local-completions: the server, as http://HOST:PORT/v1/completions."),
]
BatchSizeOption = Annotated[
    str | None,
    typer.Option(help="Prompts at once, or auto  [default: the suite's]", show_default=False),
]
BackendArgsOption = Annotated[
    str,
    typer.Option("--backend-args", metavar="KEY=VALUE,...", help="More of lm-eval's model_args."),
]
CorporaOption = Annotated[
    Path | None,
    typer.Option(
        help="Texts that `eval corpora` fetched  [default: the project's own, which gates refuse]"
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Also run the tasks that execute what the model writes, in a sandbox."
    ),
]


def _run_suite(
    context: typer.Context,
    model: ModelOption,
    size: SizeOption,
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="local|CLUSTER", help="This machine, or jobs on a Slurm cluster."
        ),
    ] = "local",
    run_dir: RunDirOption = None,
    unmerged: Annotated[
        bool, typer.Option("--unmerged", help="Of a stage, the checkpoint before its merge.")
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", help="Report a folder's model under this stage, with --label."
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(help="What sets this model apart in reports, as weight-0.3.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(help="The evaluation's folder  [default: RUN/STAGE/eval/SUITE[-LABEL]]"),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks of the suite.")] = None,
    lengths: Annotated[
        list[int] | None, typer.Option(help="Of RULER, these lengths in tokens.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of each task  [default: the suite's]")
    ] = None,
    backend: BackendOption = "hf",
    url: UrlOption = None,
    batch_size: BatchSizeOption = None,
    backend_args: BackendArgsOption = "",
    corpora: CorporaOption = None,
    ruler_samples: Annotated[
        Path | None,
        typer.Option(help="RULER's samples, generated where missing  [default: RUN/ruler]"),
    ] = None,
    allow_code: AllowCodeOption = False,
    dryrun: Annotated[
        bool, typer.Option("--dryrun", help="Print the units and run nothing.")
    ] = False,
) -> None:
    """Evaluate a model by a suite; what has a result already is not done again."""
    from evaluation.results import evaluation_name
    from recipes.registry.resolve import require_known
    from recipes.registry.stages import STAGES

    suite = str(context.info_name)
    if on != "local":
        from recipes.launch.on_slurm import evaluate_on_cluster

        options = {
            "--unmerged": unmerged,
            "--stage": stage,
            "--label": label,
            "--output": output,
            "--tasks": tasks,
            "--samples": samples,
            "--backend": backend,
            "--url": url,
            "--batch-size": batch_size,
            "--backend-args": backend_args,
            "--corpora": corpora,
            "--ruler-samples": ruler_samples,
            "--allow-code": allow_code,
        }
        given = {name: value for name, value in options.items() if value}
        evaluate_on_cluster(on, run_dir, suite, model, size, lengths or [], given, dryrun)
        return
    run_folder = run_dir or Path("runs") / size
    label = label or ("unmerged" if unmerged else "")
    if stage is not None:
        require_known("stage", stage, STAGES)
        if model in STAGES or not label:
            raise UserError(
                "--stage belongs to a model that is no stage itself, and needs a --label; correct one"
            )
    elif model in STAGES:
        stage = model
    if output is None:
        if stage is None:
            raise UserError(
                f"--model {model}: is no stage of a run; name the folder with --output, or a --stage and --label"
            )
        output = run_folder / stage / "eval" / evaluation_name(suite, label)
    evaluation = _evaluated(
        suite,
        size,
        stage,
        label,
        hf=_hf_folder(model, run_folder, output, unmerged, dryrun),
        output=output,
        tasks=tasks or [],
        lengths=lengths or [],
        samples=samples,
        backend=backend,
        url=url,
        batch_size=batch_size,
        backend_args=backend_args,
        corpora=corpora,
        ruler_samples=ruler_samples or (run_folder if stage else output) / "ruler",
        allow_code=allow_code,
        dryrun=dryrun,
    )
    if evaluation is None:
        return
    _print_scores(evaluation)
    typer.echo(str(output))
    _say_failures(evaluation)


def _hf_folder(
    model: str, run_folder: Path, output: Path, unmerged: bool = False, dryrun: bool = False
) -> Path:
    from recipes.model.exported import exported_folder

    folder, checkpoint = exported_folder(model, run_folder, output / "hf", unmerged=unmerged)
    if checkpoint:
        if dryrun:
            typer.echo(
                f"{checkpoint}: is to be exported to {folder} first, which a dry run does not do"
            )
            raise typer.Exit
        from recipes.model.bridge.to_hf import export_hf

        typer.echo(f"exporting {checkpoint} to {folder}")
        export_hf(checkpoint, folder, say=lambda line: None)
    return folder


def _evaluated(
    suite: str,
    size: str,
    stage: str | None,
    label: str,
    *,
    hf: Path,
    output: Path,
    tasks: list[str],
    lengths: list[int],
    samples: int | None,
    backend: str,
    url: str | None,
    batch_size: str | None,
    backend_args: str,
    corpora: Path | None,
    ruler_samples: Path,
    allow_code: bool,
    dryrun: bool = False,
) -> "Evaluation | None":
    """Check what was asked for before any work, then evaluate; None for a dry run."""
    from evaluation import runner, suites
    from evaluation.backends import backend_for, parse_arguments
    from evaluation.model_folder import open_model

    model = open_model(hf)
    found = suites.get_suite(suite, size)
    is_ruler = suite == suites.LONG_CONTEXT
    if lengths and not is_ruler:
        raise UserError(
            f"--lengths: suite {suite} has no lengths, only {suites.LONG_CONTEXT}; leave it out"
        )
    every_length = sorted({*suites.lengths(size, model.positions), *lengths}) if is_ruler else []
    asked = {
        (task.name, length)
        for task, length in suites.units(suite, size, lengths or every_length, tasks)
    }
    planned = runner.plan(found, size, every_length, samples, allow_code)
    wanted = [unit for unit in planned if (unit.task.name, unit.length) in asked]
    left_out = suites.unavailable(suite, size)
    if not allow_code:
        left_out |= {
            task.name: "it runs what the model writes; --allow-code runs it in a sandbox"
            for task in found.tasks.values()
            if task.unsafe_code
        }
    for name, reason in left_out.items():
        typer.echo(f"{name}: left out, {reason}")
    if any(unit.task.unsafe_code for unit in wanted):
        from evaluation.sandbox import run_python

        # a kernel that allows no sandbox is told of before hours of generation
        run_python("", seconds=60, memory_bytes=2**30)
    longest = max((unit.length or 0 for unit in wanted), default=0)
    runner.check_context(model, longest)
    if dryrun:
        for unit in wanted:
            typer.echo(unit.name)
        return None
    chosen = backend_for(
        backend,
        model,
        url=url,
        batch_size=batch_size or found.batch_size,
        arguments=parse_arguments(backend_args),
        longest=longest,
    )
    description = runner.describe(
        suite, size, stage, label, model, chosen, planned, samples or found.samples, left_out
    )
    return runner.evaluate(
        description,
        planned,
        wanted,
        model,
        chosen,
        output,
        samples=ruler_samples,
        corpora=corpora,
        allow_code=allow_code,
        say=typer.echo,
    )


def _print_scores(evaluation: "Evaluation") -> None:
    print_table(
        ["unit", "score", "± SE", "samples", "fill", "corpus"],
        [
            [
                unit.name,
                f"{unit.score:.2f}",
                "-" if unit.stderr is None else f"{unit.stderr:.2f}",
                str(unit.samples),
                "-" if unit.fill_min is None else f"{100 * unit.fill_min:.1f} %",
                unit.corpus or "-",
            ]
            for unit in evaluation.units
        ],
    )


def _say_failures(evaluation: "Evaluation") -> None:
    for name, reason in evaluation.failures.items():
        print(f"granite41: {name} has no result: {reason}", file=sys.stderr)
    if evaluation.failures:
        raise typer.Exit(1)


for _suite in SUITES:
    eval_app.command(
        _suite, cls=MultiValueCommand, help=f"Evaluate a model by the suite {_suite}."
    )(_run_suite)


@eval_app.command("list")
def list_suites(
    suite: Annotated[
        str | None, typer.Argument(metavar="[SUITE]", help="One suite  [default: all]")
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")
    ] = "8b",
    as_json: JsonOption = False,
) -> None:
    """List the suites: lm-eval's task, setting and IBM's published score of each benchmark."""
    from evaluation import suites

    rows = []
    for name in [suite] if suite else SUITES:
        for task in suites.get_suite(name, size).tasks.values():
            rows.append(
                {
                    "suite": name,
                    "benchmark": task.name,
                    "lm_eval": task.lm_eval or (None if task.unavailable else "generated"),
                    "num_fewshot": task.num_fewshot,
                    "metric": task.metric or None,
                    "ibm_setting": suites.setting(name, task.name),
                    "ibm_score": suites.reference(name, task.name, size),
                    "note": task.unavailable or task.note,
                }
            )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(
        [
            "suite",
            "benchmark",
            "lm-eval",
            "shots",
            "metric",
            "IBM's setting",
            f"IBM's {size}",
            "note",
        ],
        [["-" if cell is None else str(cell) for cell in row.values()] for row in rows],
    )


@eval_app.command("generate", cls=MultiValueCommand)
def generate_samples(
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json.")],
    lengths: Annotated[list[int], typer.Option(help="Tokens of prompt and answer together.")],
    samples: Annotated[int, typer.Option(min=1, help="Samples of each task and length.")],
    output: Annotated[Path, typer.Option(help="The folder to write, TASK/LENGTH.jsonl.")],
    tasks: Annotated[
        list[str] | None, typer.Option(help="Some of the thirteen  [default: all]")
    ] = None,
    corpora: CorporaOption = None,
    seed: Annotated[int | None, typer.Option(help="Another one gives other samples.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes  [default: one per processor]")
    ] = None,
) -> None:
    """Generate RULER's samples, without a GPU; files that are there and whole are kept."""
    from evaluation.ruler.generation import SEED, generate
    from evaluation.ruler.settings import TASKS

    generate(
        tokenizer,
        lengths,
        samples,
        output,
        tasks=tasks or TASKS,
        corpora=corpora,
        seed=SEED if seed is None else seed,
        workers=workers,
    )


@eval_app.command("corpora")
def fetch_corpora(output: Annotated[Path, typer.Option(help="The folder to write.")]) -> None:
    """Fetch RULER's essays and questions from their public sources; checksums are compared."""
    from evaluation.ruler.corpora import fetch

    fetch(output)


@eval_app.command("gate", cls=MultiValueCommand)
def gate_evaluations(
    folders: Annotated[list[Path], typer.Option("--folders", help="Folders of evaluations.")],
    reference: Annotated[
        str,
        typer.Option(
            metavar="published|none|FILE",
            help="IBM's numbers, none, or what `eval calibrate` wrote.",
        ),
    ] = "published",
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="The evaluation before a merge or a stage: of its suite the mean must not fall."
        ),
    ] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Accept RULER on the project's own texts.")
    ] = False,
) -> None:
    """Pass or fail evaluations; exit status 1 and the reasons where one fails."""
    from evaluation import gates
    from evaluation.results import read_evaluation

    before = read_evaluation(baseline) if baseline else None
    failed = []
    for folder in folders:
        evaluation = read_evaluation(folder)
        against = None
        if reference == "published":
            against = gates.published(evaluation.suite, evaluation.size)
        elif reference != "none":
            against = gates.read_calibrated(Path(reference), evaluation)
        own = before if before and before.suite == evaluation.suite else None
        verdicts = gates.gate(evaluation, against, baseline=own, allow_fallback=allow_fallback)
        passed = gates.write_gate(
            folder, verdicts, against=against, baseline=own, allow_fallback=allow_fallback
        )
        typer.echo(f"{folder}: {'passed' if passed else 'FAILED'}, {len(verdicts)} checks")
        failed += [(folder, verdict) for verdict in verdicts if not verdict.ok]
    for folder, verdict in failed:
        print(f"granite41: gate of {folder}, {verdict.name}: {verdict.reason}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@eval_app.command("calibrate")
def calibrate_suite(
    suite: SuiteArgument,
    model: ModelOption,
    size: SizeOption,
    output: Annotated[
        Path, typer.Option(help=f"The evaluation's folder; {REFERENCE} in it is for `eval gate`.")
    ],
    backend: BackendOption = "hf",
    url: UrlOption = None,
    batch_size: BatchSizeOption = None,
    backend_args: BackendArgsOption = "",
    corpora: CorporaOption = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of each task  [default: the suite's]")
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Evaluate IBM's released model by this very pipeline, and keep its scores as a reference for gates."""
    from evaluation.gates import calibrate

    evaluation = _evaluated(
        suite,
        size,
        None,
        "",
        hf=_hf_folder(model, Path("runs") / size, output),
        output=output,
        tasks=[],
        lengths=[],
        samples=samples,
        backend=backend,
        url=url,
        batch_size=batch_size,
        backend_args=backend_args,
        corpora=corpora,
        ruler_samples=output / "ruler",
        allow_code=allow_code,
    )
    if evaluation is None:
        return
    _print_scores(evaluation)
    _say_failures(evaluation)
    typer.echo(str(calibrate(evaluation, output / REFERENCE)))


@eval_app.command("report")
def report_run(run_dir: Annotated[Path, typer.Option(help="The run's folder.")]) -> None:
    """Write the run's evaluation.html, evaluation.md and evaluation.json."""
    from recipes.reports.evaluation import write_report

    typer.echo(str(write_report(run_dir)))


@eval_app.command("compare")
def compare_runs(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run's folder, or an evaluation's.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    output: Annotated[
        Path, typer.Option(help="The .html to write; .md and .json stand beside it.")
    ],
) -> None:
    """Write what changes from one run or evaluation to another."""
    from recipes.reports.comparison import compare

    typer.echo(str(compare(a, b, output)))
