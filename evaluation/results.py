"""The files of an evaluation: ``evaluation.json``, which gates and reports read, and its units.

An evaluation is of one model by one suite, in a folder of its own::

    evaluation.json         everything below, gathered
    units/TASK[@LENGTH]/    one (task, length): unit.json, lm-eval's results_*.json, samples_*.jsonl
    gate.json               the checks of the gate, once it has run

In a run's folder evaluations are at ``RUN/STAGE/eval/NAME``. NAME is the suite, followed by a dash
and the label for a model that is not the stage's final one: ``long-context``,
``long-context-unmerged``, ``long-context-weight-0.3``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import read_record, write_record

EVALUATION = "evaluation.json"
UNIT = "unit.json"
UNITS = "units"


@dataclass(frozen=True)
class Unit:
    """The result of one task, for RULER at one length.

    Attributes:
        task: its name in the suite.
        length: tokens of prompt and answer together; None for tasks that have no length.
        metric: lm-eval's key for it, such as ``acc,none``.
        score: in percent where ``percent`` holds, else in the metric's own unit, as bits per byte.
        stderr: standard error of ``score``, in its unit; None where it is not known.
        samples: documents that were scored.
        expected: documents that the task should have had.
        truncated: prompts that the backend had to cut.
        fill_min: least share of ``length`` that a prompt and its reserved answer take; None without
            a length.
        fill_mean: the mean of the same.
        corpus: ``published`` or ``fallback`` texts; None for a task without such texts.
        higher_is_better: False for a metric such as bits per byte.
        percent: whether the score is a share in percent.
        seconds: wall-clock time of the unit.
        settings: everything else that the score depends on: few-shot count, chat template,
            lm-eval's task version and hash, RULER's parameters.
    """

    task: str
    length: int | None
    metric: str
    score: float
    stderr: float | None
    samples: int
    expected: int
    truncated: int = 0
    fill_min: float | None = None
    fill_mean: float | None = None
    corpus: str | None = None
    higher_is_better: bool = True
    percent: bool = True
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``task`` or ``task@length``: its key in lists of units."""
        return unit_name(self.task, self.length)


@dataclass(frozen=True)
class Evaluation:
    """One model by one suite.

    Attributes:
        suite: its name.
        size: model size.
        stage: the stage that trained the model, or None for a model of another origin.
        label: what sets it apart from the stage's final model: ``unmerged``, ``weight-0.3``; or
            empty.
        model: where it was read from.
        fingerprint: SHA-256 (hex) that tells models apart.
        backend: its name and settings, and what a server says of its model.
        limit: samples of every task, or None for all.
        expected: name of every unit that the suite has.
        units: those that have a result.
        failures: name of a unit without a result -> the reason, one sentence.
        versions: library -> version; ``code`` is the project's commit.
        finished: when it ended, ISO 8601 in UTC.
        left_out: benchmark of the suite that was not run -> the reason; not in ``expected``.
    """

    suite: str
    size: str
    stage: str | None
    label: str
    model: str
    fingerprint: str
    backend: dict[str, Any]
    limit: int | None
    expected: list[str]
    units: list[Unit]
    failures: dict[str, str]
    versions: dict[str, str]
    finished: str
    left_out: dict[str, str] = field(default_factory=dict)


def unit_name(task: str, length: int | None) -> str:
    """Return ``task``, or ``task@length`` where it has one."""
    return task if length is None else f"{task}@{length}"


def evaluation_name(suite: str, label: str) -> str:
    """Return the name of an evaluation's folder in a stage's ``eval``."""
    return f"{suite}-{label}" if label else suite


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation.json`` in ``folder``, whole or not at all."""
    write_record(folder / EVALUATION, evaluation)


def read_evaluation(folder: Path) -> Evaluation:
    """Read ``folder``'s evaluation.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_record(
        Evaluation,
        folder / EVALUATION,
        "run `granite41 eval` into this folder",
    )


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds an evaluation with a result for each of its units.

    Raises:
        UserError: its evaluation is damaged.
    """
    if not (folder / EVALUATION).exists():
        return False
    # units that were left out are in neither list
    evaluation = read_evaluation(folder)
    return len(evaluation.units) == len(evaluation.expected)


def read_unit(folder: Path) -> Unit | None:
    """Return the result in a unit's folder, or None where it is missing or damaged."""
    # such a unit is scored again
    try:
        return read_record(Unit, folder / UNIT, "")
    except UserError:
        return None
