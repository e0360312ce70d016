"""The run's report: ``report.md`` and ``report.html``, from what the stages have written so far."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from recipes.common.json_files import is_number
from recipes.common.progress import duration
from recipes.common.tables import print_table
from recipes.registry.stages import STAGES
from recipes.reports import curation
from recipes.reports.document import (
    Block,
    Cell,
    Chart,
    Document,
    Note,
    Section,
    Series,
    Span,
    Table,
    flagged,
    number,
    table,
)
from recipes.reports.pages import write_pages
from recipes.reports.plots import schedule_curve
from recipes.reports.records import METRICS, Problems, StageReport, read_merges, read_stages
from recipes.reports.rewards import reward_charts, reward_range
from recipes.runs import curated_folder
from recipes.runs.curated_folder import CURATED, CurationManifest
from recipes.runs.stage_folder import MERGED, RECIPE
from recipes.runs.stage_manifest import MANIFEST

EVALUATIONS = "evaluation.html"
# shards that a table names; a full-size stage reads thousands
MOST_SHARDS = 50
NOTE = (
    "Losses and entropies in nats per token; the unigram entropy is that of the training blend. "
    "Tokens/s is the mean over the steps, without validation and checkpoints. Where a point of a "
    "curve stands for several steps it is their mean, in a pale band from the lowest to the "
    "highest. A score is the mean of a suite's units, in percent unless its metric is named."
)
FILES = {
    "recipe": RECIPE,
    "manifest": MANIFEST,
    "metrics": METRICS,
    "TensorBoard": "metrics/tensorboard",
    "checkpoints": "checkpoints",
    "merged checkpoint": MERGED,
    "Hugging Face folder": "hf",
    "logs": "logs",
}
# columns of the overview that fit on a screen
SUMMARY = ("stage", "status", "tokens done", "validation loss", "below entropy")


def write_report(run_folder: Path) -> Path:
    """Write ``report.md`` and ``report.html`` for the run so far and return the former's path.

    The unigram entropy is that of the training blend's token counts: the loss of a model that
    knows how often each token occurs, and nothing else. Missing or damaged files are listed.

    Raises:
        UserError: the folder is no run's.
    """
    problems = Problems(run_folder)
    stages = read_stages(problems)
    merges = _merges(problems)
    overview: list[Block] = [Note("No stage has begun.")]
    if stages:
        overview = [table("Stages", map(_overview, stages)), Note(NOTE)]
    if (run_folder / EVALUATIONS).exists():
        overview.append(Note("Evaluations", href=EVALUATIONS))

    sections = [
        Section("Overview", overview),
        problem_section(problems),
        Section("The whole run", _charts(stages)),
        Section("Merges", [merges]),
        Section("Curation of conversations", list(_curation(problems))),
        *(_stage_section(stage, run_folder) for stage in stages),
    ]
    sizes = [stage.manifest.size for stage in stages if stage.manifest]
    write_pages(
        run_folder / "report",
        Document(f"Run {run_folder.resolve().name}", sizes, sections),
    )
    return run_folder / "report.md"


def print_summary(run_folder: Path) -> None:
    """Print a row a stage: what it read, its validation loss, and its final model's scores."""
    rows = []
    for stage in read_stages(Problems(run_folder)):
        row = {name: value for name, value in _overview(stage).items() if name in SUMMARY}
        rows.append(row | {"gates": _gates(stage), "mean scores": _scores(stage)})
    summary = table("Summary", rows)
    texts = []
    for cells in summary.rows:
        texts.append([cell.text for cell in cells])
    print_table(list(summary.columns), texts)


def problem_section(problems: Sequence[str]) -> Section:
    """Return the section that lists what could not be read."""
    return Section("What could not be read", list(map(Note, problems)))


def _overview(stage: StageReport) -> dict[str, Any]:
    status = stage.get("status") or "-"
    steps, _ = stage.progress
    _, speeds = stage.curve("tokens_per_second")
    return {
        "stage": stage.name,
        "status": flagged(status, status == "failed"),
        "tokens": stage.get("tokens"),
        "tokens done": stage.tokens_done or None,
        "tokens of the run": stage.tokens_of_the_run or None,
        "steps": steps or None,
        "validation loss": number(stage.get("validation_loss"), ".3f"),
        "unigram entropy": number(stage.get("unigram_entropy"), ".3f"),
        "below entropy": number(stage.below_entropy, ".1%"),
        "wall time": stage.manifest and duration(stage.manifest.seconds),
        "tokens/s": number(fmean(speeds), ",.0f") if speeds else None,
    }


def _gates(stage: StageReport) -> Cell | None:
    verdicts = [entry.gate.passed for entry in stage.evaluations if entry.gate]
    if not verdicts:
        return None
    failed = verdicts.count(False)
    return flagged(f"{failed} of {len(verdicts)} failed" if failed else "passed", failed > 0)


def _scores(stage: StageReport) -> str:
    """Return the mean of each suite's units for each metric: "smoke 41.2, 3.12 bits_per_byte"."""
    texts = []
    for entry in stage.evaluations:
        scores: dict[str, list[float]] = {}
        for unit in entry.evaluation.units:
            metric = "" if unit.percent else unit.metric.partition(",")[0]
            if math.isfinite(unit.score):
                scores.setdefault(metric, []).append(unit.score)
        means = []
        for metric, values in scores.items():
            means.append(f"{fmean(values):.2f} {metric}" if metric else f"{fmean(values):.1f}")
        texts.append(f"{entry.evaluation.suite} {', '.join(means) or '-'}")
    return "; ".join(texts)


def _scores_by_task(stage: StageReport) -> Table:
    """Return the scores of a stage that learned to answer; the others' suites have pages."""
    rows: list[dict[str, Any]] = []
    if STAGES[stage.name].kind not in ("sft", "rl"):
        return table("Scores", rows)
    for entry in stage.evaluations:
        for unit in entry.evaluation.units:
            row = {
                "suite": entry.evaluation.suite,
                "task": unit.name,
                "score": number(unit.score, ".1f"),
                "standard error": number(unit.stderr, ".1f"),
                "samples": unit.samples,
            }
            rows.append(row)
    return table("Scores", rows)


def _merges(problems: Problems) -> Table:
    rows = []
    for path, merge in read_merges(problems):
        weights: list[float | str] = [*merge.weights, "base"]
        parents = merge.parents if merge.base is None else [*merge.parents, merge.base]
        for parent, weight in zip(parents, weights, strict=False):
            row = {
                "merge": path,
                "method": merge.method,
                "parent": parent.path,
                "stage": parent.stage,
                "checkpoint": parent.checkpoint,
                "tokens": parent.tokens,
                "weight": weight,
            }
            rows.append(row)
    return table("Parents", rows)


def _curation(problems: Problems) -> Iterator[Block]:
    """Yield what became of the conversations that the run has curated itself."""
    folder = problems.folder / CURATED
    if not (folder / curated_folder.MANIFEST).exists():
        return
    manifest = problems.read(CurationManifest.read_from, folder)
    if manifest:
        yield from curation.tables(manifest)
        yield Note("Examples", href=f"{CURATED}/{curation.NAME}.html")


def _stage_section(stage: StageReport, run_folder: Path) -> Section:
    blocks = [
        *_charts([stage]),
        *reward_charts(stage),
        _details(stage, run_folder / stage.name),
        _scores_by_task(stage),
        _mixture(stage),
        _shards(stage),
    ]
    if stage.get("error") is not None:
        blocks.insert(0, Note(f"Failed: {stage.get('error')}", "error"))
    return Section(f"{stage.name}: {STAGES[stage.name].title}", blocks, stage.name)


def _charts(stages: Sequence[StageReport]) -> list[Block]:
    """Return charts of stages that follow each other on the axis of the run's tokens."""
    if not stages:
        return []
    losses: list[Series] = []
    rates: list[Series] = []
    spans: list[Span] = []
    for stage in stages:
        start = stage.tokens_before - stages[0].tokens_before
        end = start + stage.tokens_done
        spans.append(Span(stage.name, start, end))
        # what a policy minimizes is no loss of the data
        if "reward" not in stage.metrics:
            losses.append(Series("training", *stage.curve("loss", start), "c0", "-"))
        losses.append(Series("validation", *stage.curve("val_loss", start), "c1", "o-"))
        entropy = stage.get("unigram_entropy")
        if entropy and end > start:
            losses.append(Series("unigram entropy", (start, end), (entropy, entropy), "soft", ":"))

        # the rate is that of the tokens before the step
        rates.append(Series("applied", *stage.curve("lr", start, shift=-1), "c0", "-"))
        rates += _recipe_rate(stage, start)

    of = f"from {stages[0].name} to {stages[-1].name}"
    scale = "log"
    if len(stages) == 1:
        of = f"of {stages[0].name}"
        scale = "linear"
        spans = []
    loss_axes = {"xlabel": "tokens", "ylabel": "nats per token"}
    rate_axes = {"xlabel": "tokens", "ylabel": "base learning rate", "yscale": scale}
    return [
        Chart(f"Loss {of}", losses, loss_axes, spans),
        Chart(f"Base learning rate {of}", rates, rate_axes, spans),
    ]


def _recipe_rate(stage: StageReport, start: float) -> list[Series]:
    """Return the rate of the recipe, unless damage to its numbers leaves none."""
    tokens = stage.get("tokens") or 0
    if stage.recipe is None or tokens <= 0:
        return []
    try:
        x, y = schedule_curve(stage.recipe.schedule, tokens, start)
    except ArithmeticError:
        return []
    return [Series("recipe", x, y, "c1", "--")] if all(map(is_number, y)) else []


def _details(stage: StageReport, folder: Path) -> Table:
    """Return what is known of a stage beside the overview, and links to its files."""
    epochs = stage.get("repeated_components") or {}
    details: dict[str, Any] = {
        "parent stage": stage.get("parent"),
        "starts": stage.get("num_starts"),
        "conversations": _packed(stage),
        "prompts": _prompts(stage),
        "reward": reward_range(stage),
        "read more than once": ", ".join(f"{name} ({n:g} epochs)" for name, n in epochs.items()),
        "gates": _gates(stage),
        "mean scores": _scores(stage),
        "tokenizer fingerprint": stage.get("tokenizer_fingerprint"),
        "checkpoint": stage.get("checkpoint") and _link(folder, stage.get("checkpoint")),
    }
    for name, path in FILES.items():
        if (folder / path).exists():
            details[name] = _link(folder, path)
    rows = [{"what": name, "value": value} for name, value in details.items() if value]
    return table("Details", rows)


def _packed(stage: StageReport) -> str | None:
    """Describe the packed conversations that a stage trains on."""
    packed = stage.get("packed")
    if packed is None:
        return None
    return (
        f"{packed.conversations:,} in {packed.sequences:,} sequences, {packed.held_out:,} of them "
        f"held out; {packed.trained_share:.1%} of the tokens are trained; {packed.epochs:.2f} "
        f"epochs"
    )


def _prompts(stage: StageReport) -> str | None:
    """Describe the prompts that a stage of reinforcement learning answers."""
    prompts = stage.get("prompts")
    if prompts is None:
        return None
    domains = ", ".join(f"{domain} {count:,}" for domain, count in prompts.domains.items())
    return f"{prompts.prompts:,} ({domains}); {prompts.passes:.2f} passes"


def _link(folder: Path, path: str) -> Cell:
    # a path that the manifest names may lead anywhere
    is_plain = path.isprintable() and len(path) < 256 and ".." not in Path(path).parts
    inside = path.lstrip("/")
    if is_plain and (folder / inside).exists():
        return Cell(path, href=f"{folder.name}/{inside}")
    return Cell(f"{path} does not exist", "bad")


def _mixture(stage: StageReport) -> Table:
    """Return components that were read, then those that only the recipe has."""
    weights: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for shard in (stage.get("data") or {}).values():
        weights[shard.component] += shard.weight
        shards[shard.component] += 1

    total = sum(weights.values()) or 1
    mixture = getattr(stage.recipe, "mixture", {}) if weights else {}
    rows = []
    for name in dict.fromkeys((*weights, *mixture)):
        row = {"component": name}
        if name in weights:
            row |= {"shards": shards[name], "share of the blend": f"{weights[name] / total:.2%}"}
        if name in mixture:
            row["in the recipe"] = f"{mixture[name].value / 100:.2%}"
        rows.append(row)
    return table("Mixture", rows)


def _shards(stage: StageReport) -> Table:
    progress = stage.get("data_progress") or {}
    rows = []
    for prefix, shard in (stage.get("data") or {}).items():
        row = {"shard": prefix, "weight": shard.weight}
        read = progress.get(shard.bin_sha256)
        if read:
            row |= {"next document": read.next_document, "epochs": read.epochs}
        rows.append(row)
    if len(rows) > MOST_SHARDS:
        rows[MOST_SHARDS:] = [{"shard": f"and {len(rows) - MOST_SHARDS:,} more"}]
    return table("Shards", rows)
