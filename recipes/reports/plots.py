"""Pictures of the recipes: the learning rate over all of pre-training, and each stage's mixture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.common.tables import human
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.reports.charts import write_picture
from recipes.reports.document import Chart, Series, Span
from recipes.spec.origin import Sourced
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.schedules import PowerSchedule, Schedule
from recipes.spec.sizes import SIZES
from recipes.spec.tree import flatten

# the stages that start after this share of the run are enlarged
ENLARGED = 0.92
Leaves = Mapping[str, Sourced[Any]]


def schedule_curve(
    schedule: Schedule, end: float, start: float = 0
) -> tuple[list[float], list[float]]:
    """Return tokens of the run and base learning rates, dense where the rate bends or nears 0.

    Args:
        end: tokens of the stage.
        start: tokens of the run before it.
    """
    import numpy as np

    warmup = flatten(schedule).get("warmup_tokens")
    bend = min(warmup.value, end) if warmup else 0
    # dense at both ends
    even = (1 - np.cos(np.linspace(0, np.pi, 400))) / 2 * end
    tokens = np.union1d(even, [bend, end])
    return (tokens + start).tolist(), [schedule.lr(count) for count in tokens.tolist()]


def pretraining(size: str) -> list[PretrainRecipe]:
    """Return the stages of pre-training and long-context extension that ``size`` has, in order.

    Raises:
        UserError: an unknown size.
    """
    # phase 1 exists at every size, and resolving it refuses a size that does not
    resolve("phase1", size)
    recipes = [resolve(stage, size) for stage in STAGES if size in stage_sizes(stage)]
    return [recipe for recipe in recipes if isinstance(recipe, PretrainRecipe)]


def full_size(size: str) -> list[PretrainRecipe]:
    """Return :func:`pretraining` of the size from which ``size`` is scaled."""
    return pretraining(SIZES[size].published_size)


def assumptions(size: str) -> dict[str, dict[str, Sourced[Any]]]:
    """Return stage -> ``stage: path`` -> the assumed numbers on which its learning rate rests.

    A stage that carries the optimizer on rests on what the stages before it assume, too.
    """
    stages: dict[str, dict[str, Sourced[Any]]] = {}
    assumed: dict[str, Sourced[Any]] = {}
    for recipe in full_size(size):
        if recipe.optimizer_state.value != "carry":
            assumed = {}
        leaves = flatten(recipe.schedule, "schedule")
        # the power schedule's beta is the batch
        if isinstance(recipe.schedule, PowerSchedule):
            leaves["tokens_per_batch"] = recipe.tokens_per_batch
        for path, leaf in leaves.items():
            if leaf.origin == "assumed" and leaf not in assumed.values():
                assumed = {**assumed, f"{recipe.stage}: {path}": leaf}
        stages[recipe.stage] = assumed
    return stages


def lr_chart(size: str) -> Chart:
    """Return the base learning rate over all tokens of pre-training and long-context extension.

    Raises:
        UserError: an unknown size.
    """
    series = []
    spans = []
    start = 0
    recipes = pretraining(size)
    assumed = assumptions(size)
    for recipe, full in zip(recipes, full_size(size), strict=True):
        tokens = recipe.tokens.value
        name = "rate: published, or\narithmetic on\npublished numbers"
        line = "-"
        if assumed[recipe.stage]:
            name = "rate rests on an\nassumed number"
            line = "--"
        curve = schedule_curve(recipe.schedule, tokens, start)
        series.append(Series(name, *curve, color="c0", line=line))
        is_hatched = full.tokens.origin == "assumed"
        spans.append(Span(f"{recipe.stage} {human(tokens)}", start, start + tokens, is_hatched))
        start += tokens
    axes = {"xlabel": "tokens of the run", "ylabel": "base learning rate", "yscale": "log"}
    return Chart("All stages", series, axes, spans)


def plot_lr(size: str, output: Path) -> None:
    """Draw :func:`lr_chart`, and enlarged its warm-up and its last stages.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    run = lr_chart(size)
    first = run.spans[0]
    end = run.spans[-1].end
    warmup = flatten(pretraining(size)[0].schedule)["warmup_tokens"].value
    limits = (max(warmup, 1) / 10, first.end)
    begin = Chart(
        "Warm-up, then the power law",
        run.series[:1],
        {**run.axes, "xscale": "log", "xlim": limits},
    )
    last = min(span.start for span in run.spans if span.start >= ENLARGED * end)
    enlarged = replace(
        run,
        title="The last stages, enlarged",
        axes={**run.axes, "xlim": (last, end)},
    )
    title = f"Granite 4.1 {size}: base learning rate over {human(end)} tokens"
    write_picture(output, title, [run, begin, enlarged], 11, _lr_caption(size))


def _lr_caption(size: str) -> list[str]:
    recipes = full_size(size)
    leaves: list[Sourced[Any]] = []
    for recipe in recipes:
        leaves += [*flatten(recipe.schedule).values(), recipe.tokens]
    assumed: dict[str, Sourced[Any]] = {}
    for of_stage in assumptions(size).values():
        assumed |= of_stage
    divisor = recipes[0].hidden_lr_divisor.value
    return [
        f"Published numbers: {_sources(leaves)}.",
        f"Assumed for the rate: {_listed(assumed) or 'nothing'}.",
        _assumed_lengths(recipes),
        f"The hidden matrices' rate is the base rate / {divisor:g} (muP). A decay to 0 leaves the "
        "picture at its lower edge.",
    ]


def _listed(leaves: Leaves) -> str:
    return "; ".join(f"{path} {human(leaf.value)}" for path, leaf in leaves.items())


def _sources(leaves: Iterable[Sourced[Any]]) -> str:
    return "; ".join(dict.fromkeys(leaf.why for leaf in leaves if leaf.origin == "published"))


def _assumed_lengths(recipes: Sequence[PretrainRecipe]) -> str:
    lengths = {recipe.stage: recipe.tokens for recipe in recipes}
    assumed = {stage: leaf for stage, leaf in lengths.items() if leaf.origin == "assumed"}
    return f"Assumed lengths, hatched: {_listed(assumed)}."


def plot_mixture(size: str, output: Path) -> None:
    """Draw every stage's mixture as a bar of 100 percent, a component in one color throughout.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    recipes = pretraining(size)
    # component -> place of a stage's bar -> percent
    shares: dict[str, dict[float, float]] = {}
    leaves = []
    for place, recipe in enumerate(recipes):
        for name, leaf in recipe.mixture.items():
            shares.setdefault(name, {})[place] = leaf.value
            leaves.append(leaf)

    series = [Series(name, list(own), list(own.values())) for name, own in shares.items()]
    axes = {
        "xlabel": "percent of the stage's tokens",
        "xlim": (0, 100),
        "ylim": (len(recipes) - 0.5, -0.5),
        "yticks": range(len(recipes)),
        "yticklabels": [f"{recipe.stage}\n{human(recipe.tokens.value)}" for recipe in recipes],
    }
    title = f"Granite 4.1 {size}: data mixture of each stage"
    published = sum(leaf.origin == "published" for leaf in leaves)
    caption = [
        f"Published: {published} of the {len(leaves)} shares, in {_sources(leaves)}.",
        _assumed_lengths(full_size(size)),
    ]
    chart = Chart(title, series, axes, is_stacked=True)
    write_picture(output, title, [chart], 7.6, caption)
