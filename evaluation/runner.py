"""Runs a plan: each (task, length) is a unit, scored once by lm-eval and kept on disk."""

import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.backends import Backend
from evaluation.lm_eval_process import LmEvalJob
from evaluation.lm_eval_result import LmEvalResult
from evaluation.lm_eval_worker import LmEvalWorker, UnitFailed
from evaluation.plan import Plan, PlannedUnit
from evaluation.results import UNIT, UNITS, Evaluation, Unit, read_unit, write_evaluation
from evaluation.ruler.generation import Metadata, generate, samples_file
from evaluation.ruler.lm_eval_task import write_task_file
from evaluation.suites import read_score, task_folders
from evaluation.unit_key import library_versions, unit_key
from recipes.common.errors import UserError
from recipes.common.files import atomic_directory
from recipes.common.json_files import read_record, write_record
from recipes.common.progress import Progress, duration
from recipes.common.versions import commit
from recipes.model_folder.folder import ModelFolder

log = logging.getLogger(__name__)

LOG = "lm_eval.log"


@dataclass(frozen=True)
class EvaluationRun:
    """One model through the units of a plan.

    Attributes:
        plan: the units.
        model: the evaluated model.
        backend: runs it.
        output: the evaluation's folder.
        ruler_samples: folder of RULER's samples, which evaluations with the same tokenizer share.
        corpora: fetched texts of RULER; the project's own when None.
        allow_code: whether code that the model writes may be run, in the sandbox.
        stage: the stage that trained the model, or None.
        label: what sets the model apart from the stage's final one.
    """

    plan: Plan
    model: ModelFolder
    backend: Backend
    output: Path
    ruler_samples: Path
    corpora: Path | None = None
    allow_code: bool = False
    stage: str | None = None
    label: str = ""

    def run(self) -> Evaluation:
        """Score the chosen units that have no result, and write ``evaluation.json``.

        Returns:
            The evaluation with all units of the suite that have a result; ``failures`` names the
            ones that could not be scored.

        Raises:
            UserError: the model cannot be loaded, a server stopped answering, or the disk is full;
                finished units are kept.
        """
        self._generate_samples()

        keys = self.keys()
        open_units = self.open_units(keys)
        num_chosen = len(self.plan.chosen)
        num_kept = num_chosen - len(open_units)
        if num_kept:
            log.info("%d of %d units have their results already", num_kept, num_chosen)

        self.output.mkdir(parents=True, exist_ok=True)
        failures: dict[str, str] = {}
        try:
            if open_units:
                self._score_all(open_units, keys, failures)
        finally:
            evaluation = self._gather(keys, failures)
            # a full disk may be what ended the run
            with suppress(UserError):
                write_evaluation(self.output, evaluation)
        return evaluation

    def keys(self) -> dict[str, str]:
        """Return unit -> :func:`evaluation.unit_key.unit_key`, of all units of the suite."""
        keys = {}
        for unit in self.plan.units:
            samples = self._metadata(unit)
            keys[unit.name] = unit_key(
                unit,
                self.model,
                self.backend,
                samples,
            )
        return keys

    def open_units(self, keys: Mapping[str, str]) -> list[PlannedUnit]:
        """Return the chosen units that have no result with their key."""
        units = []
        for unit in self.plan.chosen:
            key = keys[unit.name]
            if self._read_result(unit.name, key) is None:
                units.append(unit)
        return units

    def _generate_samples(self) -> None:
        """Generate the missing samples of RULER's units."""
        # only RULER's units have a length
        lengths = {unit.length for unit in self.plan.chosen if unit.length}
        if not lengths:
            return
        # in the suite's order, each once
        tasks = dict.fromkeys(unit.task.name for unit in self.plan.chosen)
        generate(
            self.model.folder,
            sorted(lengths),
            self.plan.samples or 1,
            self.ruler_samples,
            tasks=list(tasks),
            corpora=self.corpora,
        )

    def _score_all(
        self,
        units: list[PlannedUnit],
        keys: Mapping[str, str],
        failures: dict[str, str],
    ) -> None:
        """Score ``units`` one after the other; ``failures`` receives those without a result."""
        with LmEvalWorker(
            self.backend,
            self.model.folder,
            self.output / LOG,
        ) as worker:
            # loading the model is no part of a unit, whose time says how long the others take
            worker.start()
            progress = Progress(sum(unit.cost for unit in units))
            for number, unit in enumerate(units, 1):
                try:
                    result = self._score(unit, keys[unit.name], worker)
                    outcome = _result_words(result)
                except UnitFailed as failure:
                    failures[unit.name] = str(failure)
                    outcome = f"no result: {failure}"

                progress.advance(unit.cost)
                if number < len(units):
                    outcome += f", about {duration(progress.seconds_left)} left"
                log.info("[%d/%d] %s: %s", number, len(units), unit.name, outcome)

    def _score(self, unit: PlannedUnit, key: str, worker: LmEvalWorker) -> Unit:
        """Score a unit into its folder, which appears whole or not at all."""
        folder = self.output / UNITS / unit.name
        # a result of another model, or with other settings
        shutil.rmtree(folder, ignore_errors=True)

        started = time.monotonic()
        with atomic_directory(folder) as temporary:
            metadata = self._metadata(unit)
            job = self._job(unit, metadata, temporary)
            scored = worker.run(job, unit.seconds)
            result = build_unit(
                unit,
                scored,
                metadata,
                seconds=time.monotonic() - started,
                key=key,
            )
            write_record(temporary / UNIT, result)
        return result

    def _job(self, unit: PlannedUnit, metadata: Metadata | None, folder: Path) -> LmEvalJob:
        task = unit.task
        name = str(task.lm_eval)
        # RULER's task file names the unit's samples
        if unit.length and metadata:
            file = folder / "task.yaml"
            samples = samples_file(self.ruler_samples, task.name, unit.length)
            metric = task.metric.partition(",")[0]
            write_task_file(
                file,
                unit.name,
                samples,
                metric,
                metadata.settings["budget"],
            )
            name = str(file)
        return LmEvalJob(
            name=unit.name,
            task=name,
            folders=() if unit.length else task_folders(task),
            output=str(folder),
            num_fewshot=task.num_fewshot,
            max_gen_toks=task.max_gen_toks,
            limit=unit.samples,
            chat_template=task.chat_template,
            allow_code=self.allow_code and task.unsafe_code,
            positions=self.backend.positions,
        )

    def _metadata(self, unit: PlannedUnit) -> Metadata | None:
        """Return the description of a unit's samples; None where it has none."""
        if unit.length is None:
            return None
        file = samples_file(self.ruler_samples, unit.task.name, unit.length)
        try:
            return read_record(Metadata, file.with_suffix(".json"), "")
        except UserError:
            return None

    def _read_result(self, name: str, key: str) -> Unit | None:
        """Return the result of a unit, or None where it has none with this key."""
        folder = self.output / UNITS / name
        unit = read_unit(folder)
        if unit is None or unit.settings.get("key") != key:
            return None
        return unit

    def _gather(self, keys: Mapping[str, str], failures: Mapping[str, str]) -> Evaluation:
        """Return the evaluation of all units that have a result by now."""
        units = []
        for name, key in keys.items():
            unit = self._read_result(name, key)
            if unit:
                units.append(unit)
        # an earlier run may have scored a unit that failed in this one
        remaining = dict(failures)
        for unit in units:
            remaining.pop(unit.name, None)

        backend = {
            "name": self.backend.name,
            "batch_size": self.backend.batch_size,
            "arguments": self.backend.arguments,
            "served": self.backend.served,
        }
        versions = library_versions(self.backend)
        versions["code"] = commit() or "unknown"
        now = datetime.now(UTC)
        return Evaluation(
            suite=self.plan.suite.name,
            size=self.plan.size,
            stage=self.stage,
            label=self.label,
            model=str(self.model.folder),
            fingerprint=self.model.fingerprint,
            backend=backend,
            limit=self.plan.samples,
            expected=[unit.name for unit in self.plan.units],
            units=units,
            failures=remaining,
            versions=versions,
            finished=now.isoformat(timespec="seconds"),
            left_out=self.plan.left_out,
        )


def build_unit(
    unit: PlannedUnit,
    scored: LmEvalResult,
    metadata: Metadata | None,
    seconds: float,
    key: str,
) -> Unit:
    """Return the result of a unit.

    Raises:
        UnitFailed: lm-eval scored no sample, or did not report the metric.
    """
    task = unit.task
    if not scored.samples:
        raise UnitFailed("lm-eval returned no samples")
    try:
        score, stderr = read_score(task.metric, scored.row)
    except KeyError as error:
        raise UnitFailed(
            f"lm-eval reported {', '.join(scored.row) or 'nothing'}, but not {task.metric}"
        ) from error
    # lm-eval's shares are fractions
    scale = 100 if task.percent else 1
    if stderr is not None:
        stderr *= scale

    metric = task.metric.partition(",")[0]
    settings: dict[str, Any] = {
        "key": key,
        "num_fewshot": scored.num_fewshot,
        "chat_template": task.chat_template,
        "version": scored.version,
        "task_hashes": scored.task_hashes,
    }
    result = Unit(
        task=task.name,
        length=unit.length,
        metric=task.metric,
        score=score * scale,
        stderr=stderr,
        samples=scored.samples,
        expected=scored.expected,
        truncated=scored.truncated,
        higher_is_better=scored.higher_is_better.get(metric, True),
        percent=task.percent,
        seconds=seconds,
        settings=settings,
    )
    if metadata is None:
        return result
    return _with_metadata(result, unit, metadata)


def _with_metadata(result: Unit, unit: PlannedUnit, metadata: Metadata) -> Unit:
    """Return a result with what its generated samples say of themselves."""
    settings = {
        **result.settings,
        # published, or smaller ones where the length is too short for those
        "settings_variant": metadata.settings["name"],
        "budget": metadata.settings["budget"],
    }
    return replace(
        result,
        expected=min(metadata.count, unit.samples or metadata.count),
        fill_min=metadata.fill_min,
        fill_mean=metadata.fill_mean,
        corpus=metadata.kind,
        settings=settings,
    )


def _result_words(result: Unit) -> str:
    score = f"{result.score:.2f}"
    if result.stderr is not None:
        score += f" ± {result.stderr:.2f}"
    return f"{score}, {result.seconds:.1f} s"
