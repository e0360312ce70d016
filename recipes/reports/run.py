"""The run's report: ``report.md`` and ``report.html``, from what the stages have written so far."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.common.progress import duration
from recipes.registry.stages import STAGES
from recipes.reports.curves import curve_tokens
from recipes.reports.document import (
    Block,
    Cell,
    Chart,
    Columns,
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
from recipes.reports.values import as_number, count, formatted
from recipes.runs.merge_manifest import MERGE_MANIFEST, MergeManifest, MergeParent
from recipes.runs.stage_manifest import ShardProgress, TrainingShard

# folders of a run beside those of its stages
RUN_FOLDERS = ("data", "logs", "nemo_run", "slurm")
# shards that a table names; a full-size stage reads thousands
MOST_SHARDS = 50
# validations of a curve with fewer are marked
MOST_MARKS = 40
NOTE = (
    "Losses and entropies in nats per token; the unigram entropy is that of the training blend. "
    "Tokens/s is the mean over the steps, without validation and checkpoints. Where a point of a "
    "curve stands for several steps it is their mean, in a pale band from the lowest to the "
    "highest."
)


def _speed(stage: StageReport) -> str:
    metrics = stage.metrics
    return count(metrics.speeds / metrics.timed_steps if metrics.timed_steps else None)


def _wall_time(stage: StageReport) -> str:
    seconds = as_number(stage.get("seconds"))
    return "-" if seconds is None else duration(seconds)


def _below_entropy(stage: StageReport) -> str:
    loss = as_number(stage.get("validation_loss"))
    entropy = as_number(stage.get("unigram_entropy"))
    if loss is None or not entropy:
        return "-"
    return formatted(1 - loss / entropy, ".1%")


# the single facts of a stage
FACTS: Columns = {
    "stage": lambda stage: stage.name,
    "status": lambda stage: as_text(stage.get("status")),
    "parent stage": lambda stage: as_text(stage.get("parent")),
    "tokens": lambda stage: count(stage.get("tokens")),
    "tokens done": lambda stage: count(stage.tokens_done or None),
    "tokens of the run": lambda stage: count(stage.tokens_of_the_run or None),
    "steps": lambda stage: count(stage.metrics.steps or None),
    "starts": lambda stage: count(stage.get("num_starts")),
    "validation loss": lambda stage: formatted(stage.get("validation_loss"), ".3f"),
    "unigram entropy": lambda stage: formatted(stage.get("unigram_entropy"), ".3f"),
    "below entropy": _below_entropy,
    "wall time": _wall_time,
    "seconds": lambda stage: count(stage.get("seconds")),
    "tokens/s": _speed,
    "tokenizer fingerprint": lambda stage: as_text(stage.get("tokenizer_fingerprint")),
    "checkpoint": lambda stage: as_text(stage.checkpoint),
    "Hugging Face folder": lambda stage: stage.artefacts.get("Hugging Face folder", "-"),
}
# what the heading of a stage's section says, or its artefacts
NOT_IN_SECTION = ("stage", "seconds", "checkpoint", "Hugging Face folder")
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
PARENTS: Columns = {
    "parent": lambda row: row[0].path,
    "stage": lambda row: row[0].stage,
    "checkpoint": lambda row: row[0].checkpoint,
    "tokens": lambda row: count(row[0].tokens),
    "weight": lambda row: row[1],
}
SHARDS: Columns = {
    "shard": lambda row: row[0],
    "weight": lambda row: formatted(row[1].weight, ",.10g"),
    "next document": lambda row: formatted(row[2] and row[2].next_document, ",.10g"),
    "epochs": lambda row: formatted(row[2] and row[2].epochs, ",.10g"),
}


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
    """Raise UserError unless a folder is a run's, or empty, as a run's is before it begins."""
    remedy = "expected a run's; name one that `granite41 run` wrote"
    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: no such folder, {remedy}")

    names = {path.name for path in run_folder.iterdir()}
    has_merges = any(run_folder.glob(f"*/{MERGE_MANIFEST}"))
    if names and not has_merges and names.isdisjoint((*STAGES, *RUN_FOLDERS)):
        raise UserError(f"{run_folder}: holds no stage, {remedy}")


def problem_section(problems: Sequence[str]) -> list[Section]:
    """Return the section that lists what could not be read, if anything."""
    return [Section("What could not be read", [Listing(problems)])] if problems else []


def _document(run: Run, columns: Sequence[str]) -> Document:
    rows = [[_fact(stage, name) for name in columns] for stage in run.stages]
    overview = Section("Overview", [Table("", list(columns), rows), Note(NOTE)])
    if not run.stages:
        overview = Section("Overview", [Note("No stage has begun.")])
    if run.is_evaluated:
        overview.blocks.append(Note("Evaluations", href=EVALUATIONS))

    sections = [overview, *problem_section(run.problems)]
    if run.stages:
        sections.append(Section("The whole run", _run_charts(run.stages)))
    if run.merges:
        sections.append(Section("Merges", _merge_tables(run.merges)))
    sections += map(_stage_section, run.stages)

    sizes = dict.fromkeys(stage.get("size") for stage in run.stages if stage.manifest)
    names = ", ".join(map(as_text, sizes))
    return Document(f"Run {run.name}", f"Granite 4.1, size {names}" if names else "", sections)


def _fact(stage: StageReport, name: str) -> Cell:
    text = FACTS[name](stage)
    return flagged(text, text == "failed")


def _merge_tables(merges: Mapping[str, MergeManifest]) -> list[Block]:
    tables: list[Block] = []
    for path, merge in merges.items():
        rows: list[tuple[MergeParent, Any]] = list(zip(merge.parents, merge.weights, strict=False))
        if merge.base:
            rows.append((merge.base, "base"))
        tables.append(Table.build(f"Merge {path}, method {as_text(merge.method)}", PARENTS, rows))
    return tables


def _stage_section(stage: StageReport) -> Section:
    blocks: list[Block] = []
    if stage.get("error") is not None:
        blocks.append(Note(f"Failed: {as_text(stage.get('error'))}", "error"))

    artefacts = [[name, Cell(path, href=path)] for name, path in stage.artefacts.items()]
    blocks += [
        Facts(_facts(stage)),
        *_stage_charts(stage),
        _mixture_table(stage),
        _shard_table(stage),
        *_merge_tables(stage.merges),
        Table("Artefacts", ["what", "path in the run's folder"], artefacts),
    ]
    return Section(f"{stage.name}: {STAGES[stage.name].title}", blocks, stage.name, stage.name)


def _facts(stage: StageReport) -> dict[str, Cell]:
    facts = {name: _fact(stage, name) for name in FACTS if name not in NOT_IN_SECTION}
    if stage.checkpoint and "checkpoint" not in stage.artefacts:
        facts["checkpoint"] = Cell(f"{as_text(stage.checkpoint)} does not exist")

    repeated: dict[str, float] = stage.get("repeated_components") or {}
    if repeated:
        epochs = [f"{name} ({number} epochs)" for name, number in repeated.items()]
        facts["read more than once"] = Cell(as_text(", ".join(epochs)))
    return facts


def _stage_charts(stage: StageReport) -> list[Block]:
    losses = _losses(stage)
    entropy = as_number(stage.get("unigram_entropy"))
    tokens = float(stage.metrics.tokens)
    if entropy is not None and tokens > 0:
        points = [(x, entropy, entropy, entropy) for x in (0.0, tokens)]
        losses.append(Series("unigram entropy", points, "entropy"))
    return [
        Chart(f"Loss of {stage.name}", losses, "tokens", "nats per token"),
        Chart(f"Base learning rate of {stage.name}", _rates(stage), "tokens", "base learning rate"),
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
        Chart("Loss over the run", losses, "tokens", "nats per token", spans),
        Chart(title, rates, "tokens", "base learning rate", spans, log_y=True),
    ]
    # a single stage is not shaded
    if len(spans) > 1:
        names = [span.name for span in spans]
        blocks.append(Note(f"Shaded in turn: {', '.join(names)}."))
    return blocks


def _losses(stage: StageReport, start: float = 0.0) -> list[Series]:
    validation = stage.metrics.validation.points(start)
    return [
        _measured("training", "train", stage.metrics.loss.points(start)),
        Series("validation", validation, "validation", marked=len(validation) < MOST_MARKS),
    ]


def _rates(stage: StageReport, start: float = 0.0) -> list[Series]:
    recipe: list[Point] = []
    if stage.schedule and stage.manifest and stage.manifest.tokens > 0:
        for tokens in curve_tokens(stage.schedule, float(stage.manifest.tokens)):
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


def _mixture_table(stage: StageReport) -> Table:
    weights: dict[str, list[float]] = {}
    data: dict[str, TrainingShard] = stage.get("data") or {}
    for shard in data.values():
        weights.setdefault(shard.component, []).append(as_number(shard.weight) or 0.0)
    total = sum(map(sum, weights.values())) or 1.0

    # components that were read, then those that only the recipe has
    rows: list[list[Any]] = []
    for component in dict.fromkeys((*weights, *stage.mixture)):
        parts = weights.get(component)
        read = parts and 100 * sum(parts) / total
        cells = [
            formatted(percent, ".2f", " %") for percent in (read, stage.mixture.get(component))
        ]
        rows.append([component, parts and len(parts), *cells])
    header = ["component", "shards", "share of the blend", "in the recipe"]
    return Table("Mixture", header, rows if weights else [])


def _shard_table(stage: StageReport) -> Table:
    data: dict[str, TrainingShard] = stage.get("data") or {}
    progress: dict[str, ShardProgress] = stage.get("data_progress") or {}
    rows = [(prefix, shard, progress.get(shard.bin_sha256)) for prefix, shard in data.items()]
    table = Table.build("Shards", SHARDS, rows[:MOST_SHARDS])
    if len(rows) > MOST_SHARDS:
        table.rows.append([f"and {len(rows) - MOST_SHARDS:,} more", "-", "-", "-"])
    return table
