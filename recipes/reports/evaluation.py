"""The reports on a run's evaluations, and on two runs or evaluations compared."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation import gates
from evaluation.results import EVALUATION, unit_name
from evaluation.suites import LONG_CONTEXT, get_suite, setting, suite_names, unavailable
from recipes.common.errors import UserError
from recipes.common.files import write_text
from recipes.reports import records
from recipes.reports.document import (
    Block,
    Cell,
    Chart,
    Document,
    Note,
    Section,
    Series,
    Table,
    flagged,
    number,
    table,
)
from recipes.reports.pages import write_pages
from recipes.reports.records import Entry, Problems
from recipes.reports.run import problem_section
from recipes.runs.run_folder import require_run_folder
from recipes.spec.sizes import SIZES

# a difference of more standard errors is marked
MARKED = 2.0
FALLBACK = "fallback corpus: not comparable with published numbers"
NOTE = (
    f"Score ± standard error, in percent unless the metric says otherwise. z: the difference from "
    f"the model before in its own standard errors; ▲ marks what is better and ▼ what is worse by "
    f"more than {MARKED:g}. RULER's mean is over all tasks at a length, where all have a score; "
    f"fill is the share of the length that prompt and answer take."
)


def write_report(run_folder: Path) -> Path:
    """Write ``evaluation.html``, ``.md`` and ``.json`` for a run and return the first's path.

    Evaluations are at ``STAGE/eval/NAME``; damaged ones are listed in the report.

    Raises:
        UserError: the folder is no run's.
    """
    require_run_folder(run_folder)
    problems = Problems(run_folder)
    entries = records.read_entries(problems)
    overview: list[Block] = [Note("There are no evaluations yet.")]
    if entries:
        overview = [*_warnings(entries), table("Evaluations", map(_overview, entries))]

    sections = [Section("Overview", overview, "overview")]
    for suite in suite_names():
        members = [entry for entry in entries if entry.evaluation.suite == suite]
        if members:
            title = f"{suite}: {get_suite(suite, members[0].evaluation.size).title}"
            sections.append(Section(title, _suite_blocks(members), suite))

    title = f"Evaluation of {run_folder.resolve().name}"
    content = {"evaluations": [entry.to_dict() for entry in entries], "problems": problems}
    return _write(run_folder / "evaluation", Document(title, _sizes(entries), sections), content)


def compare(a: Path, b: Path, output: Path) -> Path:
    """Write what changes from ``a`` to ``b``, as HTML, Markdown and JSON; return the first's path.

    Args:
        a: the folder of a run or of an evaluation.
        b: another of the same kind. Of two runs the evaluations of the same stage, suite and label
            are compared; two evaluations are of the same suite.
        output: the files' path, with or without one of their suffixes.

    Raises:
        UserError: a folder that is neither, or nothing that both have.
    """
    problems = [Problems(a), Problems(b)]
    before, after = map(_entries_by_key, problems)
    shared = [key for key in before if key in after]
    if not shared:
        raise UserError(
            f"{a} and {b} have no evaluation of the same stage, suite and label; evaluate both "
            "alike"
        )

    sections = []
    pairs = []
    for key in shared:
        first = replace(before[key], name="a", before={})
        second = replace(after[key], name="b", before=first.units)
        models = [{"": entry.name} | _overview(entry) for entry in (first, second)]
        blocks = [table("Models", models), *_suite_blocks([first, second], is_compared=True)]
        title = f"{second.evaluation.suite} {after[key].name}"
        sections.append(Section(title, blocks, "-".join(title.split())))
        pairs.append({"a": first.to_dict(), "b": second.to_dict()})

    if output.suffix in (".html", ".md", ".json"):
        output = output.with_suffix("")
    title = f"{a.resolve().name} and {b.resolve().name} compared"
    content = {"pairs": pairs, "problems": [*problems[0], *problems[1]]}
    return _write(output, Document(title, _sizes(list(after.values())), sections), content)


def _entries_by_key(problems: Problems) -> dict[Any, Entry]:
    """Return a run's evaluations by suite and name, or the one of an evaluation's folder."""
    folder = problems.folder
    if (folder / EVALUATION).is_file() and not records.evaluation_folders(folder):
        entry = records.read_entry(folder, problems)
        return {entry.evaluation.suite: entry}
    entries = records.read_entries(problems)
    if not entries:
        raise UserError(
            f"{folder}: holds no evaluations that can be read, expected a run's or an evaluation's "
            "folder; name one that `granite41 eval` wrote"
        )
    return {(entry.evaluation.suite, entry.name): entry for entry in entries}


def _write(path: Path, document: Document, content: dict[str, Any]) -> Path:
    """Write a report as HTML, Markdown and JSON and return the first's path."""
    problems = problem_section(content["problems"])
    write_pages(path, document._replace(sections=[problems, *document.sections]))
    # JSON has no NaN and no infinity
    finite = json.loads(json.dumps(content), parse_constant=lambda constant: None)
    write_text(path.with_name(f"{path.name}.json"), json.dumps(finite, indent=2) + "\n")
    return path.with_name(f"{path.name}.html")


def _sizes(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.evaluation.size for entry in entries))


def _warnings(entries: Sequence[Entry]) -> list[Block]:
    """Return what a reader must know before any number."""
    names = []
    for entry in entries:
        if any(unit.corpus == "fallback" for unit in entry.evaluation.units):
            names.append(entry.name)
    return [Note(f"{FALLBACK} ({', '.join(names)})", "warning")] if names else []


def _overview(entry: Entry) -> dict[str, Any]:
    evaluation = entry.evaluation
    expected = set(evaluation.expected)
    done = len(entry.units.keys() & expected)
    return {
        "stage": evaluation.stage,
        "label": evaluation.label,
        "suite": evaluation.suite,
        "units": flagged(f"{done} of {len(expected)}", done < len(expected)),
        "gate": entry.gate and _verdict(entry.gate.passed),
        "samples per task": evaluation.limit or "all",
        "backend": evaluation.backend.get("name"),
        "model": evaluation.model,
        "finished": evaluation.finished,
    }


def _verdict(passed: bool) -> Cell:
    return Cell("passed", "good") if passed else Cell("failed", "bad")


def _suite_blocks(entries: Sequence[Entry], is_compared: bool = False) -> list[Block]:
    """Return all there is about evaluations of one suite."""
    blocks = [*_warnings(entries), Note(NOTE), _scores(entries, is_compared)]
    if entries[0].evaluation.suite == LONG_CONTEXT:
        blocks += [_ruler_chart(entries), *map(_heat_map, entries), _prompts(entries)]
    return [*blocks, _remark_table(entries), _checks(entries)]


def _scores(entries: Sequence[Entry], is_compared: bool) -> Table:
    suite = entries[0].evaluation.suite
    published = {size: _published(suite, size) for size in _sizes(entries)}
    metrics: dict[str, str] = {}
    for entry in entries:
        for name, unit in entry.units.items():
            metrics[name] = unit.metric.partition(",")[0]
    expected = chain.from_iterable(entry.evaluation.expected for entry in entries)

    names = list(dict.fromkeys(chain(metrics, expected, *published.values())))
    if suite == LONG_CONTEXT and not is_compared:
        # the tasks of RULER are in the heat maps; mean@4096 is shorter than mean@32768
        names = sorted(name for name in names if name.startswith(f"{records.MEAN}@"))
        names.sort(key=len)

    rows = []
    for name in names:
        row: dict[str, Any] = {
            "unit": name,
            "metric": metrics.get(name),
            "IBM's setting": setting(suite, name),
        }
        for size, scores in published.items():
            row[f"IBM {size}"] = number(scores.get(name), ".2f")
        for entry in entries:
            row[entry.name] = _score(entry, name)
        if is_compared:
            row["b - a"] = number(entries[1].difference(name), "+.3f")
            row["z"] = _z(entries[1], name)
        rows.append(row)
    return table("Scores", rows)


def _published(suite: str, size: str) -> dict[str, float]:
    """Return IBM's scores."""
    try:
        scores = gates.published(suite, size).scores
    except UserError:
        return {}
    return {name: score for name, (score, _) in scores.items()}


def _score(entry: Entry, name: str) -> Cell:
    """Return the cell of a unit, which may have failed, not been run, or be worse than before."""
    unit = entry.units.get(name)
    if unit is None:
        return flagged("failed", True) if name in entry.evaluation.failures else Cell("-")
    if not math.isfinite(unit.score):
        return flagged("no number", True)

    # a standard error that lm-eval does not give is left out
    digits = 2 if unit.percent else 3
    text = f"{unit.score:.{digits}f}"
    if unit.stderr is not None and math.isfinite(unit.stderr):
        text += f" ± {unit.stderr:.{digits}f}"
    heat = min(max(unit.score, 0), 100) if unit.length and unit.percent else None
    if _is_worse(entry, name):
        return Cell(f"{text} ▼", "bad", heat=heat)
    return Cell(text, heat=heat)


def _is_worse(entry: Entry, name: str) -> bool:
    z = entry.z(name)
    return z is not None and z < -MARKED


def _z(entry: Entry, name: str) -> Cell | None:
    z = entry.z(name)
    if z is None:
        return None
    if _is_worse(entry, name):
        return Cell(f"{z:+.1f} ▼", "bad")
    return Cell(f"{z:+.1f} ▲", "good") if z > MARKED else Cell(f"{z:+.1f}")


def length_name(length: int) -> str:
    """Return a length in tokens as the field writes it: 128K for 131072."""
    if length >= 1024 and length % 1024 == 0:
        return f"{length // 1024}K"
    return f"{length:,}"


def _lengths(entry: Entry) -> list[int]:
    return sorted({unit.length for unit in entry.evaluation.units if unit.length})


def _ruler_chart(entries: Sequence[Entry]) -> Chart:
    """Return RULER's means: IBM's, which have no standard errors, and the evaluations'."""
    series = []
    for size in _sizes(entries):
        published = gates.ruler_references(size)
        scores = list(published.values())
        series.append(Series(f"IBM {size}", list(published), scores, "ink", "o:"))
    for entry in entries:
        means = gates.ruler_means(entry.evaluation)
        scores = [score for score, _ in means.values()]
        errors = [error for _, error in means.values()]
        series.append(Series(entry.name, list(means), scores, error=errors))

    # the axis is labeled at the lengths that have a score
    ticks = sorted(map(int, set(chain.from_iterable(curve.x for curve in series))))
    axes = {
        "xlabel": "tokens",
        "ylabel": "percent ± standard error",
        "xscale": "log",
        "xticks": ticks,
        "xticklabels": list(map(length_name, ticks)),
        "xlim": (min(ticks, default=1) / 1.2, max(ticks, default=1) * 1.2),
        "ylim": (0, 100),
    }
    return Chart("RULER by length", series, axes)


def _heat_map(entry: Entry) -> Table:
    rows = []
    for task in dict.fromkeys(unit.task for unit in entry.evaluation.units):
        row: dict[str, Any] = {"task": task}
        for length in _lengths(entry):
            row[length_name(length)] = _score(entry, unit_name(task, length))
        rows.append(row)
    return table(f"{entry.name}: tasks by length", rows)


def _prompts(entries: Sequence[Entry]) -> Table:
    rows = []
    for entry in entries:
        for length in _lengths(entry):
            units = [unit for unit in entry.evaluation.units if unit.length == length]
            least = [unit.fill_min for unit in units if unit.fill_min is not None]
            means = [unit.fill_mean for unit in units if unit.fill_mean is not None]
            truncated = sum(unit.truncated for unit in units)
            corpora = dict.fromkeys(unit.corpus for unit in units if unit.corpus)
            row = {
                "model": entry.name,
                "length": length_name(length),
                "samples": sum(unit.samples for unit in units),
                "least fill": number(min(least, default=None), ".1%"),
                "mean fill": number(fmean(means) if means else None, ".1%"),
                "truncated": flagged(f"{truncated:,}", truncated > 0),
                "corpus": flagged(", ".join(corpora), "fallback" in corpora),
            }
            rows.append(row)
    return table("Prompts", rows)


def _remark_table(entries: Sequence[Entry]) -> Table:
    units: dict[tuple[str, str], list[str]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for entry in entries:
        reasons |= entry.evaluation.left_out
        for remark, name in _remarks(entry):
            units[entry.name, remark].append(name)

    # of the suite, whatever the model
    suite = entries[0].evaluation.suite
    size = entries[0].evaluation.size
    for name, reason in (reasons | unavailable(suite, size)).items():
        units["", f"not run: {reason}"].append(name)
    for task in get_suite(suite, size).tasks.values():
        if task.note:
            units["", task.note].append(task.name)

    rows = []
    for (model, remark), names in units.items():
        rows.append({"model": model, "remark": remark, "units": ", ".join(names)})
    return table("Remarks", rows)


def _remarks(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield what is missing, worse than before or run otherwise, and the unit concerned."""
    evaluation = entry.evaluation
    for name in dict.fromkeys((*evaluation.expected, *evaluation.failures)):
        if name not in entry.units:
            yield f"no result: {evaluation.failures.get(name, 'has not been run')}", name
    for name in entry.units:
        if _is_worse(entry, name):
            yield f"{entry.z(name):+.1f} standard errors from the model before", name

    if evaluation.limit is not None and not SIZES[evaluation.size].is_tiny:
        yield f"{evaluation.limit} samples of each task", "all"
    tasks = get_suite(evaluation.suite, evaluation.size).tasks
    for unit in evaluation.units:
        variant = unit.settings.get("settings_variant", "published")
        if variant != "published":
            yield f"RULER's settings are {variant}, not the published ones", unit.name
        task = tasks.get(unit.task)
        shots = unit.settings.get("num_fewshot")
        if task and None not in (task.num_fewshot, shots) and shots != task.num_fewshot:
            yield f"{shots} examples in the prompt, not {task.num_fewshot}", unit.name


def _checks(entries: Sequence[Entry]) -> Table:
    """Return the checks of the gates that failed or compared something."""
    rows = []
    for entry in entries:
        for check in entry.gate.checks if entry.gate else ():
            # a check that only says that a unit is whole is not worth a row
            if not check.ok or check.expected is not None:
                row = {
                    "model": entry.name,
                    "verdict": _verdict(check.ok),
                    "check": check.name,
                    "found": check.found,
                    "expected": check.expected,
                    "reason": check.reason,
                }
                rows.append(row)
    failed = sum(row["verdict"] == _verdict(False) for row in rows)
    return table(f"Gate: {failed} of {len(rows)} checks failed", rows)
