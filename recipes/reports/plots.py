"""Pictures of the recipes: the learning rate over the whole of pre-training, and the mixture of each stage."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.errors import UserError
from recipes.common.files import atomic_write
from recipes.common.tables import human
from recipes.registry.resolve import STAGES, resolve, stage_sizes
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
    "svg.fonttype": "none",
    "svg.hashsalt": "granite41",
    "hatch.linewidth": 0.6,
}
# a logarithmic axis has no 0, towards which most stages decay
LOWEST_RATE = 1e-7
# a stage that takes a smaller share of the run is named in the enlarged part
NARROW = 0.08

SHADES = ("#dceaf5", "#fdf0d5")
# colour and hatch per component in order of first appearance: the colours of Okabe and Ito, told apart by the colour
# blind, and for a component close to an earlier one that one's colour with a hatch
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


@dataclass(frozen=True)
class StageCurve:
    """A stage's learning rate in the whole run.

    Attributes:
        recipe: the resolved stage.
        full: the stage at full size, whose numbers say what is assumed; tiny's is the 8b.
        start: tokens of the run before the stage.
        tokens: of the stage, ascending from 0 to all of them.
        lr: base learning rate after each of ``tokens``.
        assumed: dot path -> assumed number on which the rate rests, those of the stages before it that it continues
            included as ``stage: path``.
    """

    recipe: PretrainRecipe
    full: PretrainRecipe
    start: int
    tokens: list[float]
    lr: list[float]
    assumed: dict[str, Sourced[Any]]


def pretraining(size: str) -> list[PretrainRecipe]:
    """Return the resolved stages of pre-training and long-context extension that ``size`` has, in order.

    Raises:
        UserError: an unknown size.
    """
    # phase 1 exists at every size, and resolving it refuses a size that does not
    resolve("phase1", size)
    recipes = [resolve(stage, size) for stage in STAGES if size in stage_sizes(stage)]
    return [recipe for recipe in recipes if isinstance(recipe, PretrainRecipe)]


def _full_size(size: str) -> list[PretrainRecipe]:
    """Return :func:`pretraining` of the size from which ``size`` is scaled."""
    return pretraining(SIZES[size].published_size)


def lr_curves(size: str) -> list[StageCurve]:
    """Return the learning rate of every stage of :func:`pretraining`."""
    curves: list[StageCurve] = []
    start = 0
    for recipe, full in zip(pretraining(size), _full_size(size), strict=True):
        assumed = {
            path: leaf
            for path, leaf in flatten(full).items()
            if leaf.origin == "assumed" and path.startswith("schedule.")
        }
        # the power schedule's beta is the batch
        if isinstance(full.schedule, PowerSchedule) and full.tokens_per_batch.origin == "assumed":
            assumed["tokens_per_batch"] = full.tokens_per_batch
        before = curves[-1].assumed if curves and recipe.optimizer_state.value == "carry" else {}
        assumed = before | {
            f"{recipe.stage}: {path}": leaf
            for path, leaf in assumed.items()
            if leaf not in before.values()
        }
        tokens = curve_tokens(recipe.schedule, recipe.tokens.value)
        curves.append(
            StageCurve(
                recipe, full, start, tokens, [recipe.schedule.lr(n) for n in tokens], assumed
            )
        )
        start += recipe.tokens.value
    return curves


def plot_lr(size: str, output: Path) -> None:
    """Draw the base learning rate over all tokens of pre-training and long-context extension.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    from matplotlib.ticker import LogLocator

    _check_suffix(output)
    curves = lr_curves(size)
    total = curves[-1].start + curves[-1].recipe.tokens.value
    # the short stages at the end, enlarged
    first = next(
        i
        for i in range(len(curves))
        if all(c.recipe.tokens.value < NARROW * total for c in curves[i:])
    )
    with _figure(8.6) as figure:
        axes = figure.subplot_mosaic(
            [["all", "all"], ["start", "end"]],
            gridspec_kw={"height_ratios": [1.15, 1], "width_ratios": [1, 2.1]},
        )
        _draw_curves(axes["all"], curves, total, named=curves[:first])
        middle = (curves[first].start + total) / 2
        _label(axes["all"], middle, f"{len(curves) - first} stages,\nsee below")
        axes["all"].set_title(_title(curves, total), fontsize=13, fontweight="bold", pad=44)
        axes["all"].legend(
            handles=_lr_legend(),
            loc="lower left",
            fontsize=9,
            framealpha=1,
            bbox_to_anchor=(0.01, 0.03),
        )

        _draw_curves(axes["start"], curves[:1], total, named=[])
        start = axes["start"]
        start.set_xscale("log")
        warmup = max(flatten(curves[0].recipe.schedule)["warmup_tokens"].value, 1)
        start.set_xlim(warmup / 10, curves[0].recipe.tokens.value)
        start.set_ylim(curves[0].recipe.schedule.lr(warmup / 10) / 2, max(curves[0].lr) * 2)
        start.xaxis.set_major_formatter(lambda value, _: human(round(value)))
        start.minorticks_off()
        start.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        start.yaxis.set_major_formatter("{x:g}")
        start.set_xlabel("tokens, logarithmic")
        start.set_title(f"{curves[0].recipe.stage}: warm-up, then the power law", fontsize=10)

        _draw_curves(axes["end"], curves[first:], total, named=curves[first:])
        axes["end"].set_xlim(curves[first].start, total)
        figure.supxlabel(_lr_caption(curves), fontsize=8.5, x=0.01, ha="left", linespacing=1.4)
        _save(figure, output)


def _title(curves: Sequence[StageCurve], total: int) -> str:
    return f"Granite 4.1 {curves[0].recipe.size}: base learning rate over {human(total)} tokens"


def _draw_curves(
    axes: "Axes", curves: Sequence[StageCurve], total: int, named: Sequence[StageCurve]
) -> None:
    unit, suffix = next(pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if total >= pair[0])
    for curve in curves:
        end = curve.start + curve.recipe.tokens.value
        shade = SHADES[list(STAGES).index(curve.recipe.stage) % 2]
        hatch = "////" if curve.full.tokens.origin == "assumed" else None
        axes.axvspan(
            curve.start, end, facecolor=shade, edgecolor="#b8b8b8", linewidth=0, hatch=hatch
        )
        axes.plot(
            [curve.start + tokens for tokens in curve.tokens],
            curve.lr,
            color="#0b3d66",
            linewidth=2,
            linestyle=(0, (4, 1.5)) if curve.assumed else "solid",
        )
    for curve in named:
        _label(
            axes,
            curve.start + curve.recipe.tokens.value / 2,
            f"{curve.recipe.stage}\n{human(curve.recipe.tokens.value)}",
        )
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_ylim(LOWEST_RATE, 0.1)
    axes.set_xlim(curves[0].start, curves[-1].start + curves[-1].recipe.tokens.value)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
    axes.set_xlabel(f"tokens of the run ({suffix})")
    axes.set_ylabel("base learning rate")
    axes.grid(axis="y", color="white", linewidth=0.8)
    axes.set_axisbelow(True)


def _label(axes: "Axes", x: float, text: str) -> None:
    axes.text(
        x, 1.02, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9.5
    )


def _lr_legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D(
            [],
            [],
            color="#0b3d66",
            linewidth=2,
            label="rate: published, or arithmetic on published numbers",
        ),
        Line2D(
            [],
            [],
            color="#0b3d66",
            linewidth=2,
            linestyle=(0, (4, 1.5)),
            label="rate rests on an assumed number",
        ),
        Patch(facecolor=SHADES[0], edgecolor="#b8b8b8", label="length of the stage published"),
        Patch(
            facecolor=SHADES[0],
            edgecolor="#b8b8b8",
            hatch="////",
            label="length of the stage assumed",
        ),
    ]


def _lr_caption(curves: Sequence[StageCurve]) -> str:
    leaves = [leaf for curve in curves for leaf in flatten(curve.full.schedule).values()]
    leaves += [curve.full.tokens for curve in curves]
    rates = {path: leaf for curve in curves for path, leaf in curve.assumed.items()}
    lines = [
        f"Published numbers: {_sources(leaves)}.",
        f"Assumed for the rate: {_listed(rates)}." if rates else "",
        _assumed_lengths([curve.full for curve in curves]),
        f"The hidden matrices' rate is the base rate / {curves[0].recipe.hidden_lr_divisor.value:g} (muP). "
        "A decay to 0 leaves the picture at its lower edge.",
    ]
    return "\n".join(textwrap.fill(line, 165) for line in lines if line)


def _listed(leaves: dict[str, Sourced[Any]]) -> str:
    return "; ".join(f"{path} {human(leaf.value)}" for path, leaf in leaves.items())


def _sources(leaves: Sequence[Sourced[Any]]) -> str:
    return "; ".join(dict.fromkeys(leaf.why for leaf in leaves if leaf.origin == "published"))


def mixtures(size: str) -> dict[str, Mixture]:
    """Return stage -> percent of tokens by component, as the resolved recipes have them."""
    return {recipe.stage: recipe.mixture for recipe in pretraining(size)}


def plot_mixture(size: str, output: Path) -> None:
    """Draw every stage's mixture as a bar of 100 percent, a component in the same colour throughout.

    Raises:
        UserError: an unknown size, or a suffix other than ``.png`` and ``.svg``.
    """
    _check_suffix(output)
    recipes = pretraining(size)
    components = list(
        dict.fromkeys(name for mixture in mixtures(size).values() for name in mixture)
    )
    styles = dict(zip(components, COMPONENT_STYLES, strict=False))
    with _figure(7.6) as figure:
        axes = figure.subplots()
        axes.set_xlim(0, 100)
        axes.set_ylim(len(recipes) - 0.5, -0.6)
        figure.draw_without_rendering()
        for row, mixture in enumerate(mixtures(size).values()):
            _draw_bar(axes, row, mixture, styles)
        axes.set_yticks(
            range(len(recipes)), [f"{r.stage}\n{human(r.tokens.value)} tokens" for r in recipes]
        )
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel("percent of the stage's tokens")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(
            f"Granite 4.1 {size}: data mixture of each stage", fontsize=13, fontweight="bold"
        )
        axes.legend(
            handles=_mixture_legend(styles),
            loc="upper center",
            bbox_to_anchor=(0.47, -0.1),
            ncols=5,
            fontsize=9.5,
            frameon=False,
        )
        figure.supxlabel(
            _mixture_caption(recipes), fontsize=8.5, x=0.01, ha="left", linespacing=1.4
        )
        _save(figure, output)


def _mixture_caption(recipes: Sequence[PretrainRecipe]) -> str:
    shares = [leaf for recipe in recipes for leaf in recipe.mixture.values()]
    published = sum(leaf.origin == "published" for leaf in shares)
    return (
        f"Published: {published} of the {len(shares)} shares, in {_sources(shares)}.\n"
        f"{_assumed_lengths(_full_size(recipes[0].size))}"
    )


def _assumed_lengths(recipes: Sequence[PretrainRecipe]) -> str:
    return f"Assumed lengths: {_listed({r.stage: r.tokens for r in recipes if r.tokens.origin == 'assumed'})}."


def _draw_bar(axes: "Axes", row: int, mixture: Mixture, styles: dict[str, tuple[str, str]]) -> None:
    """Draw one stage; a share too narrow for its number has it above the bar, clear of its neighbour's."""
    left, free = 0.0, 0.0
    for name, share in mixture.items():
        colour, hatch = styles[name]
        width = share.value
        axes.barh(
            row, width, 0.62, left, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=1
        )
        value = f"{width:g}"
        middle = left + width / 2
        text = axes.text(
            middle,
            row,
            f"{name}\n{value}",
            ha="center",
            va="center",
            fontsize=9,
            color=_ink(colour),
        )
        if hatch:
            text.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 1.5})
        if _width(axes, text) > width - 1:
            text.set_text(value)
        if _width(axes, text) > width - 0.5:
            half = _width(axes, text) / 2 + 0.2
            middle = max(middle, free + half)
            text.set(position=(middle, row - 0.33), va="bottom", color="black")
            text.set_bbox(None)
            free = middle + half
        left += width


def _width(axes: "Axes", text: Any) -> float:
    """Return the width of ``text`` in the units of the x axis."""
    box = text.get_window_extent().transformed(axes.transData.inverted())
    return box.width


def _ink(colour: str) -> str:
    """Return black or white, whichever has the higher contrast on ``colour``."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return (
        "black" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "white"
    )


def _mixture_legend(styles: dict[str, tuple[str, str]]) -> list[Any]:
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in styles.items()
    ]


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
            f"{output}: ends in {output.suffix!r}, expected a picture's {' or '.join(SUFFIXES)}; rename it"
        )


def _save(figure: "Figure", output: Path) -> None:
    form = output.suffix[1:]
    with atomic_write(output) as temporary:
        # no date in an SVG: the same recipes give the same file
        figure.savefig(temporary, format=form, metadata={"Date": None} if form == "svg" else None)
