"""The run's report: ``report.md`` and ``report.html``, from what the stages have written so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.progress import duration
from recipes.reports.curves import Curve, curve_tokens
from recipes.reports.document import (
    Axis,
    Block,
    Cell,
    Chart,
    Document,
    Facts,
    Listing,
    Note,
    Point,
    Section,
    Series,
    Span,
    Table,
    as_text,
)
from recipes.reports.html import write_html
from recipes.reports.markdown import write_markdown
from recipes.reports.run_files import EVALUATIONS, Run, StageReport, read_run
from recipes.reports.values import as_dict, as_number, count, formatted

# shards that a table names; a full-size stage reads thousands
MOST_SHARDS = 50
# validations of a curve with fewer are marked
MOST_MARKS = 40

MARKDOWN_COLUMNS = (
    "stage",
    "status",
    "tokens",
    "validation loss",
    "unigram entropy",
    "below entropy",
    "seconds",
    "checkpoint",
    "Hugging Face folder",
    "steps",
    "tokens done",
    "tokens of the run",
    "tokens/s",
)
HTML_COLUMNS = (
    "stage",
    "status",
    "tokens",
    "tokens done",
    "tokens of the run",
    "steps",
    "validation loss",
    "unigram entropy",
    "below entropy",
    "wall time",
    "tokens/s",
)
NOTE = (
    "Losses and entropies in nats per token; the unigram entropy is that of the training blend. "
    "Tokens/s is the mean over the steps, without validation and checkpoints. Where a point of a "
    "curve stands for several steps it is their mean, in a pale band from the lowest to the highest."
)


def write_report(run_folder: Path) -> Path:
    """Write ``report.md`` and ``report.html`` for the run so far and return the former's path.

    The unigram entropy is that of the training blend's token counts: the loss of a model that
    knows how often each token occurs, and nothing else. Missing or damaged files are listed.

    Raises:
        UserError: the folder does not exist.
    """
    require_run_folder(run_folder)
    run = read_run(run_folder)
    path = run_folder / "report.md"
    write_text(path, write_markdown(_document(run, MARKDOWN_COLUMNS)))
    write_text(path.with_suffix(".html"), write_html(_document(run, HTML_COLUMNS)))
    return path


def require_run_folder(run_folder: Path) -> None:
    """Raise UserError unless the folder of a run exists."""
    if not run_folder.is_dir():
        raise UserError(
            f"{run_folder}: no such folder, expected a run's; name one that `granite41 run` wrote"
        )


def stage_cells(stage: StageReport) -> dict[str, str]:
    """Return what an overview can show of a stage, by the name of its column."""
    loss = stage.number("validation_loss")
    entropy = stage.number("unigram_entropy")
    seconds = stage.number("seconds")
    below = 1 - loss / entropy if loss is not None and entropy else None
    return {
        "stage": stage.name,
        "status": as_text(stage.manifest.get("status")),
        "tokens": count(stage.tokens),
        "validation loss": formatted(loss, ".3f"),
        "unigram entropy": formatted(entropy, ".3f"),
        "below entropy": formatted(below, ".1%"),
        "seconds": formatted(seconds, ".0f"),
        "checkpoint": as_text(stage.checkpoint),
        "Hugging Face folder": stage.artefacts.get("Hugging Face folder", "-"),
        "wall time": "-" if seconds is None else duration(seconds),
        "steps": count(stage.metrics.steps or None),
        "tokens done": count(stage.tokens_done or None),
        "tokens of the run": count(stage.tokens_of_the_run or None),
        "tokens/s": count(stage.metrics.tokens_per_second),
    }


def problem_section(problems: Sequence[str]) -> list[Section]:
    """Return the section that lists what could not be read, if anything."""
    return [Section("What could not be read", [Listing(problems)])] if problems else []


def _document(run: Run, columns: Sequence[str]) -> Document:
    sizes = dict.fromkeys(
        as_text(stage.manifest["size"]) for stage in run.stages if "size" in stage.manifest
    )
    blocks: list[Block] = []
    if run.stages:
        rows = [[_status(stage_cells(stage)[name]) for name in columns] for stage in run.stages]
        blocks += [Table("", columns, rows), Note(NOTE)]
    else:
        blocks.append(Note("No stage has begun."))
    if run.evaluated:
        blocks.append(Note("Evaluations", href=EVALUATIONS))

    sections = [Section("Overview", blocks), *problem_section(run.problems)]
    if run.stages:
        sections.append(Section("The whole run", _run_charts(run.stages)))
    if run.merges:
        sections.append(Section("Merges", list(run.merges)))
    sections += [_stage_section(stage) for stage in run.stages]
    subtitle = f"Granite 4.1, size {', '.join(sizes)}" if sizes else ""
    return Document(f"Run {run.name}", subtitle, sections)


def _status(value: str) -> Cell:
    return Cell(value, "bad" if value == "failed" else "")


def _stage_section(stage: StageReport) -> Section:
    blocks: list[Block] = []
    error = stage.manifest.get("error")
    if error is not None:
        blocks.append(Note(f"Failed: {as_text(error)}", "error"))
    blocks.append(Facts({name: _status(value) for name, value in _facts(stage).items()}))
    blocks += _stage_charts(stage)

    artefacts = [[name, Cell(path, href=path)] for name, path in stage.artefacts.items()]
    tables = [
        _mixture_table(stage),
        _shard_table(stage),
        *stage.merges,
        Table("Artefacts", ["what", "path in the run's folder"], artefacts),
    ]
    blocks += [table for table in tables if table.rows]
    return Section(f"{stage.name}: {stage.title}", blocks, stage.name, stage.name)


def _facts(stage: StageReport) -> dict[str, str]:
    cells = stage_cells(stage)
    manifest = stage.manifest
    facts = {
        "status": cells["status"],
        "parent stage": as_text(manifest.get("parent")),
        "tokens": f"{cells['tokens done']} of {cells['tokens']}",
        "tokens of the run": cells["tokens of the run"],
        "steps": cells["steps"],
        "starts": count(stage.number("num_starts")),
        "wall time": cells["wall time"],
        "tokens per second": cells["tokens/s"],
        "validation loss": cells["validation loss"],
        "unigram entropy": cells["unigram entropy"],
        "below entropy": cells["below entropy"],
        "tokenizer fingerprint": as_text(manifest.get("tokenizer_fingerprint")),
    }
    if stage.checkpoint and "checkpoint" not in stage.artefacts:
        facts["checkpoint"] = f"{as_text(stage.checkpoint)} does not exist"
    repeated = as_dict(manifest.get("repeated_components"))
    if repeated:
        epochs = [f"{name} ({as_text(number)} epochs)" for name, number in repeated.items()]
        facts["read more than once"] = ", ".join(epochs)
    return facts


def _recipe_series(stage: StageReport, start: float = 0.0) -> Series:
    """Return the learning rate of the stage's recipe over the tokens that it takes."""
    points: list[Point] = []
    if stage.schedule and stage.tokens and stage.tokens > 0:
        for tokens in curve_tokens(stage.schedule, float(stage.tokens)):
            try:
                rate = as_number(stage.schedule.lr(tokens))
            except ArithmeticError:
                continue
            if rate is not None:
                points.append((start + tokens, rate, rate, rate))
    return Series("recipe", points, "recipe")


def _series(name: str, style: str, curve: Curve, start: float = 0.0) -> Series:
    points = curve.points(start)
    most = MOST_MARKS if style == "validation" else 2
    return Series(name, points, style, marked=len(points) < most)


def _losses(stage: StageReport, start: float = 0.0) -> list[Series]:
    return [
        _series("training", "train", stage.metrics.loss, start),
        _series("validation", "validation", stage.metrics.validation, start),
    ]


def _rates(stage: StageReport, start: float = 0.0) -> list[Series]:
    return [_series("applied", "applied", stage.metrics.lr, start), _recipe_series(stage, start)]


def _stage_charts(stage: StageReport) -> list[Block]:
    losses = _losses(stage)
    entropy = stage.number("unigram_entropy")
    tokens = stage.metrics.tokens
    if entropy is not None and tokens > 0:
        points = [(x, entropy, entropy, entropy) for x in (0.0, float(tokens))]
        losses.append(Series("unigram entropy", points, "entropy"))

    x = Axis("tokens")
    return [
        Chart(f"Loss of {stage.name}", losses, x, Axis("nats per token")),
        Chart(f"Base learning rate of {stage.name}", _rates(stage), x, Axis("dimensionless")),
    ]


def _run_charts(stages: Sequence[StageReport]) -> list[Block]:
    losses: list[Series] = []
    rates: list[Series] = []
    spans: list[Span] = []
    for stage in stages:
        start = float(stage.tokens_before)
        losses += _losses(stage, start)
        rates += _rates(stage, start)
        spans.append(Span(stage.name, start, float(stage.tokens_of_the_run)))

    x = Axis("tokens")
    y = Axis("dimensionless", log=True)
    charts: list[Block] = [
        Chart("Loss over the run", losses, x, Axis("nats per token"), spans),
        Chart("Base learning rate over the run, logarithmic", rates, x, y, spans),
    ]
    if len(spans) > 1:
        charts.append(Note(f"Shaded in turn: {', '.join(span.name for span in spans)}."))
    return charts


def _mixture_table(stage: StageReport) -> Table:
    total = sum(shard.weight or 0.0 for shard in stage.shards) or 1.0
    weights: dict[str, list[float]] = {}
    for shard in stage.shards:
        weights.setdefault(shard.component, []).append(shard.weight or 0.0)

    rows: list[list[Any]] = []
    for component, parts in weights.items():
        share = formatted(100 * sum(parts) / total, ".2f", " %")
        recipe = formatted(stage.mixture.get(component), ".2f", " %")
        rows.append([component, len(parts), share, recipe])
    for component, percent in stage.mixture.items():
        if rows and component not in weights:
            rows.append([component, "-", "-", formatted(percent, ".2f", " %")])

    return Table("Mixture", ["component", "shards", "share of the blend", "in the recipe"], rows)


def _shard_table(stage: StageReport) -> Table:
    rows = []
    for shard in stage.shards[:MOST_SHARDS]:
        numbers = (shard.weight, shard.next_document, shard.epochs)
        rows.append([shard.prefix, *(formatted(number, ",.10g") for number in numbers)])
    if len(stage.shards) > MOST_SHARDS:
        rows.append([f"and {len(stage.shards) - MOST_SHARDS:,} more", "-", "-", "-"])
    return Table("Shards", ["shard", "weight", "next document", "epochs"], rows)
