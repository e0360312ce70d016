"""Pictures of the recipes: the learning rate over all of pre-training, and each stage's mixture."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.common.tables import human
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.reports.charts import PALETTE, STYLE, draw
from recipes.reports.curves import curve_tokens
from recipes.reports.document import Chart, Series, Span
from recipes.spec.mixtures import Mixture
from recipes.spec.origin import Sourced
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.schedules import PowerSchedule
from recipes.spec.sizes import SIZES
from recipes.spec.tree import flatten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
# 1,200 pixels wide
DPI = 100
# a logarithmic axis has no 0, towards which most stages decay
RATES = (1e-7, 0.1)
RATE = "base learning rate"
TOKENS = "tokens of the run"
# the stages that start after this share of the run are enlarged
ENLARGED = 0.92
# color and hatch per component in order of first appearance: the colors of Okabe and Ito, which the
# color-blind tell apart, and for a component close to an earlier one that one's color with a hatch
COMPONENT_STYLES = (
    ("#0072B2", ""),
    ("#E69F00", ""),
    ("#009E73", ""),
    ("#999999", ""),
    ("#CC79A7", ""),
    ("#000000", ""),
    ("#56B4E9", ""),
    ("#F0E442", ""),
    ("#D55E00", ""),
    ("#CC79A7", "//"),
    ("#E69F00", "//"),
    ("#999999", ".."),
    ("#E69F00", ".."),
)
# width of a character in percent of the bar
CHARACTER = 0.9


@dataclass(frozen=True)
class StageCurve:
    """A stage's learning rate in the whole run.

    Attributes:
        recipe: the resolved stage.
        full: the stage at full size, whose numbers say what is assumed; tiny's is the 8b.
        start: tokens of the run before the stage.
        tokens: of the stage, ascending from 0 to all of them.
        lr: base learning rate after each of ``tokens``.
        assumed: dot path -> assumed number on which the rate rests. Those of the stages before it
            that it continues are included, as ``stage: path``.
    """

    recipe: PretrainRecipe
    full: PretrainRecipe
    start: int
    tokens: list[float]
    lr: list[float]
    assumed: dict[str, Sourced[Any]]

    @property
    def end(self) -> int:
        """Tokens of the run after the stage."""
        return self.start + self.recipe.tokens.value

    @property
    def series(self) -> Series:
        """The curve of a chart over the tokens of the run."""
        name = "rate: published, or arithmetic on published numbers"
        style = "published"
        if self.assumed:
            name = "rate rests on an assumed number"
            style = "assumed"
        pairs = zip(self.tokens, self.lr, strict=True)
        return Series(name, [(self.start + tokens, lr, lr, lr) for tokens, lr in pairs], style)

    @property
    def label(self) -> str:
        """The stage's name and length."""
        return f"{self.recipe.stage}\n{human(self.recipe.tokens.value)}"


def pretraining(size: str) -> list[PretrainRecipe]:
    """Return the stages of pre-training and long-context extension that ``size`` has, in order.

    Raises:
        UserError: an unknown size.
    """
    # phase 1 exists at every size, and resolving it refuses a size that does not
    resolve("phase1", size)
    recipes = [resolve(stage, size) for stage in STAGES if size in stage_sizes(stage)]
    return [recipe for recipe in recipes if isinstance(recipe, PretrainRecipe)]


def lr_curves(size: str) -> list[StageCurve]:
    """Return the learning rate of every stage of :func:`pretraining`."""
    curves: list[StageCurve] = []
    start = 0
    assumed: dict[str, Sourced[Any]] = {}

    # a stage that carries the optimizer on rests on what the stages before it assume
    for recipe, full in zip(pretraining(size), _full_size(size), strict=True):
        if recipe.optimizer_state.value != "carry":
            assumed = {}
        for path, leaf in _assumed_numbers(full).items():
            if leaf not in assumed.values():
                assumed = {**assumed, f"{recipe.stage}: {path}": leaf}

        tokens = curve_tokens(recipe.schedule, recipe.tokens.value)
        rates = [recipe.schedule.lr(count) for count in tokens]
        curves.append(StageCurve(recipe, full, start, tokens, rates, assumed))
        start = curves[-1].end

    return curves


def _full_size(size: str) -> list[PretrainRecipe]:
    """Return :func:`pretraining` of the size from which ``size`` is scaled."""
    return pretraining(SIZES[size].published_size)


def _assumed_numbers(recipe: PretrainRecipe) -> dict[str, Sourced[Any]]:
    leaves = flatten(recipe.schedule, "schedule")
    # the power schedule's beta is the batch
    if isinstance(recipe.schedule, PowerSchedule):
        leaves["tokens_per_batch"] = recipe.tokens_per_batch
    return {path: leaf for path, leaf in leaves.items() if leaf.origin == "assumed"}


def plot_lr(size: str, output: Path) -> None:
    """Draw the base learning rate over all tokens of pre-training and long-context extension.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    from matplotlib.patches import Patch

    curves = lr_curves(size)
    first = curves[0]
    # the last stages are enlarged
    last = [curve for curve in curves if curve.start >= ENLARGED * curves[-1].end]
    charts = {
        "A": _lr_chart(curves, "All stages"),
        "B": _warmup_chart(first),
        "C": _lr_chart(last, "The last stages, enlarged"),
    }
    assumed_length = Patch(
        facecolor="none",
        edgecolor=PALETTE["soft"],
        hatch="////",
        label="length of the stage assumed",
    )

    title = f"Granite 4.1 {size}: base learning rate over {human(curves[-1].end)} tokens"
    with _picture(output, 8.6, title, _lr_caption(curves)) as figure:
        axes = figure.subplot_mosaic("AAA;BCC")
        for name, chart in charts.items():
            draw(axes[name], chart)
            axes[name].set_title(chart.title, loc="left", pad=30)

        lines, names = axes["A"].get_legend_handles_labels()
        handles = [*dict(zip(names, lines, strict=True)).values(), assumed_length]
        axes["A"].legend(handles=handles, loc="lower left")


def _lr_chart(curves: Sequence[StageCurve], title: str) -> Chart:
    series = []
    spans = []
    for curve in curves:
        is_assumed = curve.full.tokens.origin == "assumed"
        series.append(curve.series)
        spans.append(Span(curve.label, curve.start, curve.end, is_assumed))
    limits = (curves[0].start, curves[-1].end)
    return Chart(
        title,
        series,
        TOKENS,
        RATE,
        spans,
        log_y=True,
        x_limits=limits,
        y_limits=RATES,
    )


def _warmup_chart(curve: StageCurve) -> Chart:
    schedule = curve.recipe.schedule
    first = max(flatten(schedule)["warmup_tokens"].value, 1) / 10
    return Chart(
        f"{curve.recipe.stage}: warm-up, then the power law",
        [curve.series],
        f"{TOKENS}, logarithmic",
        RATE,
        log_x=True,
        log_y=True,
        x_limits=(first, curve.end),
        y_limits=(schedule.lr(first) / 2, max(curve.lr) * 2),
    )


def _lr_caption(curves: Sequence[StageCurve]) -> str:
    leaves: list[Sourced[Any]] = []
    assumed: dict[str, Sourced[Any]] = {}
    for curve in curves:
        leaves += [*flatten(curve.full.schedule).values(), curve.full.tokens]
        assumed |= curve.assumed

    lines = [
        f"Published numbers: {_sources(leaves)}.",
        f"Assumed for the rate: {_listed(assumed)}." if assumed else "",
        _assumed_lengths([curve.full for curve in curves]),
        f"The hidden matrices' rate is the base rate / "
        f"{curves[0].recipe.hidden_lr_divisor.value:g} (muP). "
        "A decay to 0 leaves the picture at its lower edge.",
    ]
    return "\n".join(textwrap.fill(line, 165) for line in lines if line)


def _listed(leaves: dict[str, Sourced[Any]]) -> str:
    return "; ".join(f"{path} {human(leaf.value)}" for path, leaf in leaves.items())


def _sources(leaves: Iterable[Sourced[Any]]) -> str:
    return "; ".join(dict.fromkeys(leaf.why for leaf in leaves if leaf.origin == "published"))


def _assumed_lengths(recipes: Sequence[PretrainRecipe]) -> str:
    lengths = {recipe.stage: recipe.tokens for recipe in recipes}
    assumed = {stage: leaf for stage, leaf in lengths.items() if leaf.origin == "assumed"}
    return f"Assumed lengths: {_listed(assumed)}."


def mixtures(size: str) -> dict[str, Mixture]:
    """Return stage -> percent of tokens by component, as the resolved recipes have them."""
    return {recipe.stage: recipe.mixture for recipe in pretraining(size)}


def plot_mixture(size: str, output: Path) -> None:
    """Draw every stage's mixture as a bar of 100 percent, a component in one color throughout.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    recipes = pretraining(size)
    names = dict.fromkeys(name for recipe in recipes for name in recipe.mixture)
    styles = dict(zip(names, COMPONENT_STYLES, strict=False))

    title = f"Granite 4.1 {size}: data mixture of each stage"
    with _picture(output, 7.6, title, _mixture_caption(recipes)) as figure:
        axes = figure.subplots()
        for row, recipe in enumerate(recipes):
            _draw_bar(axes, row, recipe.mixture, styles)

        labels = [f"{recipe.stage}\n{human(recipe.tokens.value)} tokens" for recipe in recipes]
        axes.set_yticks(range(len(recipes)), labels)
        axes.set(xlim=(0, 100), xlabel="percent of the stage's tokens")
        axes.invert_yaxis()
        # a component is named once, by its first bar
        bars, names_of_bars = axes.get_legend_handles_labels()
        unique = dict(zip(reversed(names_of_bars), reversed(bars), strict=True))
        handles = [unique[name] for name in names]
        axes.legend(handles, list(names), loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=5)


def _mixture_caption(recipes: Sequence[PretrainRecipe]) -> str:
    shares = [leaf for recipe in recipes for leaf in recipe.mixture.values()]
    published = sum(leaf.origin == "published" for leaf in shares)
    lengths = _assumed_lengths(_full_size(recipes[0].size))
    return f"Published: {published} of the {len(shares)} shares, in {_sources(shares)}.\n{lengths}"


def _draw_bar(axes: "Axes", row: int, mixture: Mixture, styles: dict[str, tuple[str, str]]) -> None:
    """Draw one stage; a share that is too narrow for its number has it above the bar."""
    left = 0.0
    # where the next number above the bar may start
    free = 0.0
    for name, share in mixture.items():
        color, hatch = styles[name]
        width = share.value
        axes.barh(row, width, 0.62, left, color=color, hatch=hatch, edgecolor="white", label=name)

        number = f"{width:g}"
        middle = left + width / 2
        needed = CHARACTER * len(number)
        if needed <= width:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(middle, row, number, ha="center", va="center", bbox=box)
        else:
            middle = max(middle, free + needed / 2)
            free = middle + needed / 2
            axes.text(middle, row - 0.33, number, ha="center", va="bottom")
        left += width


@contextmanager
def _picture(output: Path, height: float, title: str, caption: str) -> "Iterator[Figure]":
    """Yield an empty figure of 12 by ``height`` inches, which is written to ``output``."""
    if output.suffix not in SUFFIXES:
        raise UserError(
            f"{output}: ends in {output.suffix!r}, expected a picture's {' or '.join(SUFFIXES)}; "
            "rename it"
        )

    import matplotlib
    from matplotlib.figure import Figure

    # the same recipes give the same file: no random ids and no date in an SVG
    metadata: dict[str, Any] = {}
    if output.suffix == ".svg":
        metadata["Date"] = None
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(12, height), dpi=DPI, layout="constrained")
        figure.suptitle(title, fontsize=13, fontweight="bold")
        figure.supxlabel(caption, fontsize=8.5, x=0.01, ha="left", linespacing=1.4)
        yield figure
        with atomic_write(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:], metadata=metadata)
