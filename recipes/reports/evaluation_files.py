"""Reader of evaluations for reports, and the statistics between two of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.gates import GATE, standard_error
from evaluation.results import EVALUATION, Evaluation, Unit, read_evaluation
from evaluation.suites import suite_names
from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json
from recipes.registry.stages import STAGES
from recipes.reports.values import IMPLAUSIBLE, Problems
from recipes.spec.sizes import SIZES

# a difference of more standard errors is marked
MARKED = 2.0
REMEDY = "run `granite41 eval` into this folder again"
GATE_REMEDY = "run `granite41 eval gate` again"
GATE_TYPES = {"passed": bool, "checks": list}


@dataclass(frozen=True)
class Entry:
    """An evaluation of a run.

    Attributes:
        path: of its folder, relative to the run's.
        evaluation: what was measured.
        gate: what ``gate.json`` holds, or None.
    """

    path: str
    evaluation: Evaluation
    gate: dict[str, Any] | None

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

    @cached_property
    def by_length(self) -> dict[int, list[Unit]]:
        """RULER's results by length in tokens, ascending."""
        units: dict[int, list[Unit]] = {}
        for unit in self.evaluation.units:
            if unit.length:
                units.setdefault(unit.length, []).append(unit)
        return dict(sorted(units.items()))

    @property
    def corpora(self) -> set[str | None]:
        """Where the units' texts come from."""
        return {unit.corpus for unit in self.evaluation.units}

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for JSON."""
        return {"path": self.path, **asdict(self.evaluation), "gate": self.gate}


def evaluation_paths(run_folder: Path) -> list[Path]:
    """Return every ``evaluation.json`` of a run."""
    return sorted(run_folder.glob(f"*/eval/*/{EVALUATION}"))


def read_entries(run_folder: Path) -> tuple[list[Entry], list[str]]:
    """Return a run's evaluations by stage, its final model last, and what could not be read."""
    entries: list[Entry] = []
    problems = Problems(run_folder)
    for path in evaluation_paths(run_folder):
        try:
            entries.append(read_entry(path.parent, problems))
        except UserError as error:
            problems.note(error)

    entries.sort(key=_order)
    return entries, problems


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
    parse_record(Evaluation, asdict(evaluation), str(path), REMEDY)
    for fault in _faults(evaluation):
        raise UserError(f"{path}: is no evaluation ({fault}); {REMEDY}")

    try:
        gate = _read_gate(folder / GATE)
    except UserError as error:
        problems.note(error)
        gate = None
    return Entry(str(folder.relative_to(problems.folder)), evaluation, gate)


def _read_gate(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    gate = read_json(path, GATE_REMEDY)
    for key, expected in GATE_TYPES.items():
        if not isinstance(gate.get(key), expected):
            raise UserError(
                f"{path}: key {key!r} holds {gate.get(key)!r:.60}, expected a "
                f"{expected.__name__}; {GATE_REMEDY}"
            )
    return gate


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


def regressions(entries: Sequence[Entry]) -> dict[tuple[int, str], float]:
    """Return (position in ``entries``, unit) -> z of each unit that is worse than one stage before.

    The earlier stage's final model counts, or where it was not evaluated its last one. Worse is by
    more than :data:`MARKED` standard errors of the difference.
    """
    worse = {}
    for position, entry in enumerate(entries):
        stage = entry.evaluation.stage
        # entries are sorted by stage, the final model of each last
        earlier = [other for other in entries[:position] if other.evaluation.stage != stage]
        if not earlier:
            continue
        previous = earlier[-1].units
        for name in entry.units.keys() & previous.keys():
            z = z_score(previous[name], entry.units[name])
            if z is not None and z < -MARKED:
                worse[position, name] = z

    return dict(sorted(worse.items()))
