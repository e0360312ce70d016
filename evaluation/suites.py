"""The suites as data (``suites.yaml``) and IBM's scores (``facts.yaml``). Plain: no lm-eval."""

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
_NOT_SUITES = ("tiny", "suites_after_stage")
_PUBLISHED_SIZES = ("3b", "8b", "30b")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of a suite, as ``suites.yaml`` explains at its top.

    Attributes:
        name: the project's, which is also its key in ``facts.yaml``.
        metric: lm-eval's key ``metric,filter``, or several joined by :data:`MEAN`; empty where
            unavailable.
        lm_eval: lm-eval's name of the task or group; None for RULER's, whose task file is written
            for each unit.
        folders: where its YAML files are, relative to lm-eval's ``tasks``.
        own: file in :data:`OWN_TASKS`, or None.
        num_fewshot: examples in the prompt; None for what the task's file says.
        max_gen_toks: tokens of an answer, or None for what the task's file says.
        chat_template: whether prompts go through the tokenizer's chat template.
        unsafe_code: whether code that the model writes is run.
        percent: whether the metric is a share.
        least: a score below which a gate fails, or None.
        needs: requirements that lm-eval's base installation does not meet.
        note: assumptions, and differences from IBM's setting.
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
    least: float | None = None
    needs: tuple[str, ...] = ()
    note: str | None = None
    unavailable: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite for one size.

    Attributes:
        name: its name on the command line.
        title: its name in reports.
        tasks: the benchmarks by name.
        samples: documents of each task; None for all.
        unit_tokens: RULER: prompt tokens of a unit above which it scores fewer samples; None for
            no limit.
        batch_size: prompts at once; ``auto`` lets lm-eval find it.
        seconds: time limit of a unit.
    """

    name: str
    title: str
    tasks: dict[str, Benchmark]
    samples: int | None
    unit_tokens: int | None
    batch_size: str
    seconds: float


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites."""
    return tuple(name for name in _read_suites() if name not in _NOT_SUITES)


def get_suite(name: str, size: str) -> Suite:
    """Return the suite ``name`` with the settings for ``size``.

    Raises:
        UserError: an unknown suite or size.
    """
    row = _row(name, size)
    tasks = {}
    for task, values in row["tasks"].items():
        tasks[task] = _benchmark(task, values, row["chat_template"])
    return Suite(
        name=name,
        title=row["title"],
        tasks=tasks,
        samples=row["samples"],
        unit_tokens=row.get("unit_tokens"),
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
    # for tiny two suites may have the same substitute
    names = _read_suites()["suites_after_stage"][STAGES[stage].kind]
    if SIZES[size].is_tiny:
        substitutes = _read_suites()["tiny"]["substitutes"]
        names = [substitutes.get(name, name) for name in names]
    return tuple(dict.fromkeys(names))


def lengths(size: str, sequence_length: int) -> list[int]:
    """Return RULER's lengths for a model of ``sequence_length`` tokens, in tokens and ascending.

    They are the suite's, and the model's own as far as the suite has no longest one.

    Raises:
        UserError: an unknown size, or a length that is not positive.
    """
    row = _row(LONG_CONTEXT, size)
    if sequence_length < 1:
        raise UserError(
            f"sequence length {sequence_length}: expected a positive number of tokens; correct it"
        )
    last = min(sequence_length, row.get("longest", sequence_length))

    # the first length, then multiples of it, below the last
    chosen = {last}
    length = row["first_length"]
    while length < last:
        chosen.add(length)
        length *= row["length_factor"]
    return sorted(chosen)


def samples(suite: str, size: str) -> int | None:
    """Return how many documents of each task are scored, None for all of them.

    Raises:
        UserError: an unknown suite or size.
    """
    return get_suite(suite, size).samples


def units(
    suite: str,
    size: str,
    ruler_lengths: Sequence[int] = (),
    tasks: Iterable[str] = (),
) -> list[tuple[Benchmark, int | None]]:
    """Return the (task, length) pairs of a suite without unavailable tasks; RULER's by length.

    Args:
        suite: its name.
        size: model size.
        ruler_lengths: tokens, see :func:`lengths`; only ``long-context`` has them.
        tasks: names to choose, or none for all.

    Raises:
        UserError: an unknown suite, size or task; a chosen task that is unavailable; lengths for a
            suite that has none, or none for one that does.
    """
    benchmarks = get_suite(suite, size).tasks
    if bool(ruler_lengths) != (suite == LONG_CONTEXT):
        raise UserError(
            f"suite {suite}: lengths belong to {LONG_CONTEXT} and only to it; "
            f"give them there or leave out"
        )
    # a task that is named must exist and run
    names = list(tasks)
    for name in names:
        benchmark = _find(suite, benchmarks, name)
        if benchmark.unavailable:
            raise UserError(
                f"suite {suite}, task {name}: cannot be run, {benchmark.unavailable}; leave it out"
            )

    chosen = []
    for name, benchmark in benchmarks.items():
        is_selected = not names or name in names
        if is_selected and not benchmark.unavailable:
            chosen.append(benchmark)
    pairs: list[tuple[Benchmark, int | None]] = []
    for length in ruler_lengths or (None,):
        pairs += [(benchmark, length) for benchmark in chosen]
    return pairs


def unavailable(suite: str, size: str) -> dict[str, str]:
    """Return the benchmarks of a suite that cannot be run here -> the reason."""
    reasons = {}
    for name, benchmark in get_suite(suite, size).tasks.items():
        if benchmark.unavailable:
            reasons[name] = benchmark.unavailable
    return reasons


def task_folders(benchmark: Benchmark) -> tuple[str, ...]:
    """Return the folders that lm-eval has to index for a benchmark, the project's own last.

    Raises:
        UserError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("lm-eval: not installed, but every suite needs it; run `make setup`")
    tasks = Path(spec.origin).parent / "tasks"

    folders = [str(tasks / folder) for folder in benchmark.folders]
    if benchmark.own:
        folders.append(str((OWN_TASKS / benchmark.own).parent))
    return tuple(folders)


def read_score(metric: str, row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return score and standard error of ``metric`` in lm-eval's row, both in the metric's unit.

    For a mean of several metrics over the same documents the standard error is the mean of theirs,
    which it cannot exceed; None where one of them has none.

    Raises:
        KeyError: the row lacks the metric.
    """
    keys = metric.split(MEAN)
    score = sum(row[key] for key in keys) / len(keys)

    # lm-eval's key of an error is NAME_stderr,FILTER, its value N/A where it has none
    errors = []
    for key in keys:
        name, _, filters = key.partition(",")
        error = row.get(f"{name}_stderr,{filters}")
        if not isinstance(error, int | float) or not math.isfinite(error):
            return score, None
        errors.append(error)
    return score, sum(errors) / len(keys)


def setting(suite: str, benchmark: str) -> str | None:
    """Return IBM's words for a benchmark's setting, or None where it gives none."""
    # RULER's rows are means at each length
    if suite == LONG_CONTEXT:
        return None
    return _published(suite).get(benchmark, {}).get("setting")


def reference(
    suite: str,
    benchmark: str,
    size: str,
) -> float | None:
    """Return IBM's published score in percent, or None where the size or suite has none.

    Raises:
        UserError: an unknown suite or size, or a benchmark that the suite does not have.
    """
    _find(suite, get_suite(suite, size).tasks, benchmark)
    row = _published(suite).get(benchmark)
    if row is None or size not in _PUBLISHED_SIZES or suite == LONG_CONTEXT:
        return None
    return float(row["scores"][_PUBLISHED_SIZES.index(size)])


def ruler_references(size: str) -> dict[int, float]:
    """Return IBM's RULER means over the thirteen tasks, length in tokens -> percent."""
    means = _published(LONG_CONTEXT).get(size, {})
    return {int(length): float(score) for length, score in means.items()}


def _find(
    suite: str,
    benchmarks: Mapping[str, Benchmark],
    name: str,
) -> Benchmark:
    if name not in benchmarks:
        raise UserError(
            f"suite {suite} has no task {name!r}{nearest(name, benchmarks)}; "
            f"it has {', '.join(benchmarks)}"
        )
    return benchmarks[name]


def _published(suite: str) -> dict[str, Any]:
    require_known("suite", suite, dict.fromkeys(suite_names()))
    key = _read_suites()[suite].get("facts")
    if not key:
        return {}
    return _read_facts()[key]


def _row(suite: str, size: str) -> dict[str, Any]:
    require_known("suite", suite, dict.fromkeys(suite_names()))
    require_known("size", size, SIZES)
    content = _read_suites()
    if not SIZES[size].is_tiny:
        return content[suite]
    return content[suite] | content["tiny"].get(suite, {})


def _benchmark(
    name: str,
    values: Mapping[str, Any],
    chat_template: bool,
) -> Benchmark:
    # a task's own chat template goes before the suite's; one folder is written as a text
    settings = {"chat_template": chat_template, **values}
    folder = settings.pop("folder", ())
    benchmark = Benchmark(name, **settings)
    return replace(
        benchmark,
        folders=(folder,) if isinstance(folder, str) else tuple(folder),
        needs=tuple(benchmark.needs),
    )


@cache
def _read_suites() -> dict[str, Any]:
    return _load(Path(__file__).with_name("suites.yaml"))


@cache
def _read_facts() -> dict[str, Any]:
    return _load(_FACTS)


def _load(path: Path) -> dict[str, Any]:
    # libyaml's safe loader takes a tenth of the time of safe_load
    return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
