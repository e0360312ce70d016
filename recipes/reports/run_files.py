"""Reader of a run's files for its report. Missing or damaged files are listed, never fatal."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json, read_record
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.reports.curves import Curve
from recipes.reports.values import Problems, as_number
from recipes.runs.merge_manifest import MERGE_MANIFEST, MergeManifest
from recipes.runs.stage_folder import MERGED, RECIPE, read_recipe
from recipes.runs.stage_manifest import MANIFEST, StageManifest, with_present_keys
from recipes.spec.schedules import Schedule
from recipes.spec.tree import flatten

METRICS = "metrics/steps.jsonl"
EVALUATIONS = "evaluation.html"
REMEDY = "the report goes without it"
# a step's line has about 150 bytes; longer ones are damaged
LONGEST_LINE = 1 << 16
ARTEFACTS = {
    "recipe": RECIPE,
    "manifest": MANIFEST,
    "metrics": METRICS,
    "TensorBoard": "metrics/tensorboard",
    "checkpoints": "checkpoints",
    "merged checkpoint": MERGED,
    "Hugging Face folder": "hf",
    "logs": "logs",
}
# what a schedule with damaged values raises
DAMAGES = (UserError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


@dataclass
class Metrics:
    """Curves over the stage's tokens, and the figures of its last steps.

    Attributes:
        loss, validation: in nats per token.
        lr: the base rate that the optimizer applied, over the tokens seen before the step.
        steps, tokens: of the last step.
        timed_steps: that have a speed.
        speeds: sum of theirs, in tokens per second.
        damaged_lines, infinite_losses: how many were left out.
    """

    loss: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    steps: int = 0
    tokens: int = 0
    timed_steps: int = 0
    speeds: float = 0.0
    damaged_lines: int = 0
    infinite_losses: int = 0

    def add(self, values: dict[str, Any]) -> None:
        """Add a line of ``steps.jsonl``: a training step or a validation."""
        is_validation = "val_loss" in values
        step = as_number(values.get("step"))
        tokens = as_number(values.get("tokens"))
        if step is None or step < 1 or (tokens is None and not is_validation):
            self.damaged_lines += 1
            return

        loss = as_number(values.get("val_loss" if is_validation else "loss"))
        self.infinite_losses += loss is None
        if tokens is None or is_validation:
            if loss is not None and self.steps:
                self.validation.add(step * self.tokens / self.steps, loss)
            return

        self.steps = int(step)
        self.tokens = int(tokens)
        if loss is not None:
            self.loss.add(tokens, loss)
        rate = as_number(values.get("lr"))
        if rate is not None:
            # the rate is that of the tokens before the step
            self.lr.add(tokens - tokens / step, rate)
        speed = as_number(values.get("tokens_per_second"))
        if speed is not None:
            self.timed_steps += 1
            self.speeds += speed


@dataclass
class StageReport:
    """A stage as its files describe it.

    Attributes:
        name: of the stage.
        manifest: None where it is missing or damaged.
        metrics: of ``steps.jsonl``.
        schedule: the learning rate that ``recipe.yaml`` sets; None where that is damaged.
        mixture: percent by component in the recipe.
        tokens_before: read by the run before the stage.
        artefacts: name of what the stage wrote -> its path relative to the run's folder.
        merges: path of each merge in a folder whose name starts with the stage's -> its manifest.
    """

    name: str
    manifest: StageManifest | None
    metrics: Metrics
    schedule: Schedule | None
    mixture: dict[str, float]
    tokens_before: int
    artefacts: dict[str, str]
    merges: dict[str, MergeManifest] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Return the manifest's value of ``key``, None without a manifest."""
        return getattr(self.manifest, key, None)

    @property
    def tokens_done(self) -> int:
        """Tokens that the stage has read so far."""
        # the manifest has the last word on a finished stage, steps.jsonl on a running one
        if self.manifest and self.manifest.is_finished:
            return self.manifest.tokens
        return self.metrics.tokens

    @property
    def tokens_of_the_run(self) -> int:
        """Tokens that the run has read up to and including the stage."""
        return self.tokens_before + self.tokens_done

    @property
    def checkpoint(self) -> str | None:
        """The manifest's checkpoint, relative to the run's folder; it may not exist."""
        return self.get("checkpoint") and f"{self.name}/{self.get('checkpoint')}"


@dataclass
class Run:
    """A run's stages that have begun, in the chain's order.

    Attributes:
        name: of the folder.
        stages: those that have a folder.
        merges: path -> manifest of each merge that belongs to no stage.
        problems: what could not be read.
        is_evaluated: whether the run has a report of its evaluations.
    """

    name: str
    stages: list[StageReport]
    merges: dict[str, MergeManifest]
    problems: Problems
    is_evaluated: bool


def read_run(run_folder: Path) -> Run:
    """Read all files under ``run_folder`` that its report shows."""
    problems = Problems(run_folder)
    merges = _read_merges(run_folder, problems)
    stages: list[StageReport] = []
    tokens = 0

    for name in STAGES:
        if (run_folder / name).is_dir():
            stage = _read_stage(run_folder / name, tokens, problems)
            # folders of merges are named after their stage
            paths = [path for path in merges if path.startswith(name)]
            stage.merges = {path: merges.pop(path) for path in paths}
            stages.append(stage)
            tokens = stage.tokens_of_the_run

    is_evaluated = (run_folder / EVALUATIONS).exists()
    return Run(run_folder.resolve().name, stages, merges, problems, is_evaluated)


def _read_stage(folder: Path, tokens_before: int, problems: Problems) -> StageReport:
    manifest = problems.read_or_note(_read_manifest, folder / MANIFEST)
    schedule, mixture = problems.read_or_note(_read_recipe, folder) or (None, {})
    return StageReport(
        name=folder.name,
        manifest=manifest,
        metrics=_read_metrics(folder / METRICS, problems),
        schedule=schedule,
        mixture=mixture,
        tokens_before=tokens_before,
        artefacts=_artefacts(folder, manifest),
    )


def _read_manifest(path: Path) -> StageManifest:
    values = with_present_keys(read_json(path, REMEDY))
    manifest = parse_record(StageManifest, values, str(path), REMEDY)
    if as_number(manifest.tokens) is None:
        raise UserError(f"{path}: key 'tokens' is beyond all bounds; {REMEDY}")
    return manifest


def _read_metrics(path: Path, problems: Problems) -> Metrics:
    metrics = Metrics()
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                # a last line without its newline is still being written
                if line.endswith(b"\n"):
                    metrics.add(_parse(line))
    except FileNotFoundError:
        problems.note(f"{path}: no such file; {REMEDY}")
    except OSError as error:
        problems.note(f"{path}: cannot be read ({error.strerror}); {REMEDY}")

    if metrics.damaged_lines:
        problems.note(f"{path}: damaged lines left out: {metrics.damaged_lines:,}")
    if metrics.infinite_losses:
        infinite = metrics.infinite_losses
        problems.note(f"{path}: losses left out, no finite numbers: {infinite:,}")
    return metrics


def _parse(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line, an empty one for a damaged line."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_recipe(folder: Path) -> tuple[Schedule, dict[str, float]]:
    """Return the schedule and the percentages of the mixture that a stage's recipe.yaml holds."""
    recipe = read_recipe(folder)
    try:
        stage = resolve(folder.name, recipe.size)
        names = flatten(stage.schedule, "schedule")
        overrides = [f"{name}={recipe.values[name]}" for name in names]
        schedule = resolve(folder.name, recipe.size, overrides, validate=False).schedule
        # numbers that do not fit together fail here and not in a chart
        for tokens in (0, 1):
            schedule.lr(tokens)
    except DAMAGES as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / RECIPE}: is damaged ({reason}); {REMEDY}") from error

    mixture: dict[str, float] = {}
    for name, value in recipe.values.items():
        percent = as_number(value)
        if str(name).startswith("mixture.") and percent is not None:
            mixture[name.removeprefix("mixture.")] = percent
    return schedule, mixture


def _read_merges(run_folder: Path, problems: Problems) -> dict[str, MergeManifest]:
    """Return path -> merge manifest, next to the stages, in them and in their checkpoints."""
    paths: list[Path] = []
    for folders in ("*", "*/*", "*/checkpoints/*"):
        paths += run_folder.glob(f"{folders}/{MERGE_MANIFEST}")

    merges = {}
    for path in sorted(paths):
        merge = problems.read_or_note(_read_merge, path)
        if merge:
            merges[str(path.relative_to(run_folder))] = merge
    return merges


def _read_merge(path: Path) -> MergeManifest:
    return read_record(MergeManifest, path, REMEDY)


def _artefacts(folder: Path, manifest: StageManifest | None) -> dict[str, str]:
    """Return what the stage wrote -> its path relative to the run's folder, where it exists."""
    names = ARTEFACTS
    # a path that the manifest names may lead anywhere
    if manifest and manifest.checkpoint and _is_inside(manifest.checkpoint):
        names = {"checkpoint": manifest.checkpoint.lstrip("/"), **names}
    return {
        name: f"{folder.name}/{path}" for name, path in names.items() if (folder / path).exists()
    }


def _is_inside(path: str) -> bool:
    """Return whether a path that a file names is plausible and stays in its folder."""
    return path.isprintable() and len(path) < 256 and ".." not in Path(path).parts
