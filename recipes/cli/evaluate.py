"""The commands ``granite41 eval ...``; each imports what it needs when it runs."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.common.errors import UserError
from recipes.common.multi_value import MultiValueCommand
from recipes.common.tables import print_table
from recipes.runs.commands import EvaluateOptions

if TYPE_CHECKING:
    from evaluation.plan import Plan
    from evaluation.results import Evaluation
    from recipes.model_folder.folder import ModelFolder

log = logging.getLogger(__name__)

SUITES = ("base", "instruct", "long-context", "smoke", "chat")
REFERENCE = "reference.json"

eval_app = typer.Typer(
    help="Evaluate models: suites through lm-eval, RULER, gates and reports.",
    no_args_is_help=True,
    rich_markup_mode=None,
    suggest_commands=False,
)

SuiteArgument = Annotated[
    str,
    typer.Argument(metavar="SUITE", help=f"One of {', '.join(SUITES)}."),
]
ModelOption = Annotated[
    str,
    typer.Option(help="A stage of the run, a folder, or hf:NAME of the Hub."),
]
SizeOption = Annotated[
    str,
    typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny."),
]
OnOption = Annotated[
    str,
    typer.Option("--on", metavar="local|CLUSTER", help="This machine, or jobs on a Slurm cluster."),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(help="The run's folder  [default: runs/SIZE]"),
]
UnmergedOption = Annotated[
    bool,
    typer.Option("--unmerged", help="Of a stage, the checkpoint before its merge."),
]
StageOption = Annotated[
    str | None,
    typer.Option(metavar="STAGE", help="Report a folder's model under this stage, with --label."),
]
LabelOption = Annotated[
    str,
    typer.Option(help="What sets this model apart in reports, as weight-0.3."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(help="The evaluation's folder  [default: RUN/STAGE/eval/SUITE[-LABEL]]"),
]
TasksOption = Annotated[
    list[str] | None,
    typer.Option(help="Only these tasks of the suite."),
]
LengthsOption = Annotated[
    list[int] | None,
    typer.Option(help="Of RULER, these lengths in tokens."),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Samples of each task  [default: the suite's]"),
]
BackendOption = Annotated[
    str,
    typer.Option(help="hf, vllm or local-completions."),
]
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
RulerSamplesOption = Annotated[
    Path | None,
    typer.Option(help="RULER's samples, generated where missing  [default: RUN/ruler]"),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Also run the tasks that execute what the model writes, in a sandbox."
    ),
]
DryrunOption = Annotated[
    bool,
    typer.Option("--dryrun", help="Print the units and run nothing."),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of a table."),
]


def _run_suite(
    context: typer.Context,
    model: ModelOption,
    size: SizeOption,
    on: OnOption = "local",
    run_dir: RunDirOption = None,
    unmerged: UnmergedOption = False,
    stage: StageOption = None,
    label: LabelOption = "",
    output: OutputOption = None,
    tasks: TasksOption = None,
    lengths: LengthsOption = None,
    samples: SamplesOption = None,
    backend: BackendOption = "hf",
    url: UrlOption = None,
    batch_size: BatchSizeOption = None,
    backend_args: BackendArgsOption = "",
    corpora: CorporaOption = None,
    ruler_samples: RulerSamplesOption = None,
    allow_code: AllowCodeOption = False,
    dryrun: DryrunOption = False,
) -> None:
    """Evaluate a model by a suite; units that have a result are not scored again."""
    options = EvaluateOptions(
        suite=str(context.info_name),
        model=model,
        size=size,
        run_dir=run_dir,
        unmerged=unmerged,
        stage=stage,
        label=label,
        output=output,
        tasks=tuple(tasks or ()),
        lengths=tuple(lengths or ()),
        samples=samples,
        backend=backend,
        url=url,
        batch_size=batch_size,
        backend_args=backend_args,
        corpora=corpora,
        ruler_samples=ruler_samples,
        allow_code=allow_code,
    )
    # on a cluster the options become the command lines of jobs
    if on != "local":
        from recipes.launch.on_slurm import evaluate_on_cluster

        evaluate_on_cluster(on, options, dryrun)
        return
    options, folder = _with_defaults(options)
    model_folder, plan = _prepare(options, folder, dryrun)
    if dryrun:
        for unit in plan.chosen:
            typer.echo(unit.name)
        return
    evaluation = _evaluate(options, folder, model_folder, plan)
    # also where units have failed: their scores are kept
    _print_scores(evaluation)
    typer.echo(str(folder))
    _exit_where_failed(evaluation)


def _with_defaults(options: EvaluateOptions) -> tuple[EvaluateOptions, Path]:
    """Return the options with stage, label and folder of RULER's samples; the output folder."""
    from evaluation.results import evaluation_name
    from recipes.registry.resolve import require_known
    from recipes.registry.stages import STAGES

    # the stage under which the scores are reported
    label = options.label or ("unmerged" if options.unmerged else "")
    stage = options.stage
    if stage is not None:
        require_known("stage", stage, STAGES)
        if options.model in STAGES or not label:
            raise UserError(
                "--stage belongs to a model that is no stage itself, and needs a --label; "
                "correct one"
            )
    elif options.model in STAGES:
        stage = options.model

    run_folder = _run_folder(options)
    # where the results and RULER's samples go
    if options.output is not None:
        output = Path(options.output)
    elif stage is not None:
        output = run_folder / stage / "eval" / evaluation_name(options.suite, label)
    else:
        raise UserError(
            f"--model {options.model}: is no stage of a run; name the folder with --output, "
            f"or a --stage and --label"
        )
    samples = options.ruler_samples or (run_folder if stage else output) / "ruler"
    return replace(options, stage=stage, label=label, ruler_samples=samples), output


def _run_folder(options: EvaluateOptions) -> Path:
    return Path(options.run_dir or Path("runs") / options.size)


def _prepare(
    options: EvaluateOptions,
    output: Path,
    dryrun: bool = False,
) -> tuple["ModelFolder", "Plan"]:
    """Return the model and the units of an evaluation, checked before any work."""
    from evaluation.plan import plan_evaluation
    from evaluation.sandbox import require_sandbox
    from recipes.model_folder.folder import open_model

    model = open_model(_hf_folder(options, output, dryrun))
    plan = plan_evaluation(options, model)
    for name, reason in plan.left_out.items():
        log.info("%s: left out, %s", name, reason)
    # a kernel that allows no sandbox is named before hours of generation
    if any(unit.task.unsafe_code for unit in plan.chosen):
        require_sandbox()
    return model, plan


def _evaluate(
    options: EvaluateOptions,
    output: Path,
    model: "ModelFolder",
    plan: "Plan",
) -> "Evaluation":
    from evaluation.backends import build_backend
    from evaluation.runner import EvaluationRun

    run = EvaluationRun(
        plan=plan,
        model=model,
        backend=build_backend(options, model, plan),
        output=output,
        ruler_samples=Path(options.ruler_samples or output / "ruler"),
        corpora=Path(options.corpora) if options.corpora else None,
        allow_code=options.allow_code,
        stage=options.stage,
        label=options.label,
    )
    return run.run()


def _hf_folder(options: EvaluateOptions, output: Path, dryrun: bool) -> Path:
    """Return the Hugging Face folder of the model, to which a checkpoint is exported first."""
    from recipes.model.exported import exported_folder

    folder, checkpoint = exported_folder(
        options.model, _run_folder(options), output / "hf", unmerged=options.unmerged
    )
    if checkpoint is None:
        return folder
    if dryrun:
        typer.echo(
            f"{checkpoint}: is to be exported to {folder} first, which a dry run does not do"
        )
        raise typer.Exit

    from recipes.model.bridge.to_hf import export_hf

    log.info("exporting %s to %s", checkpoint, folder)
    export_hf(checkpoint, folder)
    return folder


def _print_scores(evaluation: "Evaluation") -> None:
    rows = []
    for unit in evaluation.units:
        stderr = "-" if unit.stderr is None else f"{unit.stderr:.2f}"
        fill = "-" if unit.fill_min is None else f"{100 * unit.fill_min:.1f} %"
        row = [
            unit.name,
            f"{unit.score:.2f}",
            stderr,
            str(unit.samples),
            fill,
            unit.corpus or "-",
        ]
        rows.append(row)
    print_table(["unit", "score", "± SE", "samples", "fill", "corpus"], rows)


def _exit_where_failed(evaluation: "Evaluation") -> None:
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
    size: SizeOption = "8b",
    as_json: JsonOption = False,
) -> None:
    """List the suites: lm-eval's task, setting and IBM's published score of each benchmark."""
    from evaluation import suites

    # the keys are those of the JSON
    rows = []
    for name in [suite] if suite else SUITES:
        for task in suites.get_suite(name, size).tasks.values():
            row = {
                "suite": name,
                "benchmark": task.name,
                "lm_eval": task.lm_eval or (None if task.unavailable else "generated"),
                "num_fewshot": task.num_fewshot,
                "metric": task.metric or None,
                "ibm_setting": suites.setting(name, task.name),
                "ibm_score": suites.reference(name, task.name, size),
                "note": task.unavailable or task.note,
            }
            rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return

    titles = [
        "suite",
        "benchmark",
        "lm-eval",
        "shots",
        "metric",
        "IBM's setting",
        f"IBM's {size}",
        "note",
    ]
    cells = [["-" if cell is None else str(cell) for cell in row.values()] for row in rows]
    print_table(titles, cells)


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
    """Generate RULER's samples, without a GPU; files that are whole already are kept."""
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
            help="IBM's numbers, none, or the file that `eval calibrate` wrote.",
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
    from recipes.common.check_result import print_failed

    before = read_evaluation(baseline) if baseline else None
    # every folder has its gate.json before a failed one ends the command
    checks = {}
    for folder in folders:
        checks[f"gate of {folder}"] = found = gates.gate_folder(
            folder, reference, baseline=before, allow_fallback=allow_fallback
        )
        passed = all(check.ok for check in found)
        verdict = "passed" if passed else "FAILED"
        typer.echo(f"{folder}: {verdict}, {len(found)} checks")
    if not print_failed(checks):
        raise typer.Exit(1)


@eval_app.command("calibrate")
def calibrate_suite(
    suite: SuiteArgument,
    model: ModelOption,
    size: SizeOption,
    output: Annotated[
        Path, typer.Option(help=f"The evaluation's folder; {REFERENCE} in it is for `eval gate`.")
    ],
    samples: SamplesOption = None,
    backend: BackendOption = "hf",
    url: UrlOption = None,
    batch_size: BatchSizeOption = None,
    backend_args: BackendArgsOption = "",
    corpora: CorporaOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Evaluate IBM's released model by this very pipeline; its scores are a reference for gates."""
    from evaluation.gates import calibrate

    options = EvaluateOptions(
        suite=suite,
        model=model,
        size=size,
        output=output,
        samples=samples,
        backend=backend,
        url=url,
        batch_size=batch_size,
        backend_args=backend_args,
        corpora=corpora,
        allow_code=allow_code,
    )
    model_folder, plan = _prepare(options, output)
    evaluation = _evaluate(options, output, model_folder, plan)
    _print_scores(evaluation)
    _exit_where_failed(evaluation)
    file = calibrate(evaluation, output / REFERENCE)
    typer.echo(str(file))


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
        Path, typer.Option(help="The .html to write; .md and .json are written beside it.")
    ],
) -> None:
    """Write what changes from one run or evaluation to another."""
    from recipes.reports.evaluation import compare

    typer.echo(str(compare(a, b, output)))
