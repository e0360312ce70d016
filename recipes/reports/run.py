"""The run's report: ``report.md`` and ``report.html``, from what the stages have written so far."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.progress import duration
from recipes.reports.curves import curve_tokens
from recipes.reports.document import (
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
    flagged,
)
from recipes.reports.html import write_html
from recipes.reports.markdown import write_markdown
from recipes.reports.run_files import EVALUATIONS, Run, StageReport, read_run
from recipes.reports.values import as_dict, as_number, count, formatted

TOKENS = "tokens"
LOSS = "nats per token"
RATE = "base learning rate"
# shards that a table names; a full-size stage reads thousands
MOST_SHARDS = 50
# validations of a curve with fewer are marked
MOST_MARKS = 40

HTML_COLUMNS = [
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
]
MARKDOWN_COLUMNS = [
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
]
# what the heading of a stage's section says, or its artefacts
NOT_FACTS = ("stage", "seconds", "checkpoint", "Hugging Face folder")
NOTE = (
    "Losses and entropies in nats per token; the unigram entropy is that of the training blend. "
    "Tokens/s is the mean over the steps, without validation and checkpoints. Where a point of a "
    "curve stands for several steps it is their mean, in a pale band from the lowest to the "
    "highest."
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
    """Return the single facts of a stage by name."""
    loss = stage.number("validation_loss")
    entropy = stage.number("unigram_entropy")
    seconds = stage.number("seconds")
    metrics = stage.metrics
    below = None
    if loss is not None and entropy:
        below = 1 - loss / entropy

    return {
        "stage": stage.name,
        "status": as_text(stage.manifest.get("status")),
        "parent stage": as_text(stage.manifest.get("parent")),
        "tokens": count(stage.tokens),
        "tokens done": count(stage.tokens_done or None),
        "tokens of the run": count(stage.tokens_of_the_run or None),
        "steps": count(metrics.steps or None),
        "starts": count(stage.number("num_starts")),
        "seconds": count(seconds),
        "wall time": "-" if seconds is None else duration(seconds),
        "tokens/s": count(metrics.speeds / metrics.timed_steps if metrics.timed_steps else None),
        "validation loss": formatted(loss, ".3f"),
        "unigram entropy": formatted(entropy, ".3f"),
        "below entropy": formatted(below, ".1%"),
        "tokenizer fingerprint": as_text(stage.manifest.get("tokenizer_fingerprint")),
        "checkpoint": as_text(stage.checkpoint),
        "Hugging Face folder": stage.artefacts.get("Hugging Face folder", "-"),
    }


def problem_section(problems: Sequence[str]) -> list[Section]:
    """Return the section that lists what could not be read, if anything."""
    return [Section("What could not be read", [Listing(problems)])] if problems else []


def _document(run: Run, columns: list[str]) -> Document:
    overview = Section("Overview", [_overview(run.stages, columns), Note(NOTE)])
    if not run.stages:
        overview = Section("Overview", [Note("No stage has begun.")])
    if run.evaluated:
        overview.blocks.append(Note("Evaluations", href=EVALUATIONS))

    sections = [overview, *problem_section(run.problems)]
    if run.stages:
        sections.append(Section("The whole run", _run_charts(run.stages)))
    if run.merges:
        sections.append(Section("Merges", list(run.merges)))
    sections += map(_stage_section, run.stages)

    sizes = [stage.manifest["size"] for stage in run.stages if "size" in stage.manifest]
    names = ", ".join(dict.fromkeys(map(as_text, sizes)))
    return Document(f"Run {run.name}", f"Granite 4.1, size {names}" if names else "", sections)


def _overview(stages: Sequence[StageReport], columns: list[str]) -> Table:
    rows = []
    for stage in stages:
        cells = _toned_cells(stage)
        rows.append([cells[name] for name in columns])
    return Table("", columns, rows)


def _toned_cells(stage: StageReport) -> dict[str, Cell]:
    return {name: flagged(text, text == "failed") for name, text in stage_cells(stage).items()}


def _stage_section(stage: StageReport) -> Section:
    blocks: list[Block] = [Facts(_facts(stage)), *_stage_charts(stage)]
    error = stage.manifest.get("error")
    if error is not None:
        blocks.insert(0, Note(f"Failed: {as_text(error)}", "error"))

    artefacts = [[name, Cell(path, href=path)] for name, path in stage.artefacts.items()]
    blocks += [
        _mixture_table(stage),
        _shard_table(stage),
        *stage.merges,
        Table("Artefacts", ["what", "path in the run's folder"], artefacts),
    ]
    return Section(f"{stage.name}: {stage.title}", blocks, stage.name, stage.name)


def _facts(stage: StageReport) -> dict[str, Cell]:
    facts = {name: cell for name, cell in _toned_cells(stage).items() if name not in NOT_FACTS}
    if stage.checkpoint and "checkpoint" not in stage.artefacts:
        facts["checkpoint"] = Cell(f"{as_text(stage.checkpoint)} does not exist")

    repeated = as_dict(stage.manifest.get("repeated_components"))
    if repeated:
        epochs = [f"{name} ({as_text(number)} epochs)" for name, number in repeated.items()]
        facts["read more than once"] = Cell(", ".join(epochs))
    return facts


def _losses(stage: StageReport, start: float = 0.0) -> list[Series]:
    validation = stage.metrics.validation.points(start)
    return [
        _measured("training", "train", stage.metrics.loss.points(start)),
        Series("validation", validation, "validation", marked=len(validation) < MOST_MARKS),
    ]


def _rates(stage: StageReport, start: float = 0.0) -> list[Series]:
    recipe: list[Point] = []
    if stage.schedule and stage.tokens and stage.tokens > 0:
        for tokens in curve_tokens(stage.schedule, float(stage.tokens)):
            # a damaged recipe's schedule may overflow
            with suppress(ArithmeticError):
                rate = as_number(stage.schedule.lr(tokens))
                if rate is not None:
                    recipe.append((start + tokens, rate, rate, rate))
    return [
        _measured("applied", "applied", stage.metrics.lr.points(start)),
        Series("recipe", recipe, "recipe"),
    ]


def _measured(name: str, style: str, points: Sequence[Point]) -> Series:
    # a line of one point would not show
    return Series(name, points, style, marked=len(points) == 1)


def _stage_charts(stage: StageReport) -> list[Block]:
    losses = _losses(stage)
    entropy = stage.number("unigram_entropy")
    tokens = float(stage.metrics.tokens)
    if entropy is not None and tokens > 0:
        points = [(x, entropy, entropy, entropy) for x in (0.0, tokens)]
        losses.append(Series("unigram entropy", points, "entropy"))
    return [
        Chart(f"Loss of {stage.name}", losses, TOKENS, LOSS),
        Chart(f"Base learning rate of {stage.name}", _rates(stage), TOKENS, RATE),
    ]


def _run_charts(stages: Sequence[StageReport]) -> list[Block]:
    # the stages follow each other on the axis of the run's tokens
    losses: list[Series] = []
    rates: list[Series] = []
    spans: list[Span] = []
    for stage in stages:
        start = float(stage.tokens_before)
        losses += _losses(stage, start)
        rates += _rates(stage, start)
        spans.append(Span(stage.name, start, float(stage.tokens_of_the_run)))

    title = "Base learning rate over the run, logarithmic"
    blocks: list[Block] = [
        Chart("Loss over the run", losses, TOKENS, LOSS, spans),
        Chart(title, rates, TOKENS, RATE, spans, log_y=True),
    ]
    # a single stage is not shaded
    if len(spans) > 1:
        names = [span.name for span in spans]
        blocks.append(Note(f"Shaded in turn: {', '.join(names)}."))
    return blocks


def _mixture_table(stage: StageReport) -> Table:
    total = sum(shard.weight or 0.0 for shard in stage.shards) or 1.0
    weights: dict[str, list[float]] = {}
    for shard in stage.shards:
        weights.setdefault(shard.component, []).append(shard.weight or 0.0)

    # components that were read, then those that only the recipe has
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
