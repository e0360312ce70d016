"""The run's report as one HTML file: no script, no request, charts as inline SVG that follow the page's colours."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from recipes.reports.plots import curve_tokens
from recipes.reports.run_data import (
    EVALUATIONS,
    RunReport,
    StageReport,
    Table,
    merge_table,
    number,
    text,
)

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 470, 18, 226
# validations of a curve with fewer are marked
MARKED = 40
# a logarithmic axis shows so much: warm-ups begin and decays end at 0
DECADES = 1e4
# smaller numbers, which only a damaged file holds, are drawn as 0
TINY = 1e-100

OVERVIEW = (
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

CSS = """
:root { --ink: #1b1f24; --soft: #59626d; --line: #d5dae0; --paper: #fff; --shade: #eef1f5; --bad: #b42318;
  --train: #0b62a8; --validation: #c2410c; --applied: #0b62a8; --recipe: #c2410c; --entropy: #59626d; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9ba6b2; --line: #3a424c;
  --paper: #14181d; --shade: #1e242b; --bad: #ff8f82; --train: #6cb6ff; --validation: #ff9e64; --applied: #6cb6ff;
  --recipe: #ff9e64; --entropy: #9ba6b2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, ul { margin: .4rem 0; }
a { color: var(--train); }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.bad { color: var(--bad); font-weight: 600; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; }
td { white-space: nowrap; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .5rem 1.5rem;
  margin: .75rem 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
pre { margin: .75rem 0; padding: .6rem .8rem; border-left: 4px solid var(--bad); background: var(--shade);
  white-space: pre-wrap; font-size: .85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: .75rem 0 0; break-inside: avoid; }
figure b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .shade { fill: var(--shade); }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .train { stroke: var(--train); } svg .validation { stroke: var(--validation); }
svg .applied { stroke: var(--applied); stroke-width: 4; opacity: .55; }
svg .recipe { stroke: var(--recipe); stroke-width: 1.5; stroke-dasharray: 6 3; }
svg .entropy { stroke: var(--entropy); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg path { stroke: none !important; opacity: .25; } svg path.train { fill: var(--train); }
svg path.validation { fill: var(--validation); } svg path.applied { fill: var(--applied); }
svg circle.train { fill: var(--train); } svg circle.validation { fill: var(--validation); }
svg circle.applied { fill: var(--applied); } svg circle.recipe { fill: var(--recipe); }
.key { white-space: nowrap; margin-left: .7rem; }
.key svg { display: inline-block; width: 26px; height: 8px; margin-right: .3rem; vertical-align: middle; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3, figcaption { break-after: avoid; }
  tr { break-inside: avoid; } .wide { overflow: visible; } }
"""


@dataclass
class Line:
    """A curve of a chart: (x, y, lowest y, highest y) per point; ``kind`` is its name and its class in the CSS."""

    kind: str
    points: list[tuple[float, float, float, float]]


def page(report: RunReport) -> str:
    """Return the report as an HTML document that stands for itself."""
    title = escape(text(f"Run {report.name}"))
    sizes = dict.fromkeys(
        text(stage.manifest["size"]) for stage in report.stages if "size" in stage.manifest
    )
    body = [f"<h1>{title}</h1>"]
    if sizes:
        body.append(f'<p class="soft">Granite 4.1, size {escape(", ".join(sizes))}</p>')
    if len(report.stages) > 1:
        links = "".join(f'<li><a href="#{s.name}">{s.name}</a></li>' for s in report.stages)
        body.append(f'<nav aria-label="Stages"><ul>{links}</ul></nav>')
    if report.evaluated:
        body.append(f'<p><a href="{EVALUATIONS}">Evaluations</a></p>')
    body += _overview(report) if report.stages else ["<p>No stage has begun.</p>"]
    if report.problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in map(text, report.problems))
        body.append(f'<h3 class="bad">What could not be read</h3><ul>{items}</ul>')
    if report.stages:
        body += ["<h3>The whole run</h3>", _run_charts(report.stages)]
    body += [_table(merge_table(path, merge)) for path, merge in report.merges.items()]
    for stage in report.stages:
        body += _section(stage)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # whatever a file smuggled in, a browser would ask for nothing
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _overview(report: RunReport) -> list[str]:
    rows = [[stage.cells()[column] for column in OVERVIEW] for stage in report.stages]
    return [
        _table(Table("Overview", list(OVERVIEW), rows)),
        '<p class="soft">Losses and entropies in nats per token; the unigram entropy is that of the training blend. '
        "Tokens/s is the mean over the steps, without validation and checkpoints. Where a point of a curve stands for "
        "several steps it is their mean, in a pale band from the lowest to the highest.</p>",
    ]


def _section(stage: StageReport) -> list[str]:
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_status(value)}</dd></div>"
        for name, value in stage.facts().items()
    )
    return [
        f'<section><h2 id="{stage.name}">{stage.name}: {escape(stage.title)}</h2>',
        f"<pre>{escape(stage.error)}</pre>" if stage.error else "",
        f"<dl>{facts}</dl>",
        _stage_charts(stage),
        *map(_table, stage.tables()),
        "</section>",
    ]


def _status(value: str) -> str:
    return f'<span class="bad">{escape(value)}</span>' if value == "failed" else escape(value)


def _table(table: Table) -> str:
    numeric = [
        all(
            re.fullmatch(r"-|[\d.,]+( ?%)?|[\d ,]+(h|min|s)( [\d ]+(min|s))?", cell)
            for cell in column
        )
        for column in zip(*table.rows, strict=True)
    ]

    def row(tag: str, cells: Sequence[str]) -> str:
        shown = [*map(_status, cells)]
        if table.links and tag == "td":
            shown[-1] = f'<a href="{quote(cells[-1])}">{shown[-1]}</a>'
        classes = [' class="number"' if right else "" for right in numeric]
        return (
            "<tr>"
            + "".join(f"<{tag}{c}>{v}</{tag}>" for c, v in zip(classes, shown, strict=True))
            + "</tr>"
        )

    head, rows = row("th", table.header), "".join(row("td", cells) for cells in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="wide" tabindex="0"><table><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _recipe_line(stage: StageReport, start: float = 0.0) -> Line:
    """Return the learning rate of the stage's recipe over the tokens that it takes."""
    points = []
    if stage.schedule and stage.tokens and stage.tokens > 0:
        for tokens in curve_tokens(stage.schedule, float(stage.tokens)):
            try:
                rate = number(stage.schedule.lr(tokens))
            except ArithmeticError:
                rate = None
            if rate is not None:
                points.append((start + tokens, rate, rate, rate))
    return Line("recipe", points)


def _stage_charts(stage: StageReport) -> str:
    metrics, entropy = stage.metrics, stage.number("unigram_entropy")
    loss = [Line("train", metrics.loss.points()), Line("validation", metrics.validation.points())]
    if entropy is not None and metrics.tokens > 0:
        loss.append(
            Line("entropy", [(x, entropy, entropy, entropy) for x in (0.0, float(metrics.tokens))])
        )
    rates = [Line("applied", metrics.lr.points()), _recipe_line(stage)]
    charts = (
        _chart(f"Loss of {stage.name}", "nats per token", loss),
        _chart(f"Base learning rate of {stage.name}", "dimensionless", rates),
    )
    return f'<div class="charts">{"".join(charts)}</div>'


def _run_charts(stages: Sequence[StageReport]) -> str:
    loss: list[Line] = []
    rates: list[Line] = []
    spans = []
    for stage in stages:
        start = float(stage.tokens_of_the_run - stage.tokens_done)
        spans.append((stage.name, start, float(stage.tokens_of_the_run)))
        for lines, kind, curve in (
            (loss, "train", stage.metrics.loss),
            (loss, "validation", stage.metrics.validation),
            (rates, "applied", stage.metrics.lr),
        ):
            lines.append(
                Line(kind, [(start + x, y, low, high) for x, y, low, high in curve.points()])
            )
        rates.append(_recipe_line(stage, start))
    charts = (
        _chart("Loss over the run", "nats per token", loss, spans=spans),
        _chart(
            "Base learning rate over the run, logarithmic",
            "dimensionless",
            rates,
            spans=spans,
            log=True,
        ),
    )
    names = ", ".join(name for name, _, _ in spans)
    note = f'<p class="soft">Shaded in turn: {names}.</p>' if len(spans) > 1 else ""
    return f'<div class="charts">{"".join(charts)}</div>{note}'


def _chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    spans: Sequence[tuple[str, float, float]] = (),
    log: bool = False,
) -> str:
    """Return a figure of ``lines`` over tokens; ``spans`` are the stages (name, first token, last token)."""
    if log:
        floor = max((point[3] for line in lines for point in line.points), default=0.0) / DECADES
        lines = [
            Line(line.kind, [point for point in line.points if point[2] > max(floor, TINY)])
            for line in lines
        ]
    points = [point for line in lines for point in line.points]
    if not points:
        return (
            f"<figure><figcaption><b>{escape(title)}</b>: nothing to draw yet</figcaption></figure>"
        )
    across = _Axis(min(0.0, *(p[0] for p in points)), max(p[0] for p in points), LEFT, RIGHT)
    up = _Axis(min(p[2] for p in points), max(p[3] for p in points), BOTTOM, TOP, log)
    drawn = []
    for index, (name, start, end) in enumerate(spans if len(spans) > 1 else ()):
        x, width = across.at(start), max(across.at(min(end, across.high)) - across.at(start), 0)
        if index % 2 == 0:
            drawn.append(
                f'<rect class="shade" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{BOTTOM - TOP}"/>'
            )
        if width > 8 * len(name):
            drawn.append(
                f'<text x="{x + width / 2:.1f}" y="{TOP - 5}" text-anchor="middle">{name}</text>'
            )
    for value in up.ticks():
        y = up.at(value)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in across.ticks():
        x = across.at(value)
        drawn.append(
            f'<text x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="middle">{short(value)}</text>'
        )
    drawn.append(
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 37}" text-anchor="middle">tokens</text>'
    )
    for line in lines:
        drawn += _drawn(line, across, up)
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{kind}" points="0,4 26,4"/>'
        f"</svg>{_KEYS[kind]}</span> "
        for kind in dict.fromkeys(line.kind for line in lines if line.points)
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b> ({escape(unit)}) {keys}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg></figure>'
    )


_KEYS = {
    "train": "training",
    "validation": "validation",
    "entropy": "unigram entropy",
    "applied": "applied",
    "recipe": "recipe",
}


def _drawn(line: Line, across: "_Axis", up: "_Axis") -> Iterable[str]:
    if any(low < high for _, _, low, high in line.points):
        bounds = [f"{across.at(x):.1f},{up.at(high):.1f}" for x, _, _, high in line.points]
        bounds += [f"{across.at(x):.1f},{up.at(low):.1f}" for x, _, low, _ in reversed(line.points)]
        yield f'<path class="{line.kind}" d="M{" L".join(bounds)}Z"/>'
    at = [(f"{across.at(x):.1f}", f"{up.at(y):.1f}") for x, y, _, _ in line.points]
    if at:
        yield f'<polyline class="{line.kind}" points="{" ".join(",".join(pair) for pair in at)}"/>'
    if len(at) == 1 or (len(at) < MARKED and line.kind == "validation"):
        yield from (f'<circle class="{line.kind}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in at)


class _Axis:
    """Values from ``low`` to ``high`` on pixels from ``first`` to ``last``."""

    def __init__(
        self, low: float, high: float, first: float, last: float, log: bool = False
    ) -> None:
        low, high = (bound if abs(bound) > TINY else 0.0 for bound in (low, high))
        if high - low <= 1e-12 * abs(high):
            low, high = (
                (low / 2, high * 2)
                if log
                else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
            )
        self.low, self.high, self.first, self.last, self.log = low, high, first, last, log

    def at(self, value: float) -> float:
        """Return the pixel of ``value``."""
        low, high = self.low, self.high
        share = (
            math.log(value / low) / math.log(high / low)
            if self.log
            else (value - low) / (high - low)
        )
        return self.first + share * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Return round values on the axis, at most six."""
        if self.log:
            decades = [
                10.0**e
                for e in range(
                    math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1
                )
            ]
            return (
                decades[:: math.ceil(len(decades) / 6)]
                if len(decades) > 1
                else [self.low, self.high]
            )
        span = self.high - self.low
        ten = 10.0 ** math.floor(math.log10(span / 5))
        step = next(ten * factor for factor in (1, 2, 5, 10) if span / (ten * factor) <= 5)
        first = math.ceil(self.low / step)
        return [
            index * step
            for index in range(first, first + 7)
            if index * step <= self.high + step * 1e-9
        ]


def short(tokens: float) -> str:
    """Return a number of tokens as an axis shows it: 2.5M."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
    unit, suffix = next((pair for pair in units if abs(tokens) >= pair[0]), (1, ""))
    return f"{tokens / unit:.4g}{suffix}"
