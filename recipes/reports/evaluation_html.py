"""A report on evaluations as one HTML file: no script, no request, charts as inline SVG in the page's colours."""

import math
import re
from collections.abc import Sequence
from html import escape

from recipes.reports.evaluation_data import Cell, Chart, Grid, Line, Report, Section, length_name
from recipes.reports.run_html import CSS

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 40, 472, 12, 246
# colours of Okabe and Ito, lightened for the dark page; the marks tell the curves apart without colour
LIGHT = ("#0b62a8", "#c2410c", "#00795a", "#a13d7a", "#7a5c00", "#4b5563")
DARK = ("#6cb6ff", "#ff9e64", "#4fd1a5", "#f29ac9", "#e6c34a", "#b6bfca")
DASHES = ("", "7 4", "2 3")
_HEAT_STEPS = 10

OWN_CSS = f"""
:root {{ --good: #1a7f37; --heat: 11 98 168; {" ".join(f"--c{i}: {c};" for i, c in enumerate(LIGHT))} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --good: #57d57a; --heat: 76 150 220;
  {" ".join(f"--c{i}: {c};" for i, c in enumerate(DARK))} }} }}
.good {{ color: var(--good); font-weight: 600; }}
.warning {{ margin: .75rem 0; padding: .6rem .8rem; border-left: 4px solid var(--bad); background: var(--shade);
  font-weight: 600; }}
td.words {{ white-space: normal; min-width: 11rem; max-width: 40rem; overflow-wrap: anywhere; }}
summary {{ cursor: pointer; }} summary h3 {{ display: inline-block; }}
figure.curve {{ max-width: 42rem; }}
svg .ibm {{ stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 3 4; }}
svg circle.ibm {{ fill: var(--paper); stroke-dasharray: none; stroke-width: 2; }}
svg line.error {{ stroke-width: 1.5; }}
{" ".join(f"svg .c{i} {{ stroke: var(--c{i}); }} svg circle.c{i} {{ fill: var(--c{i}); }}" for i in range(len(LIGHT)))}
{" ".join(f"svg polyline.d{i} {{ stroke-dasharray: {dash}; }}" for i, dash in enumerate(DASHES) if dash)}
{" ".join(f"td.h{i} {{ background: rgb(var(--heat) / {i * 0.05:.2f}); }}" for i in range(1, _HEAT_STEPS + 1))}
td.heat {{ padding-left: .5rem; }}
"""


def page(report: Report) -> str:
    """Return the report as an HTML document that stands for itself."""
    title = escape(report.title)
    body = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{escape(report.subtitle)}</p>' if report.subtitle else "",
    ]
    if len(report.sections) > 1:
        links = "".join(
            f'<li><a href="#s{at}">{escape(s.title)}</a></li>'
            for at, s in enumerate(report.sections)
        )
        body.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    if not report.sections:
        body.append("<p>There are no evaluations yet.</p>")
    if report.problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in report.problems)
        body.append(f'<h3 class="bad">What could not be read</h3><ul>{items}</ul>')
    body += [_section(at, section) for at, section in enumerate(report.sections)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # whatever a file smuggled in, a browser would ask for nothing
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{CSS}{OWN_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


def _section(at: int, section: Section) -> str:
    return "\n".join(
        [
            f'<section><h2 id="s{at}">{escape(section.title)}</h2>',
            *(
                f'<p class="warning" role="note">{escape(warning)}</p>'
                for warning in section.warnings
            ),
            *(f'<p class="soft">{escape(note)}</p>' for note in section.notes),
            *(
                _chart(block) if isinstance(block, Chart) else _grid(block)
                for block in section.blocks
            ),
            "</section>",
        ]
    )


def _grid(grid: Grid) -> str:
    numeric = [
        all(
            re.fullmatch(r"-|failed|no number|[+-]?[\d.,]+( ?%| ± [\d.]+)?( [▼▲])?", cell.text)
            for cell in column
        )
        for column in zip(*grid.rows, strict=True)
    ]
    head = "".join(
        f'<th{_classes(["number"] if right else [])} scope="col">{escape(name)}</th>'
        for name, right in zip(grid.header, numeric, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))
        + "</tr>"
        for row in grid.rows
    )
    table = (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        + (f'<p class="soft">{escape(grid.note)}</p>' if grid.note else "")
    )
    title = f"<h3>{escape(grid.title)}</h3>"
    return f"<details><summary>{title}</summary>{table}</details>" if grid.folded else title + table


def _cell(cell: Cell, right: bool) -> str:
    classes = ["number"] if right else []
    if len(cell.text) > 40:
        classes.append("words")
    if cell.heat is not None and math.isfinite(cell.heat):
        classes.append(f"heat h{round(min(max(cell.heat, 0.0), 100.0) / 100 * _HEAT_STEPS)}")
    shown = (
        f'<span class="{cell.tone}">{escape(cell.text)}</span>' if cell.tone else escape(cell.text)
    )
    return f"<td{_classes(classes)}>{shown}</td>"


def _classes(names: Sequence[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def _chart(chart: Chart) -> str:
    """Return a figure of percentages over lengths on a logarithmic axis."""
    title = escape(chart.title)
    lengths = sorted({length for line in chart.lines for length, _, _ in line.points})
    if not lengths:
        return f"<figure><figcaption><b>{title}</b>: nothing to draw yet</figcaption></figure>"
    low, high = math.log2(lengths[0]), math.log2(lengths[-1])

    def x(length: int) -> float:
        share = (math.log2(length) - low) / (high - low) if high > low else 0.5
        return LEFT + 16 + share * (RIGHT - LEFT - 32)

    def y(score: float) -> float:
        return BOTTOM - min(max(score, 0.0), 100.0) / 100 * (BOTTOM - TOP)

    drawn = []
    for percent in range(0, 101, 20):
        at = y(percent)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{percent}</text>')
    last = -math.inf
    for length in lengths:
        # names of lengths that are close would overlap
        if x(length) - last >= 40:
            last = x(length)
            drawn.append(
                f'<text x="{last:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{length_name(length)}</text>'
            )
    drawn.append(
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 38}" text-anchor="middle">tokens</text>'
    )
    keys = []
    for line, style in zip(chart.lines, _styles(chart.lines), strict=True):
        points = sorted(line.points)
        path = " ".join(f"{x(length):.1f},{y(score):.1f}" for length, score, _ in points)
        drawn.append(f'<polyline class="{style}" points="{path}"/>')
        for length, score, stderr in points:
            if stderr:
                ends = f'y1="{y(score - stderr):.1f}" y2="{y(score + stderr):.1f}"'
                drawn.append(
                    f'<line class="error {style}" x1="{x(length):.1f}" x2="{x(length):.1f}" {ends}/>'
                )
            label = f"<title>{escape(line.name)}, {length_name(length)}: {score:.1f}</title>"
            drawn.append(
                f'<circle class="{style}" cx="{x(length):.1f}" cy="{y(score):.1f}" r="4">{label}</circle>'
            )
        keys.append(
            f'<span class="key"><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{style}" '
            f'points="0,4 26,4"/></svg>{escape(line.name)}</span> '
        )
    return (
        f'<figure class="curve"><figcaption><b>{title}</b> (percent ± standard error) {"".join(keys)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(drawn)}</svg></figure>'
    )


def _styles(lines: Sequence[Line]) -> list[str]:
    """Return the CSS classes of each curve: a colour each, then the same colours with other dashes."""
    styles, number = [], 0
    for line in lines:
        if line.published:
            styles.append("ibm")
        else:
            styles.append(f"c{number % len(LIGHT)} d{number // len(LIGHT) % len(DASHES)}")
            number += 1
    return styles
