"""A plan as one picture: time and cost by stage, memory by component, in SVG."""

import html
from collections.abc import Sequence
from pathlib import Path

from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.planning.figures import number
from recipes.planning.stage_plan import StagePlan

WIDTH = 1000
# where bars start and how long the longest is, in pixels
LEFT = 150
LENGTH = 640
ROW = 26
COLORS = {
    "weights": "#0b62a8",
    "gradients": "#c2410c",
    "optimizer": "#00795a",
    "reference": "#8a8f98",
    "activations": "#a13d7a",
    "logits": "#7a5c00",
    "context_parallel": "#4b5563",
}
_STYLE = "font: 13px sans-serif; fill: #1b1f24"


def write_picture(path: Path, title: str, plans: Sequence[StagePlan]) -> None:
    """Write the picture as ``.svg``, or as an ``.html`` page that holds it.

    Raises:
        UserError: another suffix.
    """
    if path.suffix not in (".svg", ".html"):
        raise UserError(
            f"--picture {path}: ends in {path.suffix!r}, expected .svg or .html; rename it"
        )
    svg = draw(title, plans)
    if path.suffix == ".html":
        svg = f'<!doctype html>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n{svg}'
    write_text(path, svg)


def draw(title: str, plans: Sequence[StagePlan]) -> str:
    """Return the picture as an SVG element."""
    lines = [_text(20, 28, title, "font-weight: bold; font-size: 16px")]
    top = 64
    lines += _hours(plans, top)
    top += ROW * (len(plans) + 2)
    lines += _memory(plans, top)
    height = top + ROW * (len(plans) + 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title)}">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _hours(plans: Sequence[StagePlan], top: int) -> list[str]:
    """Draw GPU-hours as bars, with time and cost beside them."""
    lines = [_text(20, top, "GPU-hours, time, and cost where a price is given")]
    longest = max(plan.figures["GPU-hours"].value for plan in plans)
    for row, plan in enumerate(plans, start=1):
        y = top + ROW * row
        hours = plan.figures["GPU-hours"]
        length = LENGTH * hours.value / longest
        label = f"{hours}, {plan.figures['time with failures']}"
        if "cost" in plan.figures:
            label += f", cost {plan.figures['cost']}"
        lines.append(_text(20, y, plan.stage))
        lines.append(_bar(LEFT, y, length, COLORS["weights"]))
        # beside a short bar, in a long one
        if length > LENGTH / 2:
            lines.append(_text(LEFT + 8, y, label, "fill: white"))
        else:
            lines.append(_text(LEFT + length + 8, y, label))
    return lines


def _memory(plans: Sequence[StagePlan], top: int) -> list[str]:
    """Draw the fullest GPU's memory as stacked bars against what it can give."""
    lines = []
    x = 20.0
    for name, color in COLORS.items():
        lines.append(_bar(x, top, 12, color))
        label = name.replace("_", " ")
        lines.append(_text(x + 18, top, label))
        x += 40 + 7.5 * len(label)
    lines.append(_text(x, top, "GB on the fullest GPU; line: what it can give"))

    most = max(max(plan.peak_bytes, plan.gpu.usable_bytes) for plan in plans)
    for row, plan in enumerate(plans, start=1):
        y = top + ROW * row
        lines.append(_text(20, y, plan.stage))
        x = LEFT
        for name, part in plan.memory.items():
            length = LENGTH * part.value / most
            lines.append(_bar(x, y, length, COLORS[name]))
            x += length
        lines.append(_text(x + 8, y, number(plan.peak_bytes / 1e9)))
        limit = LEFT + LENGTH * plan.gpu.usable_bytes / most
        lines.append(_bar(limit, y, 2, "#1b1f24"))
    return lines


def _bar(x: float, y: float, length: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y - 13:.1f}" width="{length:.1f}" height="18" fill="{color}"/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    escaped = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{_STYLE}; {style}">{escaped}</text>'
