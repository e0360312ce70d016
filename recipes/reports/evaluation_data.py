"""What evaluations' files tell for a report, as tables and curves; a file that is damaged is named and ends nothing."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.gates import GATE, mean_name, ruler_means, standard_error
from evaluation.results import EVALUATION, Evaluation, Unit, read_evaluation
from evaluation.suites import (
    LONG_CONTEXT,
    get_suite,
    reference,
    ruler_references,
    setting,
    suite_names,
    unavailable,
)
from recipes.common.errors import UserError
from recipes.registry.resolve import STAGES
from recipes.reports.run_data import number, text
from recipes.spec.sizes import SIZES

FALLBACK = "fallback corpus: not comparable with published numbers"
# a difference beyond so many standard errors is marked
MARKED = 2.0
WORSE, BETTER = "▼", "▲"
_GATE_BYTES = 1 << 24
# rows beyond which a table of details is folded
_LONG = 10


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``tone`` is ``bad``, ``good`` or empty, ``heat`` a percentage to colour it by."""

    text: str
    tone: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class Grid:
    """A table with a title; ``note`` stands below it; one that is ``folded`` shows its rows on demand."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Line:
    """A curve: (length in tokens, percent, standard error) of each point; ``published`` are IBM's points."""

    name: str
    points: list[tuple[int, float, float]]
    published: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over RULER's lengths."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Section:
    """A part of a report: sentences, those in ``warnings`` prominent, then tables and charts."""

    title: str
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blocks: list[Grid | Chart] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A whole report; ``problems`` are files that could not be read."""

    title: str
    subtitle: str
    sections: list[Section]
    problems: list[str]


@dataclass(frozen=True)
class Entry:
    """An evaluation, the path of its folder relative to the run's, and what its gate said, or None."""

    path: str
    evaluation: Evaluation
    gate: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The column's title: the stage and what sets the model apart from the stage's final one."""
        found = self.evaluation
        return text(" ".join(filter(None, (found.stage or Path(found.model).name, found.label))))

    @property
    def units(self) -> dict[str, Unit]:
        """The results by name of the unit."""
        return {unit.name: unit for unit in self.evaluation.units}


def read_run(run_folder: Path) -> tuple[list[Entry], list[str]]:
    """Return the evaluations under ``run_folder`` in the order of the stages, final models last, and the problems."""
    entries, problems = [], []
    for path in sorted(run_folder.glob(f"*/eval/*/{EVALUATION}")):
        try:
            entries.append(read_entry(path.parent, run_folder))
        except UserError as error:
            problems.append(text(" ".join(str(error).split())[:400]))
    stages, suites = list(STAGES), suite_names()

    def order(entry: Entry) -> tuple[int, bool, int, str]:
        found = entry.evaluation
        stage = stages.index(found.stage) if found.stage in stages else len(stages)
        return stage, not found.label, suites.index(found.suite), found.label

    return sorted(entries, key=order), problems


def read_entry(folder: Path, run_folder: Path) -> Entry:
    """Read the evaluation in ``folder`` and its gate.

    Raises:
        UserError: no evaluation, or a damaged one.
    """
    evaluation = read_evaluation(folder)
    if fault := next(_faults(evaluation), None):
        raise UserError(
            f"{folder / EVALUATION}: is no evaluation ({fault}); run `granite41 eval` into this folder again"
        )
    return Entry(str(folder.relative_to(run_folder)), evaluation, _read_gate(folder / GATE))


def run_report(name: str, entries: Sequence[Entry], problems: list[str]) -> Report:
    """Return the report on a run's evaluations."""
    sections = [_overview(entries)] if entries else []
    for suite in suite_names():
        if of := [entry for entry in entries if entry.evaluation.suite == suite]:
            sections.append(_suite_section(suite, of))
    return Report(f"Evaluation of {text(name)}", _subtitle(entries), sections, problems)


def comparison(pairs: Sequence[tuple[Entry, Entry]], a: str, b: str, problems: list[str]) -> Report:
    """Return the report on what changes from the first to the second of each pair."""
    sections = [_pair_section(*pair) for pair in pairs]
    return Report(
        f"{text(a)} and {text(b)} compared",
        _subtitle([pair[0] for pair in pairs]),
        sections,
        problems,
    )


def z_score(before: Unit, after: Unit) -> float | None:
    """Return by how many standard errors of the difference ``after`` is better than ``before``."""
    stderr = math.hypot(standard_error(before), standard_error(after))
    gain = (after.score - before.score) * (1 if after.higher_is_better else -1)
    return gain / stderr if stderr and math.isfinite(gain) else None


def regressions(entries: Sequence[Entry]) -> dict[tuple[int, str], float]:
    """Return (position in ``entries``, unit) -> z of every unit that is worse than after the former stage.

    The former stage's final model counts, or where it was not evaluated its last one; worse is by more than
    :data:`MARKED` standard errors of the difference.
    """
    found = {}
    for position, entry in enumerate(entries):
        stage = entry.evaluation.stage
        former = next(
            (other for other in reversed(entries[:position]) if other.evaluation.stage != stage),
            None,
        )
        for name, unit in entry.units.items():
            before = former.units.get(name) if former else None
            z = z_score(before, unit) if before else None
            if z is not None and z < -MARKED:
                found[position, name] = z
    return found


def length_name(length: int) -> str:
    """Return a length in tokens as the field writes it: 128K for 131072."""
    return f"{length // 1024}K" if length >= 1024 and length % 1024 == 0 else f"{length:,}"


def score_text(unit: Unit) -> str:
    """Return score ± standard error; a standard error that lm-eval does not give is left out."""
    if not math.isfinite(unit.score):
        return "no number"
    digits = 2 if unit.percent else 3
    error = (
        f" ± {unit.stderr:.{digits}f}"
        if unit.stderr is not None and math.isfinite(unit.stderr)
        else ""
    )
    return f"{unit.score:.{digits}f}{error}"


def _faults(evaluation: Evaluation) -> Iterator[str]:
    """Yield what in the file has a type or value that no evaluation writes."""
    if evaluation.suite not in suite_names():
        yield f"unknown suite {str(evaluation.suite)[:40]!r}"
    if evaluation.size not in list(SIZES):
        yield f"unknown size {str(evaluation.size)[:40]!r}"
    texts = [evaluation.label, evaluation.model, evaluation.finished]
    texts += [] if evaluation.stage is None else [evaluation.stage]
    if not isinstance(evaluation.expected, list):
        yield "expected is no list"
    elif not all(isinstance(value, str) for value in (*texts, *evaluation.expected)):
        yield "a name is no text"
    if not all(isinstance(of, dict) for of in (evaluation.failures, evaluation.left_out)):
        yield "failures or left_out is no table"
    for unit in evaluation.units:
        optional = (unit.stderr, unit.fill_min, unit.fill_mean, unit.length)
        numbers = [
            unit.score,
            unit.samples,
            unit.truncated,
            *(value for value in optional if value is not None),
        ]
        if not all(map(_is_number, numbers)):
            yield "a unit's number is none"
        elif unit.length is not None and not (isinstance(unit.length, int) and unit.length > 0):
            yield "a unit's length is no positive whole number"
        if not (isinstance(unit.task, str) and isinstance(unit.settings, dict)):
            yield "a unit's task or settings are of another kind"


def _is_number(value: Any) -> bool:
    """Return whether ``value`` is a number that can be shown; NaN and infinity, which a model may score, are."""
    return type(value) in (int, float) and not 1e100 <= abs(value) < math.inf


def _read_gate(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _GATE_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _subtitle(entries: Sequence[Entry]) -> str:
    sizes = dict.fromkeys(entry.evaluation.size for entry in entries)
    return f"Granite 4.1, size {', '.join(sizes)}" if sizes else ""


def _gate_cell(entry: Entry) -> Cell:
    if entry.gate is None:
        return Cell("-")
    return Cell("passed", "good") if entry.gate.get("passed") is True else Cell("failed", "bad")


def _overview(entries: Sequence[Entry]) -> Section:
    rows = []
    for entry in entries:
        found = entry.evaluation
        done = sum(name in entry.units for name in found.expected)
        rows.append(
            [
                Cell(text(found.stage)),
                Cell(text(found.label or None)),
                Cell(found.suite),
                Cell(
                    f"{done} of {len(found.expected)}", "" if done == len(found.expected) else "bad"
                ),
                _gate_cell(entry),
                Cell("all" if found.limit is None else text(found.limit)),
                Cell(text(found.backend.get("name") if isinstance(found.backend, dict) else None)),
                Cell(text(found.model)),
                Cell(text(found.finished or None)),
            ]
        )
    header = [
        "stage",
        "label",
        "suite",
        "units",
        "gate",
        "samples asked for",
        "backend",
        "model",
        "finished",
    ]
    return Section(
        "Overview", warnings=_warnings(entries), blocks=[Grid("Evaluations", header, rows)]
    )


def _warnings(entries: Sequence[Entry]) -> list[str]:
    """Return what a reader must know before any number."""
    fallback = [
        entry.name
        for entry in entries
        if any(unit.corpus == "fallback" for unit in entry.evaluation.units)
    ]
    return [f"{FALLBACK} ({', '.join(dict.fromkeys(fallback))})"] if fallback else []


def _suite_section(suite: str, entries: Sequence[Entry]) -> Section:
    worse = regressions(entries)
    title = get_suite(suite, entries[0].evaluation.size).title
    blocks: list[Grid | Chart] = []
    if suite == LONG_CONTEXT:
        blocks += _ruler_blocks(entries, worse)
    else:
        blocks.append(_scores(suite, entries, worse))
    rows = [
        [
            Cell(entries[position].name),
            Cell(text(name)),
            Cell(score_text(entries[position].units[name])),
            Cell(f"{z:.1f}"),
        ]
        for (position, name), z in worse.items()
    ]
    blocks.append(
        Grid(
            "Regressions",
            ["model", "unit", "score", "standard errors"],
            rows,
            "Against the former stage's model.",
        )
    )
    blocks += [
        _open_units(entries),
        _other_settings(entries),
        _gates(entries),
        _notes(suite, entries),
    ]
    return Section(
        f"{suite}: {title}",
        warnings=_warnings(entries) if suite == LONG_CONTEXT else [],
        notes=[
            f"Score ± standard error, in percent unless said otherwise; {WORSE} marks what is worse than after the "
            f"former stage by more than {MARKED:g} standard errors of the difference."
        ],
        blocks=[block for block in blocks if isinstance(block, Chart) or block.rows],
    )


def _scores(suite: str, entries: Sequence[Entry], worse: dict[tuple[int, str], float]) -> Grid:
    tasks = get_suite(suite, entries[0].evaluation.size).tasks
    names = dict.fromkeys(
        [task.name for task in tasks.values() if not task.unavailable]
        + [name for entry in entries for name in (*entry.evaluation.expected, *entry.units)]
    )
    asked = {name for entry in entries for name in (*entry.evaluation.expected, *entry.units)}
    published = _ibm(
        entries, lambda name, size: reference(suite, name, size) if name in tasks else None, names
    )
    rows = []
    for name in names:
        if name not in asked and not any(column[name] for column in published.values()):
            continue
        cells = [Cell(text(name)), Cell(text(setting(suite, name)))]
        cells += [_ibm_cell(column[name]) for column in published.values()]
        rows.append(
            [
                *cells,
                *(
                    _score_cell(entry, name, (at, name) in worse)
                    for at, entry in enumerate(entries)
                ),
            ]
        )
    header = ["benchmark", "IBM's setting", *published, *(entry.name for entry in entries)]
    if all(row[1].text == "-" for row in rows):
        header, rows = header[:1] + header[2:], [row[:1] + row[2:] for row in rows]
    return Grid("Scores", header, rows)


def _ibm(
    entries: Sequence[Entry], score: Callable[[Any, str], float | None], names: Iterable[Any]
) -> dict[str, dict[Any, float | None]]:
    """Return the columns of IBM's scores, one for each size that has any."""
    sizes = dict.fromkeys(entry.evaluation.size for entry in entries)
    columns = {f"IBM {size}": {name: score(name, size) for name in names} for size in sizes}
    return {
        title: column
        for title, column in columns.items()
        if any(value is not None for value in column.values())
    }


def _ibm_cell(score: float | None) -> Cell:
    return Cell("-" if score is None else f"{score:.2f}")


def _score_cell(entry: Entry, name: str, is_worse: bool, heat: bool = False) -> Cell:
    unit = entry.units.get(name)
    if unit is None:
        failed = name in entry.evaluation.failures
        return Cell("failed" if failed else "-", "bad" if failed else "")
    if not math.isfinite(unit.score):
        return Cell(score_text(unit), "bad")
    shown = f"{score_text(unit)} {WORSE}" if is_worse else score_text(unit)
    return Cell(shown, "bad" if is_worse else "", unit.score if heat and unit.percent else None)


def _ruler_blocks(
    entries: Sequence[Entry], worse: dict[tuple[int, str], float]
) -> list[Grid | Chart]:
    means = [ruler_means(entry.evaluation) for entry in entries]
    lengths = sorted(
        {unit.length for entry in entries for unit in entry.evaluation.units if unit.length}
    )
    every = sorted(
        {
            *lengths,
            *(length for entry in entries for length in ruler_references(entry.evaluation.size)),
        }
    )
    published = _ibm(entries, lambda length, size: ruler_references(size).get(length), every)
    rows = []
    for length in every:
        cells = [
            Cell(length_name(length)),
            *(_ibm_cell(column[length]) for column in published.values()),
        ]
        for of in means:
            mean = of.get(length)
            cells.append(
                Cell(
                    f"{mean[0]:.2f} ± {mean[1]:.2f}" if mean else "-",
                    heat=mean[0] if mean else None,
                )
            )
        rows.append(cells)
    header = ["length", *published, *(entry.name for entry in entries)]
    note = "The unweighted mean of the thirteen tasks, where all of them have a score."
    lines = [
        Line(
            title,
            [(length, score, 0.0) for length, score in column.items() if score is not None],
            published=True,
        )
        for title, column in published.items()
    ]
    lines += [
        Line(entry.name, [(length, *mean) for length, mean in of.items()])
        for entry, of in zip(entries, means, strict=True)
        if of
    ]
    blocks: list[Grid | Chart] = [
        Grid("Mean by length", header, rows, note),
        Chart("RULER by length", lines),
    ]
    for position, entry in enumerate(entries):
        blocks += [_heat_map(entry, position, worse), _prompts(entry)]
    return blocks


def _heat_map(entry: Entry, position: int, worse: dict[tuple[int, str], float]) -> Grid:
    units = entry.evaluation.units
    lengths = sorted({unit.length for unit in units if unit.length})
    rows = []
    for task in dict.fromkeys(unit.task for unit in units):
        names = [f"{task}@{length}" for length in lengths]
        cells = [_score_cell(entry, name, (position, name) in worse, heat=True) for name in names]
        rows.append([Cell(text(task)), *cells])
    return Grid(f"{entry.name}: tasks by length", ["task", *map(length_name, lengths)], rows)


def _prompts(entry: Entry) -> Grid:
    rows = []
    for length in sorted({unit.length for unit in entry.evaluation.units if unit.length}):
        units = [unit for unit in entry.evaluation.units if unit.length == length]
        least = [unit.fill_min for unit in units if unit.fill_min is not None]
        means = [unit.fill_mean for unit in units if unit.fill_mean is not None]
        truncated = sum(unit.truncated for unit in units)
        corpora = dict.fromkeys(text(unit.corpus) for unit in units if unit.corpus)
        rows.append(
            [
                Cell(length_name(length)),
                Cell(f"{sum(unit.samples for unit in units):,}"),
                Cell(f"{min(least):.1%}" if least else "-"),
                Cell(f"{sum(means) / len(means):.1%}" if means else "-"),
                Cell(f"{truncated:,}", "bad" if truncated else ""),
                Cell(", ".join(corpora) or "-", "bad" if "fallback" in corpora else ""),
            ]
        )
    header = ["length", "samples", "least fill", "mean fill", "truncated", "corpus"]
    return Grid(
        f"{entry.name}: prompts",
        header,
        rows,
        "Fill: the share of the length that prompt and answer take.",
    )


def _open_units(entries: Sequence[Entry]) -> Grid:
    rows = []
    for entry in entries:
        found = entry.evaluation
        for name in dict.fromkeys((*found.expected, *found.failures)):
            if name not in entry.units:
                reason = text(found.failures.get(name, "has not been run"))
                rows.append([Cell(entry.name), Cell(text(name)), Cell(reason, "bad")])
    return Grid("Units without a result", ["model", "unit", "reason"], rows)


def _other_settings(entries: Sequence[Entry]) -> Grid:
    """Return the units that were asked otherwise than the suite's own data says."""
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        size = entry.evaluation.size
        tasks = get_suite(entry.evaluation.suite, size).tasks
        for unit in entry.evaluation.units:
            rung, shots = unit.settings.get("rung"), unit.settings.get("num_fewshot")
            task = tasks.get(unit.task)
            if rung not in (None, "published"):
                rows.setdefault(
                    (entry.name, f"RULER's settings are {text(rung)}, not the published ones"), []
                ).append(unit.name)
            if task and None not in (task.num_fewshot, shots) and shots != task.num_fewshot:
                what = f"{text(shots)} examples in the prompt, not {task.num_fewshot}"
                rows.setdefault((entry.name, what), []).append(unit.name)
        if entry.evaluation.limit is not None and not SIZES[size].is_tiny:
            rows[entry.name, f"{text(entry.evaluation.limit)} samples of each task"] = ["all"]
    cells = [
        [Cell(model), Cell(what), Cell(text(_listed(units)))]
        for (model, what), units in rows.items()
    ]
    return Grid("Other settings than published", ["model", "setting", "units"], cells)


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _gates(entries: Sequence[Entry]) -> Grid:
    """Return the checks that failed or compared something."""
    rows = []
    for entry in entries:
        checks = entry.gate.get("checks") if entry.gate else None
        for check in checks if isinstance(checks, list) else ():
            if not isinstance(check, dict):
                continue
            ok = check.get("ok") is True
            if ok and check.get("expected") is None:
                continue
            found, expected = (_value(check.get(key)) for key in ("found", "expected"))
            verdict = Cell("passed", "good") if ok else Cell("failed", "bad")
            reason = Cell(text(check.get("reason")))
            rows.append(
                [
                    Cell(entry.name),
                    verdict,
                    Cell(text(check.get("name"))),
                    Cell(found),
                    Cell(expected),
                    reason,
                ]
            )
    failed = sum(row[1].tone == "bad" for row in rows)
    title = (
        f"Gate: {failed} of {len(rows)} checks failed"
        if failed
        else f"Gate: {len(rows)} checks passed"
    )
    return Grid(
        title,
        ["model", "verdict", "check", "found", "expected", "reason"],
        rows,
        folded=len(rows) > _LONG,
    )


def _value(value: Any) -> str:
    found = number(value)
    return text(value) if found is None else f"{found:.4g}"


def _notes(suite: str, entries: Sequence[Entry]) -> Grid:
    """Return what is assumed about benchmarks, and those that were not run."""
    size = entries[0].evaluation.size
    left = unavailable(suite, size)
    for entry in entries:
        left = {**entry.evaluation.left_out, **left}
    rows = [
        [Cell(text(name)), Cell("not run"), Cell(text(reason))] for name, reason in left.items()
    ]
    noted = [task for task in get_suite(suite, size).tasks.values() if task.note]
    rows += [[Cell(task.name), Cell("note"), Cell(text(task.note))] for task in noted]
    return Grid(
        "About the benchmarks", ["benchmark", "", "what to know"], rows, folded=len(rows) > _LONG
    )


def _pair_section(a: Entry, b: Entry) -> Section:
    before, after = a.units, b.units
    suite, size = b.evaluation.suite, b.evaluation.size
    means = [ruler_means(entry.evaluation) for entry in (a, b)]
    blocks: list[Grid | Chart] = []
    if suite == LONG_CONTEXT:
        published = ruler_references(size)
        lines = [
            Line(f"{side}: {entry.name}", [(length, *mean) for length, mean in of.items()])
            for side, entry, of in zip("ab", (a, b), means, strict=True)
            if of
        ]
        if published:
            lines.insert(
                0,
                Line(
                    f"IBM {size}",
                    [(length, score, 0.0) for length, score in published.items()],
                    True,
                ),
            )
        blocks.append(Chart("RULER by length", lines))
    else:
        published = {}
    rows = [
        [
            Cell(mean_name(length)),
            _ibm_cell(published.get(length)),
            *_difference(means[0][length], means[1][length]),
        ]
        for length in sorted(means[0].keys() & means[1].keys())
    ]
    tasks = get_suite(suite, size).tasks
    for name in dict.fromkeys((*before, *after)):
        ibm = reference(suite, name, size) if name in tasks else None
        if name in before and name in after:
            rows.append(
                [Cell(text(name)), _ibm_cell(ibm), *_unit_difference(before[name], after[name])]
            )
        else:
            cells = [_score_cell(entry, name, False) for entry in (a, b)]
            rows.append([Cell(text(name)), _ibm_cell(ibm), *cells, Cell("-"), Cell("-")])
    header = ["unit", f"IBM {size}", "a", "b", "b - a", "z"]
    if all(row[1].text == "-" for row in rows):
        header, rows = header[:1] + header[2:], [row[:1] + row[2:] for row in rows]
    blocks.insert(0, Grid("Scores", header, rows))
    facts = [
        [
            Cell(side),
            Cell(text(entry.evaluation.model)),
            Cell(entry.name),
            _gate_cell(entry),
            Cell(text(entry.evaluation.finished or None)),
        ]
        for side, entry in (("a", a), ("b", b))
    ]
    blocks.append(Grid("Models", ["", "model", "stage and label", "gate", "finished"], facts))
    blocks += [_other_settings([a, b]), _open_units([a, b])]
    label = " ".join(filter(None, (b.evaluation.stage, b.evaluation.label)))
    return Section(
        text(f"{suite} {label}".strip()),
        warnings=_warnings([a, b]),
        notes=[
            f"z: the difference in its own standard errors, positive where b is better; {BETTER} and {WORSE} mark more "
            f"than {MARKED:g}."
        ],
        blocks=[block for block in blocks if isinstance(block, Chart) or block.rows],
    )


def _unit_difference(before: Unit, after: Unit) -> list[Cell]:
    cells = [Cell(score_text(before)), Cell(score_text(after))]
    if not (math.isfinite(before.score) and math.isfinite(after.score)):
        return [*cells, Cell("-"), Cell("-")]
    digits = 2 if after.percent else 3
    return [
        *cells,
        Cell(f"{after.score - before.score:+.{digits}f}"),
        _z_cell(z_score(before, after)),
    ]


def _difference(before: tuple[float, float], after: tuple[float, float]) -> list[Cell]:
    stderr = math.hypot(before[1], after[1])
    gain = after[0] - before[0]
    shown = [Cell(f"{score:.2f} ± {error:.2f}") for score, error in (before, after)]
    return [*shown, Cell(f"{gain:+.2f}"), _z_cell(gain / stderr if stderr else None)]


def _z_cell(z: float | None) -> Cell:
    if z is None:
        return Cell("-")
    if abs(z) <= MARKED:
        return Cell(f"{z:+.1f}")
    return Cell(f"{z:+.1f} {BETTER}", "good") if z > 0 else Cell(f"{z:+.1f} {WORSE}", "bad")
