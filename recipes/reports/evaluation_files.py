"""Reader of evaluations for reports, and the statistics between two of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.gates import GATE, standard_error
from evaluation.results import EVALUATION, Evaluation, Unit, read_evaluation
from evaluation.suites import suite_names
from recipes.common.check_result import CheckResult
from recipes.common.errors import UserError
from recipes.common.json_files import read_record
from recipes.registry.stages import STAGES
from recipes.reports.values import IMPLAUSIBLE, Problems
from recipes.spec.sizes import SIZES

# a difference of more standard errors is marked
MARKED = 2.0
REMEDY = "run `granite41 eval` into this folder again"
GATE_REMEDY = "run `granite41 eval gate` again"


@dataclass(frozen=True)
class Gate:
    """What ``gate.json`` holds."""

    passed: bool
    checks: list[CheckResult]


@dataclass(frozen=True)
class Entry:
    """An evaluation of a run.

    Attributes:
        path: of its folder, relative to the run's.
        evaluation: what was measured.
        gate: None where it has not been run, or is damaged.
        worse: unit -> z of what :func:`mark_regressions` found.
    """

    path: str
    evaluation: Evaluation
    gate: Gate | None
    worse: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage, and the label of what is not the stage's final model."""
        model = self.evaluation.stage or Path(self.evaluation.model).name
        return f"{model} {self.evaluation.label}".strip()

    @property
    def identity(self) -> tuple[str | None, str, str]:
        """Stage, suite and label, by which two runs are compared."""
        return self.evaluation.stage, self.evaluation.suite, self.evaluation.label

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The results by name of the unit."""
        return {unit.name: unit for unit in self.evaluation.units}

    @property
    def lengths(self) -> list[int]:
        """RULER's lengths in tokens, ascending."""
        return sorted({unit.length for unit in self.evaluation.units if unit.length})

    @property
    def is_fallback(self) -> bool:
        """Whether a unit's texts are not the published ones."""
        return any(unit.corpus == "fallback" for unit in self.evaluation.units)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for JSON."""
        gate = asdict(self.gate) if self.gate else None
        return {"path": self.path, **asdict(self.evaluation), "gate": gate}


def evaluation_paths(run_folder: Path) -> list[Path]:
    """Return every ``evaluation.json`` of a run."""
    return sorted(run_folder.glob(f"*/eval/*/{EVALUATION}"))


def read_entries(run_folder: Path, problems: Problems) -> list[Entry]:
    """Return a run's evaluations by stage, the final model of each last."""
    entries: list[Entry] = []
    for path in evaluation_paths(run_folder):
        entry = problems.read_or_note(lambda file: read_entry(file.parent, problems), path)
        if entry:
            entries.append(entry)

    entries.sort(key=_order)
    return entries


def _order(entry: Entry) -> tuple[int, bool, int, str]:
    stage, suite, label = entry.identity
    positions = {name: position for position, name in enumerate(STAGES)}
    is_final = not label
    return positions.get(str(stage), len(STAGES)), is_final, suite_names().index(suite), label


def read_entry(folder: Path, problems: Problems) -> Entry:
    """Read the evaluation in ``folder`` and its gate; a gate that is damaged is a problem.

    Raises:
        UserError: no evaluation, or a damaged one.
    """
    path = folder / EVALUATION
    evaluation = read_evaluation(folder)
    for fault in _faults(evaluation):
        raise UserError(f"{path}: is no evaluation ({fault}); {REMEDY}")

    gate = None
    if (folder / GATE).exists():
        gate = problems.read_or_note(_read_gate, folder / GATE)
    return Entry(str(folder.relative_to(problems.folder)), evaluation, gate)


def _read_gate(path: Path) -> Gate:
    return read_record(Gate, path, GATE_REMEDY)


def _faults(evaluation: Evaluation) -> Iterator[str]:
    """Yield values that no evaluation has, though their types are right."""
    if evaluation.suite not in suite_names():
        yield f"unknown suite {evaluation.suite[:40]!r}"
    if evaluation.size not in SIZES:
        yield f"unknown size {evaluation.size[:40]!r}"

    for unit in evaluation.units:
        numbers = [value for value in vars(unit).values() if isinstance(value, int | float)]
        # a model may score infinity, which the reports say
        if any(IMPLAUSIBLE <= abs(number) < math.inf for number in numbers):
            yield f"{unit.name} has a number beyond all bounds"
        if unit.length is not None and unit.length < 1:
            yield f"{unit.name} has a length that is not positive"


def z_score(before: Unit, after: Unit) -> float | None:
    """Return by how many standard errors of the difference ``after`` is better than ``before``."""
    stderr = math.hypot(standard_error(before), standard_error(after))
    gain = after.score - before.score
    if not stderr or not math.isfinite(gain):
        return None
    return gain / stderr if after.higher_is_better else -gain / stderr


def mark_regressions(entries: Sequence[Entry]) -> None:
    """Mark what is worse than one stage before, by more than :data:`MARKED` standard errors.

    The earlier stage's final model counts, or where it was not evaluated its last one.

    Args:
        entries: of one suite, as :func:`read_entries` orders them.
    """
    for position, entry in enumerate(entries):
        stage = entry.evaluation.stage
        earlier = [other for other in entries[:position] if other.evaluation.stage != stage]
        if not earlier:
            continue
        previous = earlier[-1].units
        for name in entry.units.keys() & previous.keys():
            z = z_score(previous[name], entry.units[name])
            if z is not None and z < -MARKED:
                entry.worse[name] = z
