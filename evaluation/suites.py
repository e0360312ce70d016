"""The suites as data (``suites.yaml``), and IBM's published scores for them (``facts.yaml``). Plain: no lm-eval."""

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recipes.common.errors import UserError, nearest
from recipes.registry.resolve import require_known
from recipes.registry.stages import STAGES
from recipes.spec.sizes import SIZES

OWN_TASKS = Path(__file__).parent / "tasks"
LONG_CONTEXT = "long-context"
MEAN = " + "
_FACTS = Path(__file__).parents[1] / "recipes/facts.yaml"
_NOT_SUITES = ("tiny", "after")
_PUBLISHED_SIZES = ("3b", "8b", "30b")


@dataclass(frozen=True)
class Task:
    """A benchmark of a suite, as ``suites.yaml`` explains at its top.

    Attributes:
        name: ours, which is also its key in ``facts.yaml``.
        metric: lm-eval's key ``metric,filter``, or several joined by :data:`MEAN`; empty where unavailable.
        lm_eval: lm-eval's name of the task or group; None for RULER's, whose task file is generated.
        folders: where its YAML files are, relative to lm-eval's ``tasks``.
        own: file in :data:`OWN_TASKS`, or None.
        num_fewshot: examples in the prompt; None for what the task's file says.
        max_gen_toks: tokens of an answer, or None for what the task's file says.
        chat_template: whether prompts go through the tokenizer's chat template.
        unsafe_code: whether what the model wrote is run.
        percent: whether the metric is a share.
        needs: what must be there beside lm-eval's base installation.
        note: what is assumed about it, or how its setting differs from IBM's.
        unavailable: why it cannot be run here, or None.
    """

    name: str
    metric: str = ""
    lm_eval: str | None = None
    folders: tuple[str, ...] = ()
    own: str | None = None
    num_fewshot: int | None = None
    max_gen_toks: int | None = None
    chat_template: bool = False
    unsafe_code: bool = False
    percent: bool = True
    needs: tuple[str, ...] = ()
    note: str | None = None
    unavailable: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite for one size.

    Attributes:
        name, title: what it is called.
        tasks: by name.
        samples: documents of each task; None for all.
        batch_size: prompts at once; ``auto`` lets lm-eval find it.
        seconds: wall-clock time of a unit after which it is given up.
    """

    name: str
    title: str
    tasks: dict[str, Task]
    samples: int | None
    batch_size: str
    seconds: float


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites."""
    return tuple(name for name in _read() if name not in _NOT_SUITES)


def get_suite(name: str, size: str) -> Suite:
    """Return the suite ``name`` with the settings for ``size``.

    Raises:
        UserError: an unknown suite or size.
    """
    row = _row(name, size)
    tasks = {
        task: _task(task, values, row["chat_template"]) for task, values in row["tasks"].items()
    }
    return Suite(
        name=name,
        title=row["title"],
        tasks=tasks,
        samples=row["samples"],
        batch_size=str(row["batch_size"]),
        seconds=float(row["seconds"]),
    )


def stage_suites(stage: str, size: str) -> tuple[str, ...]:
    """Return the names of the suites that follow ``stage``; for tiny those that need no network.

    Raises:
        UserError: an unknown stage or size.
    """
    require_known("stage", stage, STAGES)
    require_known("size", size, SIZES)
    instead = _read()["tiny"]["instead"] if SIZES[size].is_tiny else {}
    return tuple(
        dict.fromkeys(instead.get(name, name) for name in _read()["after"][STAGES[stage].kind])
    )


def lengths(size: str, sequence_length: int) -> list[int]:
    """Return RULER's lengths in tokens for a model of ``sequence_length`` tokens: the suite's, and that one itself.

    The suite may have a longest one, which then is the last.

    Raises:
        UserError: an unknown size, or a length that is not positive.
    """
    row = _row(LONG_CONTEXT, size)
    if sequence_length < 1:
        raise UserError(
            f"sequence length {sequence_length}: expected a positive number of tokens; correct it"
        )
    last = min(sequence_length, row.get("longest", sequence_length))
    found, length = {last}, row["first_length"]
    while length < last:
        found.add(length)
        length *= row["length_factor"]
    return sorted(found)


def samples(suite: str, size: str) -> int | None:
    """Return how many documents of each task are scored, None for all of them.

    Raises:
        UserError: an unknown suite or size.
    """
    return get_suite(suite, size).samples


def units(
    suite: str, size: str, ruler_lengths: Sequence[int] = (), tasks: Iterable[str] = ()
) -> list[tuple[Task, int | None]]:
    """Return the (task, length) pairs of a suite, those that are unavailable left out; RULER's by length.

    Args:
        suite: its name.
        size: model size.
        ruler_lengths: tokens, see :func:`lengths`; only ``long-context`` has them.
        tasks: names to choose, or none for all.

    Raises:
        UserError: an unknown suite, size or task; a chosen task that is unavailable; lengths for a suite that has none,
            or none for one that does.
    """
    known = get_suite(suite, size).tasks
    if bool(ruler_lengths) != (suite == LONG_CONTEXT):
        raise UserError(
            f"suite {suite}: lengths belong to {LONG_CONTEXT} and only to it; give them there or leave out"
        )
    chosen = list(tasks)
    for task in chosen:
        if task not in known:
            raise UserError(
                f"suite {suite} has no task {task!r}{nearest(task, known)}; it has {', '.join(known)}"
            )
        if reason := known[task].unavailable:
            raise UserError(f"suite {suite}, task {task}: cannot be run, {reason}; leave it out")
    wanted = [
        task
        for task in known.values()
        if not task.unavailable and (not chosen or task.name in chosen)
    ]
    return [(task, length) for length in (ruler_lengths or (None,)) for task in wanted]


def unavailable(suite: str, size: str) -> dict[str, str]:
    """Return the benchmarks of a suite that cannot be run here -> the reason."""
    return {
        task.name: task.unavailable
        for task in get_suite(suite, size).tasks.values()
        if task.unavailable
    }


def task_folders(task: Task) -> tuple[str, ...]:
    """Return the folders that lm-eval has to index for ``task``, the project's own last.

    Raises:
        UserError: lm-eval is not installed.
    """
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise UserError("lm-eval: not installed, but every suite needs it; run `make setup`")
    theirs = Path(found.origin).parent / "tasks"
    return (
        *(str(theirs / folder) for folder in task.folders),
        *([str((OWN_TASKS / task.own).parent)] if task.own else []),
    )


def read_score(metric: str, row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return score and standard error of a task's ``metric`` in lm-eval's row for it, both in the metric's unit.

    For a mean of several metrics over the same documents the standard error is the mean of theirs, which it cannot
    exceed; None where one of them has none.

    Raises:
        KeyError: the row lacks the metric.
    """
    keys = metric.split(MEAN)
    errors = [
        row.get(f"{name}_stderr,{filters}")
        for name, _, filters in (key.partition(",") for key in keys)
    ]
    finite = [error for error in errors if isinstance(error, int | float) and math.isfinite(error)]
    return (
        sum(row[key] for key in keys) / len(keys),
        sum(finite) / len(keys) if len(finite) == len(keys) else None,
    )


def setting(suite: str, benchmark: str) -> str | None:
    """Return IBM's words for a benchmark's setting, or None where it gives none."""
    row = _published(suite).get(benchmark)
    return row.get("setting") if row and suite != LONG_CONTEXT else None


def reference(suite: str, benchmark: str, size: str) -> float | None:
    """Return IBM's published score in percent, or None where there is none for the size or the suite.

    Raises:
        UserError: an unknown suite or size, or a benchmark that the suite does not have.
    """
    known = get_suite(suite, size).tasks
    if benchmark not in known:
        raise UserError(
            f"suite {suite} has no task {benchmark!r}{nearest(benchmark, known)}; it has {', '.join(known)}"
        )
    row = _published(suite).get(benchmark)
    if row is None or size not in _PUBLISHED_SIZES or suite == LONG_CONTEXT:
        return None
    return float(row["scores"][_PUBLISHED_SIZES.index(size)])


def ruler_references(size: str) -> dict[int, float]:
    """Return IBM's RULER means over the thirteen tasks of its base models, length in tokens -> percent."""
    return {
        int(length): float(score)
        for length, score in _published(LONG_CONTEXT).get(size, {}).items()
    }


def _published(suite: str) -> dict[str, Any]:
    require_known("suite", suite, dict.fromkeys(suite_names()))
    key = _read()[suite].get("facts")
    return _facts()[key] if key else {}


def _row(suite: str, size: str) -> dict[str, Any]:
    require_known("suite", suite, dict.fromkeys(suite_names()))
    require_known("size", size, SIZES)
    return _read()[suite] | (_read()["tiny"].get(suite, {}) if SIZES[size].is_tiny else {})


def _task(name: str, values: Mapping[str, Any], chat_template: bool) -> Task:
    values = dict(values)
    folder = values.pop("folder", ())
    task = Task(name, **{"chat_template": chat_template, **values})
    return replace(
        task,
        folders=(folder,) if isinstance(folder, str) else tuple(folder),
        needs=tuple(task.needs),
    )


@cache
def _read() -> dict[str, Any]:
    return _load(Path(__file__).with_name("suites.yaml"))


@cache
def _facts() -> dict[str, Any]:
    return _load(_FACTS)


def _load(path: Path) -> dict[str, Any]:
    # libyaml's safe loader takes a tenth of the time of safe_load
    return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
