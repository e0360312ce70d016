"""Run a suite on a model: each (task, length) is a unit, which lm-eval scores once and which is found again."""

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.backends import Backend
from evaluation.lm_eval_process import Job, serve
from evaluation.model_folder import Model
from evaluation.results import UNIT, Evaluation, Unit, read_unit, unit_name, write_evaluation
from evaluation.ruler.generation import Metadata, generate, samples_file
from evaluation.ruler.lm_eval_task import write_task_file
from evaluation.suites import Suite, Task, read_score, task_folders, units
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory, write_text
from recipes.common.versions import commit, versions

LOG, UNITS = "lm_eval.log", "units"
_LIBRARIES = ("lm-eval", "transformers", "torch", "datasets", "vllm")
_LOAD_SECONDS = 3600  # a 30B model from a slow disk


@dataclass(frozen=True)
class Planned:
    """One unit of a suite, before it has run.

    Attributes:
        task: what it scores.
        length: RULER's tokens, or None.
        samples: documents of each task; None for all.
        seconds: wall-clock time after which it is given up.
    """

    task: Task
    length: int | None
    samples: int | None
    seconds: float

    @property
    def name(self) -> str:
        """``task`` or ``task@length``."""
        return unit_name(self.task.name, self.length)


def plan(
    suite: Suite, size: str, lengths: Sequence[int], samples: int | None, allow_code: bool
) -> list[Planned]:
    """Return the units of ``suite``; those that run what the model writes only with ``allow_code``."""
    return [
        Planned(task, length, samples or suite.samples, suite.seconds)
        for task, length in units(suite.name, size, lengths)
        if allow_code or not task.unsafe_code
    ]


def check_context(model: Model, longest: int) -> None:
    """Raise UserError when ``longest`` tokens of prompt and answer are more than the model can attend over."""
    if longest > model.positions:
        raise UserError(
            f"{model.folder}: has {model.positions:,} positions, but {longest:,} tokens are asked for; leave out the "
            f"longer --lengths or name a model of a later stage"
        )


def evaluate(
    description: Evaluation,
    planned: Sequence[Planned],
    wanted: Sequence[Planned],
    model: Model,
    backend: Backend,
    output: Path,
    *,
    samples: Path,
    corpora: Path | None = None,
    allow_code: bool = False,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Score ``wanted`` and write ``evaluation.json`` with all units of ``planned`` that have a result.

    Args:
        description: the evaluation without units.
        planned: the whole suite.
        wanted: those of it that are to run now; what has a result already is kept.
        model: what is evaluated.
        backend: what runs it.
        output: the evaluation's folder.
        samples: folder of RULER's samples, which other evaluations with the same tokenizer share.
        corpora: fetched corpora; the fallback when None.
        allow_code: whether code that the model writes may be run, in the sandbox.
        say: called with a line of progress.

    Returns:
        The evaluation; ``failures`` names the units that could not be scored.

    Raises:
        UserError: the model cannot be loaded, a server stopped answering, or the disk is full; finished units stay.
    """
    if lengths := sorted({unit.length for unit in wanted if unit.length}):
        tasks = list(dict.fromkeys(unit.task.name for unit in wanted))
        generate(
            model.folder,
            lengths,
            wanted[0].samples or 1,
            samples,
            tasks=tasks,
            corpora=corpora,
        )
    keys = {unit.name: _key(unit, model, backend, samples) for unit in planned}
    failures: dict[str, str] = {}

    def found() -> Evaluation:
        units = [unit for name, key in keys.items() if (unit := _kept(output / UNITS / name, key))]
        return replace(
            description,
            units=units,
            failures={
                name: reason
                for name, reason in failures.items()
                if name not in {unit.name for unit in units}
            },
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    open_units = [unit for unit in wanted if not _kept(output / UNITS / unit.name, keys[unit.name])]
    if len(open_units) < len(wanted):
        say(f"{len(wanted) - len(open_units)} of {len(wanted)} units have their results already")
    output.mkdir(parents=True, exist_ok=True)
    try:
        with _Worker(backend, model.folder, output / LOG) as worker:
            progress = _Progress(open_units, say)
            for unit in open_units:
                started = time.monotonic()
                try:
                    result = _score(
                        unit, keys[unit.name], model, worker, output / UNITS, samples, allow_code
                    )
                except _Failed as failure:
                    failures[unit.name] = str(failure)
                    progress.failed(unit, str(failure))
                else:
                    progress.done(unit, result, time.monotonic() - started)
    finally:
        evaluation = found()
        # what stopped the run may be a full disk
        with suppress(UserError):
            write_evaluation(output, evaluation)
    return evaluation


def describe(
    suite: str,
    size: str,
    stage: str | None,
    label: str,
    model: Model,
    backend: Backend,
    planned: Sequence[Planned],
    limit: int | None,
    left_out: Mapping[str, str],
) -> Evaluation:
    """Return an evaluation that has no units yet."""
    settings = {
        "name": backend.name,
        "batch_size": backend.batch_size,
        "arguments": backend.arguments,
    }
    return Evaluation(
        suite=suite,
        size=size,
        stage=stage,
        label=label,
        model=str(model.folder),
        fingerprint=model.fingerprint,
        backend=settings,
        limit=limit,
        expected=[unit.name for unit in planned],
        units=[],
        failures={},
        versions={**_libraries(), "code": commit() or "unknown"},
        finished="",
        left_out=dict(left_out),
    )


class _Failed(Exception):
    """A unit has no result; the argument is the reason, half a sentence."""


class _Worker:
    """lm-eval's process: started for the first job, and again after one that took it along."""

    def __init__(self, backend: Backend, tokenizer: Path, log: Path) -> None:
        self._arguments = (backend, tokenizer, log)
        self._process: Any = None
        self._connection: Any = None

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def run(self, job: Job, seconds: float) -> dict[str, Any]:
        """Return what lm-eval found for ``job``.

        Raises:
            _Failed: it failed, took more than ``seconds``, or ended its process.
            UserError: the model could not be loaded, its server stopped answering, or the disk is full.
        """
        backend, _, log = self._arguments
        if self._process is None:
            kind, value = self._start()
            if kind != "ready":
                raise UserError(
                    f"{backend.name} cannot load the model ({value}); {log} has all of it"
                )
        self._connection.send(job)
        kind, value = self._answer(seconds)
        if kind == "done":
            return value
        if kind == "server":
            url = backend.arguments.get("base_url", "the server")
            raise UserError(
                f"{url}: stopped answering in {job.name} ({value}); finished units are kept, the same command "
                f"continues when the server answers"
            )
        if kind == "full":
            raise UserError(
                f"{log.parent}: no space left on the device in {job.name}, finished units are kept; free some and run "
                f"again"
            )
        raise _Failed(value)

    def _start(self) -> tuple[str, Any]:
        # a fork, so that a process that has lm-eval loaded needs no second import of it
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._connection, *self._arguments)
        )
        self._process.start()
        theirs.close()
        return self._answer(_LOAD_SECONDS)

    def _answer(self, seconds: float) -> tuple[str, Any]:
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
            reason = f"took more than {seconds:,.0f} s"
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            reason = (
                f"lm-eval's process was killed by signal {-code}"
                if code < 0
                else f"lm-eval ended with {code}"
            )
        self._end()
        return "failed", reason

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


class _Progress:
    """A line for each unit, with the time that is left if a token costs the same everywhere."""

    def __init__(self, units: Sequence[Planned], say: Callable[[str], None]) -> None:
        self._costs = {unit.name: unit.length or 1 for unit in units}
        self._say, self._spent, self._seconds, self._number = say, 0, 0.0, 0

    def done(self, unit: Planned, result: Unit, seconds: float) -> None:
        self._spent, self._seconds = self._spent + self._costs[unit.name], self._seconds + seconds
        left = self._seconds / self._spent * (sum(self._costs.values()) - self._spent)
        error = f" ± {result.stderr:.2f}" if result.stderr is not None else ""
        self._line(
            unit, f"{result.score:.2f}{error}, {seconds:.1f} s, about {left / 60:.0f} min left"
        )

    def failed(self, unit: Planned, reason: str) -> None:
        self._spent += self._costs[unit.name]
        self._line(unit, f"no result: {reason}")

    def _line(self, unit: Planned, text: str) -> None:
        self._number += 1
        self._say(f"[{self._number}/{len(self._costs)}] {unit.name}: {text}")


def _score(
    unit: Planned,
    key: str,
    model: Model,
    worker: _Worker,
    units: Path,
    samples: Path,
    allow_code: bool,
) -> Unit:
    folder, task = units / unit.name, unit.task
    shutil.rmtree(folder, ignore_errors=True)  # of another model, or with other settings
    started = time.monotonic()
    with atomic_directory(folder) as temporary:
        name, metadata = str(task.lm_eval), _metadata(samples, unit)
        if unit.length and metadata:
            name = str(temporary / "task.yaml")
            file, budget = (
                samples_file(samples, task.name, unit.length),
                metadata.settings["budget"],
            )
            write_task_file(Path(name), unit.name, file, task.metric.partition(",")[0], budget)
        job = Job(
            name=unit.name,
            task=name,
            folders=() if unit.length else task_folders(task),
            output=str(temporary),
            num_fewshot=task.num_fewshot,
            max_gen_toks=task.max_gen_toks,
            limit=None if unit.length else unit.samples,
            chat_template=task.chat_template,
            allow_code=allow_code and task.unsafe_code,
            positions=model.positions,
        )
        result = _unit(
            unit, worker.run(job, unit.seconds), metadata, time.monotonic() - started, key
        )
        write_text(temporary / UNIT, json.dumps(asdict(result), indent=2) + "\n")
    return result


def _unit(
    unit: Planned, result: Mapping[str, Any], metadata: Metadata | None, seconds: float, key: str
) -> Unit:
    task, row = unit.task, result["row"]
    if not result["samples"]:
        raise _Failed("lm-eval returned no samples")
    try:
        score, stderr = read_score(task.metric, row)
    except KeyError as error:
        raise _Failed(
            f"lm-eval reported {', '.join(row) or 'nothing'}, but not {task.metric}"
        ) from error
    settings = {
        "key": key,
        "num_fewshot": result["num_fewshot"],
        "chat_template": task.chat_template,
        "version": result["version"],
        "task_hashes": result["task_hashes"],
    }
    if metadata:
        settings |= {"rung": metadata.settings["name"], "budget": metadata.settings["budget"]}
    scale = 100 if task.percent else 1
    return Unit(
        task=task.name,
        length=unit.length,
        metric=task.metric,
        score=score * scale,
        stderr=None if stderr is None else stderr * scale,
        samples=result["samples"],
        expected=metadata.count if metadata else result["expected"],
        truncated=result["truncated"],
        fill_min=metadata.fill_min if metadata else None,
        fill_mean=metadata.fill_mean if metadata else None,
        corpus=metadata.kind if metadata else None,
        higher_is_better=result["higher_is_better"].get(task.metric.partition(",")[0], True),
        percent=task.percent,
        seconds=seconds,
        settings=settings,
    )


def _metadata(samples: Path, unit: Planned) -> Metadata | None:
    """Return what describes a unit's samples, which :func:`generate` has checked; None where there are none."""
    if unit.length is None:
        return None
    try:
        path = samples_file(samples, unit.task.name, unit.length).with_suffix(".json")
        return Metadata(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _key(unit: Planned, model: Model, backend: Backend, samples: Path) -> str:
    """Return a hash of all that a unit's score depends on."""
    metadata = _metadata(samples, unit)
    # an address is no setting, nor how many prompts go at once
    arguments = {
        name: value
        for name, value in backend.arguments.items()
        if name not in ("base_url", "num_concurrent")
    }
    checksum = metadata and metadata.sha256
    content = [asdict(unit), model.fingerprint, backend.name, arguments, checksum, _libraries()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _libraries() -> dict[str, str]:
    return {name: version for name, version in versions(_LIBRARIES).items() if version}


def _kept(folder: Path, key: str) -> Unit | None:
    unit = read_unit(folder)
    return unit if unit and unit.settings.get("key") == key else None
