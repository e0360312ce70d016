"""Reader of a run's files for its reports. Missing or damaged files are listed, never fatal."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from evaluation.gates import GATE, mean_name, ruler_means, standard_error
from evaluation.results import EVALUATION, Evaluation, Unit, read_evaluation
from evaluation.suites import LONG_CONTEXT, get_suite, suite_names
from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from recipes.common.json_files import is_number, read_json_lines, read_record
from recipes.registry.resolve import Recipe
from recipes.registry.stages import STAGES
from recipes.reports.document import printable
from recipes.runs.merge_manifest import MERGE_MANIFEST, MergeManifest
from recipes.runs.run_folder import require_run_folder
from recipes.runs.stage_folder import resolve_recorded
from recipes.runs.stage_manifest import MANIFEST, StageManifest, read_manifest

Value = TypeVar("Value")
# key of steps.jsonl -> the steps that have it, and its values
Curve = tuple[list[float], list[float]]
Metrics = dict[str, tuple["array[float]", "array[float]"]]

METRICS = "metrics/steps.jsonl"
MEAN = "mean"
REMEDY = "the report goes without it"


class Problems(list[str]):
    """Files of a folder that could not be read, a sentence each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def note(self, problem: object) -> None:
        """Add a problem, an error or a sentence, with paths relative to the folder."""
        sentence = " ".join(str(problem).split())
        self.append(sentence.replace(f"{self.folder}/", "")[:400])

    def read(self, reader: Callable[[Path], Value], path: Path) -> Value | None:
        """Return what ``reader`` returns for ``path``; None and a note for a damaged file."""
        try:
            return reader(path)
        except UserError as error:
            self.note(error)
            return None


@dataclass(frozen=True)
class Gate:
    """What ``gate.json`` holds."""

    passed: bool
    checks: list[CheckResult]


@dataclass(frozen=True)
class Entry:
    """An evaluation in a report.

    Attributes:
        name: of its columns.
        path: of its folder, relative to the run's.
        evaluation: what was measured.
        gate: None where it has not been run, or is damaged.
        before: the units to compare with, by name.
    """

    name: str
    path: str
    evaluation: Evaluation
    gate: Gate | None
    before: Mapping[str, Unit] = field(default_factory=dict)

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The results by name, RULER's means over the tasks at a length among them."""
        units = {}
        if self.evaluation.suite == LONG_CONTEXT:
            for length, (score, stderr) in ruler_means(self.evaluation).items():
                units[mean_name(length)] = Unit(MEAN, length, MEAN, score, stderr, 0, 0)
        return units | {unit.name: unit for unit in self.evaluation.units}

    def is_final_of(self, stage: str) -> bool:
        """Whether it is of a stage's final model."""
        return self.evaluation.stage == stage and not self.evaluation.label

    def difference(self, name: str) -> float | None:
        """Return by how much a unit's score is greater than before, if both are finite."""
        if name not in self.units or name not in self.before:
            return None
        difference = self.units[name].score - self.before[name].score
        return difference if math.isfinite(difference) else None

    def z(self, name: str) -> float | None:
        """Return by how many standard errors of the difference a unit is better than before."""
        difference = self.difference(name)
        if difference is None:
            return None
        unit = self.units[name]
        stderr = math.hypot(standard_error(self.before[name]), standard_error(unit))
        if not unit.higher_is_better:
            difference = -difference
        return difference / stderr if stderr else None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for JSON."""
        gate = asdict(self.gate) if self.gate else None
        return {"path": self.path, **asdict(self.evaluation), "gate": gate}


@dataclass(frozen=True)
class StageReport:
    """A stage as its files describe it.

    Attributes:
        name: of the stage and of its folder.
        manifest: None where it is missing or damaged.
        recipe: with the recorded schedule and mixture; None where those are damaged.
        metrics: of ``steps.jsonl``.
        tokens_before: read by the run before the stage.
        evaluations: of its final model.
    """

    name: str
    manifest: StageManifest | None
    recipe: Recipe | None
    metrics: Metrics
    tokens_before: int
    evaluations: list[Entry]

    def get(self, key: str) -> Any:
        """Return the manifest's value of ``key``, None without a manifest."""
        return getattr(self.manifest, key, None)

    @property
    def progress(self) -> tuple[int, int]:
        """Steps that are done, and their tokens."""
        steps, tokens = self.metrics.get("tokens", ((0,), (0,)))
        return int(steps[-1]), int(tokens[-1])

    def curve(self, key: str, start: float = 0.0, shift: float = 0.0) -> Curve:
        """Return tokens from ``start``, ``shift`` steps later, and a key's values at them."""
        steps, values = self.metrics.get(key, ((), ()))
        last_step, tokens = self.progress
        tokens_per_step = tokens / max(last_step, 1)
        return [start + (step + shift) * tokens_per_step for step in steps], list(values)

    @property
    def below_entropy(self) -> float | None:
        """Share by which the validation loss lies below the unigram entropy."""
        loss = self.get("validation_loss")
        entropy = self.get("unigram_entropy")
        return 1 - loss / entropy if loss and entropy else None

    @property
    def tokens_done(self) -> int:
        """Tokens that the stage has read so far."""
        # the manifest has the last word on a finished stage, steps.jsonl on a running one
        if self.manifest and self.manifest.is_finished:
            return self.manifest.tokens
        return self.progress[1]

    @property
    def tokens_of_the_run(self) -> int:
        """Tokens that the run has read up to and including the stage."""
        return self.tokens_before + self.tokens_done


def read_stages(problems: Problems) -> list[StageReport]:
    """Return the stages of a run that have begun, in the chain's order."""
    require_run_folder(problems.folder)
    entries = read_entries(problems)
    stages: list[StageReport] = []
    tokens = 0
    for name in STAGES:
        folder = problems.folder / name
        if not folder.is_dir():
            continue
        if not (folder / MANIFEST).exists():
            problems.note(f"{folder / MANIFEST}: no such file; {REMEDY}")
        stage = StageReport(
            name=name,
            manifest=problems.read(read_manifest, folder),
            recipe=problems.read(resolve_recorded, folder),
            metrics=_read_metrics(folder / METRICS, problems),
            tokens_before=tokens,
            evaluations=[entry for entry in entries if entry.is_final_of(name)],
        )
        stages.append(stage)
        tokens = stage.tokens_of_the_run
    return stages


def _read_metrics(path: Path, problems: Problems) -> Metrics:
    metrics: Metrics = {}
    damaged: list[int] = []
    left_out: Counter[str] = Counter()
    try:
        for line in read_json_lines(path, damaged):
            step = line.pop("step", None)
            if not is_number(step) or step < 1:
                damaged.append(0)
                continue
            for key, value in line.items():
                if not is_number(value):
                    left_out[f"values of {key!r} that are no finite numbers"] += 1
                    continue
                steps, values = metrics.setdefault(key, (array("d"), array("d")))
                steps.append(step)
                values.append(value)
    except UserError as error:
        problems.note(f"{error}; {REMEDY}")

    left_out["damaged lines"] = len(damaged)
    for what, count in left_out.items():
        if count:
            problems.note(f"{path}: {what} left out: {count:,}")
    return metrics


def read_merges(problems: Problems) -> Iterator[tuple[str, MergeManifest]]:
    """Yield path and manifest of the merges next to stages, in them and in their checkpoints."""
    paths: list[Path] = []
    for folders in ("*", "*/*", "*/checkpoints/*"):
        paths += problems.folder.glob(f"{folders}/{MERGE_MANIFEST}")
    for path in sorted(paths):
        merge = problems.read(lambda path: read_record(MergeManifest, path, REMEDY), path)
        if merge:
            yield str(path.relative_to(problems.folder)), merge


def evaluation_folders(run_folder: Path) -> list[Path]:
    """Return the folder of every evaluation of a run."""
    return [path.parent for path in sorted(run_folder.glob(f"*/eval/*/{EVALUATION}"))]


def read_entries(problems: Problems) -> list[Entry]:
    """Return the evaluations of a run by stage, the final model of each last.

    Each is compared with the last one of the same suite of a stage before.
    """
    found = []
    for folder in evaluation_folders(problems.folder):
        entry = problems.read(lambda path: read_entry(path, problems), folder)
        if entry:
            found.append(entry)

    entries: list[Entry] = []
    for entry in sorted(found, key=_order):
        for other in entries:
            is_same = other.evaluation.suite == entry.evaluation.suite
            if is_same and other.evaluation.stage != entry.evaluation.stage:
                entry = replace(entry, before=other.units)
        entries.append(entry)
    return entries


def _order(entry: Entry) -> tuple[int, bool, int, str]:
    stages = [*STAGES, entry.evaluation.stage]
    suite = suite_names().index(entry.evaluation.suite)
    label = entry.evaluation.label
    return stages.index(entry.evaluation.stage), not label, suite, label


def read_entry(folder: Path, problems: Problems) -> Entry:
    """Read the evaluation in ``folder`` and its gate; a gate that is damaged is a problem.

    Raises:
        UserError: no evaluation, or a damaged one.
    """
    evaluation = read_evaluation(folder)
    path = folder / EVALUATION
    try:
        get_suite(evaluation.suite, evaluation.size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for unit in evaluation.units:
        if unit.length is not None and unit.length < 1:
            raise UserError(
                f"{path}: {unit.name} has a length that is not positive; evaluate again"
            )

    gate = None
    if (folder / GATE).exists():
        remedy = "run `granite41 eval gate` again"
        gate = problems.read(lambda path: read_record(Gate, path, remedy), folder / GATE)
    name = f"{evaluation.stage or Path(evaluation.model).name} {evaluation.label}"
    place = str(folder.relative_to(problems.folder))
    return Entry(printable(name.strip()), place, evaluation, gate)
