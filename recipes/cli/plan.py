"""``granite41 plan``: what stages need and cost, before the first GPU hour."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli.options import JsonOption, OverridesArgument, SizeOption
from recipes.common.errors import UserError

if TYPE_CHECKING:
    from recipes.planning.options import PlanOptions
    from recipes.planning.search import Layout
    from recipes.planning.stage_plan import StagePlan

# rows of --search that fit and are printed
SHOWN = 10


def plan(
    stages: Annotated[
        str | None,
        typer.Argument(
            metavar="[STAGE[..STAGE]]",
            help="One stage, or a range: phase1..phase4  [default: all of the size]",
        ),
    ] = None,
    overrides: OverridesArgument = None,
    size: SizeOption = ...,  # type: ignore[assignment]
    gpu: Annotated[
        str | None,
        typer.Option(metavar="GPU", help="h100, h200, b200 or gb200  [default: the recipes']"),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs of each stage  [default: the recipes']")
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Share of the GPU's dense bf16 peak  [default: a published one]"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of a GPU for an hour, in any currency.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Of a job, in hours.")] = 4.0,
    failure_hours: Annotated[
        float | None,
        typer.Option(help="Mean hours between failures of one GPU  [default: Llama 3's]"),
    ] = None,
    network: Annotated[
        str, typer.Option(help="Between nodes: hdr, ndr or xdr InfiniBand.")
    ] = "ndr",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print each number with its formula.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw time, cost and memory into an .svg or .html file.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Rank layouts of the GPUs by estimated time.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="With --search: write the best layout as overrides.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plan stages: memory, time, cost, storage, layouts; without torch, in a second."""
    from recipes.planning.hardware import network as find_network
    from recipes.planning.options import FAILURE_HOURS, PlanOptions
    from recipes.spec.origin import Sourced

    failure = FAILURE_HOURS
    if failure_hours is not None:
        failure = Sourced(failure_hours, "override", "--failure-hours")
    options = PlanOptions(
        gpu=gpu,
        gpus=gpus,
        mfu=mfu,
        price=price,
        time_limit_hours=time_limit,
        failure_hours=failure,
        network=find_network(network),
    )
    names, words = _select(stages, size, overrides or [], options)
    if search:
        _search(names, size, options, words, write, as_json)
        return
    if write:
        raise UserError(f"--write {write}: writes the best layout of --search; add --search")

    from recipes.planning.stage_plan import plan_stage

    plans = [plan_stage(name, size, options, words) for name in names]
    if picture:
        from recipes.planning.picture import write_picture

        write_picture(picture, f"Granite 4.1 {size}: plan", plans)
    if as_json:
        _print_json(size, plans)
    else:
        _print_plans(plans, explain)


def _select(
    stages: str | None, size: str, overrides: Sequence[str], options: "PlanOptions"
) -> tuple[list[str], list[str]]:
    """Return the names of the stages, and the overrides."""
    from recipes.planning.hardware import gpu
    from recipes.registry.resolve import require_known
    from recipes.registry.stages import STAGES, stage_sizes
    from recipes.spec.sizes import SIZES

    words = list(overrides)
    # without a stage the first word may be an override
    if stages and "=" in stages:
        words.insert(0, stages)
        stages = None
    if options.gpu is not None:
        gpu(options.gpu)
    if stages:
        from recipes.launch.chain import select_stages

        return select_stages(stages, size), words
    require_known("size", size, SIZES)
    return [name for name in STAGES if size in stage_sizes(name)], words


def _print_json(size: str, plans: Sequence["StagePlan"]) -> None:
    from dataclasses import asdict

    from recipes.planning.stage_plan import totals

    total = {name: asdict(figure) for name, figure in totals(plans).items()}
    stages = [stage.as_json() for stage in plans]
    typer.echo(json.dumps({"size": size, "stages": stages, "total": total}, indent=2))


# column -> figure
_COLUMNS = {
    "steps": "steps",
    "step": "step",
    "time": "time with failures",
    "GPU-hours": "GPU-hours",
    "energy": "energy",
    "cost": "cost",
    "jobs": "jobs",
    "goodput": "goodput",
    "checkpoint": "checkpoint",
    "data": "data",
}


def _print_plans(plans: Sequence["StagePlan"], explain: bool) -> None:
    from recipes.common.tables import human, print_table
    from recipes.planning.stage_plan import totals

    if explain:
        for stage in plans:
            _print_formulas(stage)

    total = totals(plans)
    columns = [name for name, key in _COLUMNS.items() if key in plans[0].figures]
    rows = []
    for stage in plans:
        layout = stage.layout
        cells = [
            stage.stage,
            f"{layout['GPUs']:,} {stage.gpu.name}",
            " ".join(f"{name} {layout[name]}" for name in ("TP", "PP", "CP", "DP")),
            human(round(stage.figures["tokens"].value)),
            f"{stage.peak_bytes / 1e9:.1f} of {stage.gpu.usable_bytes / 1e9:.1f} GB",
        ]
        rows.append(cells + [str(stage.figures[_COLUMNS[name]]) for name in columns])
    sums = [str(total[_COLUMNS[name]]) if _COLUMNS[name] in total else "" for name in columns]
    rows.append(["total", "", "", "", "", *sums])
    print_table(["stage", "GPUs", "layout", "tokens", "memory", *columns], rows)
    for line in dict.fromkeys(
        f"MFU {one.figures['MFU']}: {one.figures['MFU'].formula}" for one in plans
    ):
        typer.echo(line)


def _print_formulas(stage: "StagePlan") -> None:
    from recipes.common.tables import print_table
    from recipes.planning.figures import Figure

    rows = []
    for name, part in stage.memory.items():
        rows.append([f"memory, {name}", str(Figure(part.value / 1e9, "GB", "")), part.text])
    for name, figure in stage.figures.items():
        rows.append([name, str(figure), figure.formula])
    typer.echo(f"{stage.stage}: {stage.recipe.title}")
    print_table(["figure", "value", "formula"], rows)


def _search(
    names: Sequence[str],
    size: str,
    options: "PlanOptions",
    overrides: Sequence[str],
    write: Path | None,
    as_json: bool,
) -> None:
    from recipes.common.files import write_text
    from recipes.planning.search import search as find_layouts

    if write and len(names) > 1:
        raise UserError(f"--write {write}: one stage's layout; name one stage instead of a range")
    found = {name: find_layouts(name, size, options, overrides) for name in names}
    if write:
        (layouts,) = found.values()
        write_text(write, "\n".join(layouts[0].overrides()) + "\n")
    if as_json:
        rows = []
        for name, layouts in found.items():
            rows += [{"stage": name, **layout.as_json()} for layout in layouts]
        typer.echo(json.dumps(rows, indent=2))
        return
    for name, layouts in found.items():
        _print_layouts(name, layouts)


def _print_layouts(stage: str, layouts: Sequence["Layout"]) -> None:
    from recipes.common.tables import print_table
    from recipes.planning.figures import number

    fitting = [layout for layout in layouts if not layout.rejected]
    typer.echo(f"{stage}: {len(fitting)} of {len(layouts)} layouts fit, the fastest first")
    rows = []
    for layout in fitting[:SHOWN]:
        parts = [number(value) for value in layout.seconds.values()]
        memory = f"{layout.peak_bytes / 1e9:.1f} GB"
        rows.append([str(layout), memory, number(layout.step_seconds), *parts])
    print_table(["layout", "memory", "step, s", *fitting[0].seconds], rows)
    rejected = [[str(layout), layout.rejected] for layout in layouts if layout.rejected]
    if rejected:
        print_table(["rejected", "because"], rejected)
