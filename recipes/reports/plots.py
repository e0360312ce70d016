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
from recipes.reports.charts import UNITS
from recipes.reports.curves import curve_tokens
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
# 1,200 pixels wide; text in an SVG stays text
DPI = 100
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "granite41",
    "hatch.linewidth": 0.6,
    "legend.framealpha": 1,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "legend.fontsize": 9.5,
}
# a logarithmic axis has no 0, towards which most stages decay
RATES = (1e-7, 0.1)
# a stage that takes a smaller share of the run is named in the enlarged part
NARROW = 0.08
DASHED = (0, (4, 1.5))
HATCH = "////"
SHADES = ("#dceaf5", "#fdf0d5")
EDGE = "#b8b8b8"
INK = "#0b3d66"

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
DARK_COLORS = ("#0072B2", "#000000")
# widths of a character and of the space around a number, in percent of the bar
CHARACTER = 0.72
MARGIN = 0.4


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
    _check_suffix(output)
    curves = lr_curves(size)
    total = curves[-1].end
    # the short stages at the end are enlarged
    short = list(curves)
    while short[0].recipe.tokens.value >= NARROW * total:
        short.pop(0)
    long = curves[: -len(short)]

    with _figure(8.6) as figure:
        figure.suptitle(f"Granite 4.1 {size}: base learning rate over {human(total)} tokens")
        axes = figure.subplot_mosaic(
            [["all", "all"], ["start", "end"]],
            height_ratios=[1.15, 1],
            width_ratios=[1, 2.1],
        )
        _draw_curves(axes["all"], curves, total, named=long)
        middle = (short[0].start + total) / 2
        _label(axes["all"], middle, f"{len(short)} stages,\nsee below")
        axes["all"].legend(handles=_lr_legend(), loc="lower left", fontsize=9)
        _draw_warmup(axes["start"], curves[0], total)
        _draw_curves(axes["end"], short, total, named=short)
        figure.supxlabel(_lr_caption(curves), fontsize=8.5, x=0.01, ha="left", linespacing=1.4)
        _save(figure, output)


def _draw_curves(
    axes: "Axes", curves: Sequence[StageCurve], total: int, named: Sequence[StageCurve]
) -> None:
    for curve in curves:
        position = list(STAGES).index(curve.recipe.stage)
        is_assumed = curve.full.tokens.origin == "assumed"
        axes.axvspan(
            curve.start,
            curve.end,
            facecolor=SHADES[position % 2],
            edgecolor=EDGE,
            linewidth=0,
            hatch=HATCH if is_assumed else None,
        )
        x = [curve.start + tokens for tokens in curve.tokens]
        axes.plot(x, curve.lr, color=INK, linewidth=2, linestyle=DASHED if curve.assumed else "-")
    for curve in named:
        _label(axes, (curve.start + curve.end) / 2, curve.label)

    unit, suffix = next(pair for pair in UNITS if total >= pair[0])
    axes.set(yscale="log", ylim=RATES, xlim=(curves[0].start, curves[-1].end))
    axes.set(xlabel=f"tokens of the run ({suffix})", ylabel="base learning rate")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
    axes.grid(axis="y", color="white", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_warmup(axes: "Axes", curve: StageCurve, total: int) -> None:
    from matplotlib.ticker import LogLocator

    _draw_curves(axes, [curve], total, named=[])
    schedule = curve.recipe.schedule
    first = max(flatten(schedule)["warmup_tokens"].value, 1) / 10
    axes.set(xscale="log", xlim=(first, curve.end), xlabel="tokens, logarithmic")
    axes.set_ylim(schedule.lr(first) / 2, max(curve.lr) * 2)
    axes.set_title(f"{curve.recipe.stage}: warm-up, then the power law")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: human(round(value)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def _label(axes: "Axes", x: float, text: str) -> None:
    place = axes.get_xaxis_transform()
    axes.text(x, 1.02, text, transform=place, ha="center", va="bottom", fontsize=9.5)


def _lr_legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    published = "rate: published, or arithmetic on published numbers"
    assumed = "rate rests on an assumed number"
    shade: dict[str, Any] = {"facecolor": SHADES[0], "edgecolor": EDGE}
    return [
        Line2D([], [], color=INK, linewidth=2, label=published),
        Line2D([], [], color=INK, linewidth=2, linestyle=DASHED, label=assumed),
        Patch(**shade, label="length of the stage published"),
        Patch(**shade, hatch=HATCH, label="length of the stage assumed"),
    ]


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
    from matplotlib.patches import Patch

    _check_suffix(output)
    recipes = pretraining(size)
    components: dict[str, None] = {}
    for recipe in recipes:
        components |= dict.fromkeys(recipe.mixture)
    styles = dict(zip(components, COMPONENT_STYLES, strict=False))
    patches = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=name)
        for name, (color, hatch) in styles.items()
    ]

    with _figure(7.6) as figure:
        figure.suptitle(f"Granite 4.1 {size}: data mixture of each stage")
        axes = figure.subplots()
        for row, recipe in enumerate(recipes):
            _draw_bar(axes, row, recipe.mixture, styles)

        names = [f"{recipe.stage}\n{human(recipe.tokens.value)} tokens" for recipe in recipes]
        axes.set_yticks(range(len(recipes)), names)
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 100), ylim=(len(recipes) - 0.5, -0.6))
        axes.set_xlabel("percent of the stage's tokens")
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(
            handles=patches,
            loc="upper center",
            bbox_to_anchor=(0.47, -0.1),
            ncols=5,
            frameon=False,
        )
        figure.supxlabel(_mixture_caption(recipes), fontsize=8.5, x=0.01, ha="left")
        _save(figure, output)


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
        number = f"{width:g}"
        axes.barh(row, width, 0.62, left, color=color, hatch=hatch, edgecolor="white")

        middle = left + width / 2
        needed = CHARACTER * len(number) + MARGIN
        if needed <= width:
            text = f"{name}\n{number}" if CHARACTER * len(name) < width else number
            ink = "white" if color in DARK_COLORS else "black"
            back = {"facecolor": color, "edgecolor": "none", "pad": 1.5} if hatch else None
            axes.text(middle, row, text, ha="center", va="center", fontsize=9, color=ink, bbox=back)
        else:
            middle = max(middle, free + needed / 2)
            free = middle + needed / 2
            axes.text(middle, row - 0.33, number, ha="center", va="bottom", fontsize=9)
        left += width


@contextmanager
def _figure(height: float) -> "Iterator[Figure]":
    """Yield an empty figure of 12 by ``height`` inches, drawn without a display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(12, height), dpi=DPI, layout="constrained")


def _check_suffix(output: Path) -> None:
    if output.suffix not in SUFFIXES:
        raise UserError(
            f"{output}: ends in {output.suffix!r}, expected a picture's {' or '.join(SUFFIXES)}; "
            "rename it"
        )


def _save(figure: "Figure", output: Path) -> None:
    # no date in an SVG: the same recipes give the same file
    metadata: dict[str, Any] | None = None
    if output.suffix == ".svg":
        metadata = {"Date": None}
    with atomic_write(output) as temporary:
        figure.savefig(temporary, format=output.suffix[1:], metadata=metadata)
