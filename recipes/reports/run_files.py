"""Reader of a run's files for its report. Missing or damaged files are listed, never fatal."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import parse_record, read_json
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.reports.curves import Curve
from recipes.reports.document import Table, as_text
from recipes.reports.values import Problems, as_dict, as_list, as_number, count
from recipes.runs.merge_manifest import MERGE_MANIFEST, MergeManifest
from recipes.runs.stage_folder import MERGED, RECIPE
from recipes.runs.stage_manifest import MANIFEST, StageManifest, with_present_keys
from recipes.spec.schedules import Schedule
from recipes.spec.tree import flatten

METRICS = "metrics/steps.jsonl"
EVALUATIONS = "evaluation.html"
MERGE_KEYS = ("parents", "weights")
REMEDY = "the report goes without it"
# a step's line has about 150 bytes; longer ones are damaged
LONGEST_LINE = 1 << 16

# what reading a damaged recipe raises: its text, its keys, its values, what follows from them
DAMAGES = (
    OSError,
    UserError,
    RecursionError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
)

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


@dataclass(frozen=True, slots=True)
class Step:
    """A training step of ``steps.jsonl``; ``lr`` is the base rate that the optimizer applied."""

    step: int
    tokens: float
    loss: float | None
    lr: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation of ``steps.jsonl``."""

    step: int
    loss: float | None


@dataclass
class Metrics:
    """Curves over the stage's tokens, and the figures of its last steps.

    Attributes:
        loss, validation: in nats per token.
        lr: the base rate that the optimizer applied, over the tokens seen before the step.
        steps, tokens: of the last step.
        timed_steps: that have a speed.
        speeds: sum of theirs, in tokens per second.
    """

    loss: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    steps: int = 0
    tokens: int = 0
    timed_steps: int = 0
    speeds: float = 0.0


@dataclass(frozen=True)
class Shard:
    """A shard of the training data; numbers that the manifest does not hold are None."""

    prefix: str
    component: str
    weight: float | None
    next_document: float | None
    epochs: float | None


@dataclass
class StageReport:
    """A stage as its files describe it; what they do not say is None or empty.

    Attributes:
        name: of the stage.
        manifest: what ``manifest.json`` holds; any key may be missing or of another type.
        metrics: of ``steps.jsonl``.
        schedule: the learning rate that ``recipe.yaml`` sets.
        mixture: percent by component in the recipe.
        tokens: budget of the stage.
        tokens_done: read by the stage so far.
        tokens_of_the_run: read by the run up to and including it.
        shards: of the manifest's ``data``.
        merges: a table for each merge in a folder whose name starts with the stage's.
        artefacts: name of what the stage wrote -> its path relative to the run's folder.
        checkpoint: the manifest's path, relative to the run's folder; it may not exist.
    """

    name: str
    manifest: dict[str, Any]
    metrics: Metrics
    schedule: Schedule | None
    mixture: dict[str, float]
    tokens: float | None
    tokens_done: int
    tokens_of_the_run: int
    shards: list[Shard]
    merges: list[Table]
    artefacts: dict[str, str]
    checkpoint: str | None

    @property
    def title(self) -> str:
        """What the stage is."""
        return STAGES[self.name].title

    @property
    def tokens_before(self) -> int:
        """Tokens of the run before the stage."""
        return self.tokens_of_the_run - self.tokens_done

    def number(self, key: str) -> float | None:
        """Return the manifest's number at ``key``, or None."""
        return as_number(self.manifest.get(key))


@dataclass
class Run:
    """A run's stages that have begun, in the chain's order.

    Attributes:
        name: of the folder.
        stages: those that have a folder.
        merges: a table for each merge manifest that belongs to no stage.
        problems: what could not be read.
        evaluated: whether the run has a report of its evaluations.
    """

    name: str
    stages: list[StageReport]
    merges: list[Table]
    problems: list[str]
    evaluated: bool


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
            stage.merges = [merges.pop(path) for path in paths]
            stages.append(stage)
            tokens = stage.tokens_of_the_run

    evaluated = (run_folder / EVALUATIONS).exists()
    return Run(run_folder.resolve().name, stages, list(merges.values()), problems, evaluated)


def _read_stage(folder: Path, tokens_before: int, problems: Problems) -> StageReport:
    manifest = _read_manifest(folder / MANIFEST, StageManifest, problems)
    metrics = _read_metrics(folder / METRICS, problems)
    schedule, mixture = _read_recipe(folder / RECIPE, problems)

    # the manifest has the last word on a finished stage, steps.jsonl on a running one
    tokens = as_number(manifest.get("tokens"))
    is_finished = manifest.get("status") == "finished"
    done = metrics.tokens
    if tokens and is_finished:
        done = int(tokens)
    checkpoint = manifest.get("checkpoint")

    return StageReport(
        name=folder.name,
        manifest=manifest,
        metrics=metrics,
        schedule=schedule,
        mixture=mixture,
        tokens=tokens,
        tokens_done=done,
        tokens_of_the_run=tokens_before + done,
        shards=_shards(manifest),
        merges=[],
        artefacts=_artefacts(folder, checkpoint),
        checkpoint=checkpoint and f"{folder.name}/{checkpoint}",
    )


def _read_manifest(
    path: Path, record_type: type[StageManifest] | type[MergeManifest], problems: Problems
) -> dict[str, Any]:
    """Return the JSON object of a manifest; values that its type does not allow are problems."""
    try:
        values = with_present_keys(read_json(path, REMEDY))
    except UserError as error:
        problems.note(error)
        return {}
    try:
        parse_record(record_type, values, str(path), "the report shows what it can")
    except UserError as error:
        problems.note(error)
    return values


def parsed_lines(path: Path) -> Iterator[Step | Validation | None]:
    """Yield the lines of ``steps.jsonl``, None for one that is damaged.

    A last line without its newline is still being written and left out.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            values = _parse(line)
            if values is not None:
                yield _as_entry(values)
            elif line.endswith(b"\n"):
                yield None


def _parse(line: bytes) -> dict[str, Any] | None:
    import orjson

    try:
        try:
            values = orjson.loads(line)
        except ValueError:
            # orjson refuses the NaN of a diverged run
            values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(values, dict):
        return values
    return None


def _as_entry(values: dict[str, Any]) -> Step | Validation | None:
    step = as_number(values.get("step"))
    if step is None or step < 1:
        return None
    if "val_loss" in values:
        return Validation(int(step), as_number(values["val_loss"]))

    tokens = as_number(values.get("tokens"))
    if tokens is None:
        return None
    return Step(
        step=int(step),
        tokens=tokens,
        loss=as_number(values.get("loss")),
        lr=as_number(values.get("lr")),
        tokens_per_second=as_number(values.get("tokens_per_second")),
    )


def _read_metrics(path: Path, problems: Problems) -> Metrics:
    metrics = Metrics()
    damaged = 0
    infinite = 0

    try:
        for entry in parsed_lines(path):
            if entry is None:
                damaged += 1
                continue
            if entry.loss is None:
                infinite += 1
            if isinstance(entry, Validation):
                _add_validation(metrics, entry)
            else:
                _add_step(metrics, entry)
    except FileNotFoundError:
        problems.note(f"{path}: no such file; {REMEDY}")
    except OSError as error:
        problems.note(f"{path}: cannot be read ({error.strerror}); {REMEDY}")

    if damaged:
        problems.note(f"{path}: damaged lines left out: {damaged:,}")
    if infinite:
        problems.note(f"{path}: losses left out, no finite numbers: {infinite:,}")
    return metrics


def _add_validation(metrics: Metrics, entry: Validation) -> None:
    if entry.loss is not None and metrics.steps:
        metrics.validation.add(entry.step * metrics.tokens / metrics.steps, entry.loss)


def _add_step(metrics: Metrics, entry: Step) -> None:
    metrics.steps = entry.step
    metrics.tokens = int(entry.tokens)
    if entry.loss is not None:
        metrics.loss.add(entry.tokens, entry.loss)
    if entry.lr is not None:
        # the rate is that of the tokens before the step
        metrics.lr.add(entry.tokens - entry.tokens / entry.step, entry.lr)
    if entry.tokens_per_second is not None:
        metrics.timed_steps += 1
        metrics.speeds += entry.tokens_per_second


def _read_recipe(path: Path, problems: Problems) -> tuple[Schedule | None, dict[str, float]]:
    """Return the schedule and the percentages of the mixture that a stage's recipe.yaml holds."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
        values = {name: leaf["value"] for name, leaf in content["values"].items()}
        stage = path.parent.name
        size = str(content["size"])
        names = flatten(resolve(stage, size).schedule, "schedule")
        overrides = [f"{name}={values[name]}" for name in names]
        recipe = resolve(stage, size, overrides, validate=False)
        # numbers that do not fit together fail here and not in a chart
        for tokens in (0, 1):
            recipe.schedule.lr(tokens)
    except FileNotFoundError:
        problems.note(f"{path}: no such file; {REMEDY}")
        return None, {}
    except (*DAMAGES, yaml.YAMLError) as error:
        problems.note(f"{path}: is damaged ({type(error).__name__}: {error}); {REMEDY}")
        return None, {}

    mixture: dict[str, float] = {}
    for name, value in values.items():
        percent = as_number(value)
        if name.startswith("mixture.") and percent is not None:
            mixture[name.removeprefix("mixture.")] = percent
    return recipe.schedule, mixture


def _read_merges(run_folder: Path, problems: Problems) -> dict[str, Table]:
    """Return a table for each merge manifest next to the stages, in them and in their checkpoints.

    Their keys are the manifests' paths relative to the run's folder.
    """
    paths: list[Path] = []
    for folders in ("*", "*/*", "*/checkpoints/*"):
        paths += run_folder.glob(f"{folders}/{MERGE_MANIFEST}")

    tables = {}
    for path in sorted(paths):
        name = str(path.relative_to(run_folder))
        manifest = _read_manifest(path, MergeManifest, problems)
        tables[name] = _merge_table(name, manifest)
    return tables


def _merge_table(name: str, manifest: dict[str, Any]) -> Table:
    parents = list(itertools.zip_longest(*(_as_list(manifest, key) for key in MERGE_KEYS)))
    if manifest.get("base"):
        parents.append((manifest["base"], "base"))

    rows = []
    for parent, weight in parents:
        # a parent from elsewhere is recorded by its path alone
        values = parent if isinstance(parent, dict) else {"path": parent}
        tokens = count(as_number(values.get("tokens")))
        row = [values.get(key) for key in ("path", "stage", "checkpoint")]
        rows.append([*row, tokens, weight])

    header = ["parent", "stage", "checkpoint", "tokens", "weight"]
    return Table(f"Merge {name}, method {as_text(manifest.get('method'))}", header, rows)


def _as_list(manifest: dict[str, Any], key: str) -> list[Any]:
    value = manifest.get(key)
    return value if isinstance(value, list) else [value]


def _shards(manifest: dict[str, Any]) -> list[Shard]:
    """Return the shards of ``data``, a list or a dict by prefix, with how far each is read."""
    progress: dict[str, dict[str, Any]] = {}
    for key, entry in as_dict(manifest.get("data_progress")).items():
        progress[key] = as_dict(entry)
        progress[str(as_dict(entry).get("prefix"))] = as_dict(entry)

    data = manifest.get("data")
    by_prefix = [{"prefix": key, **as_dict(value)} for key, value in as_dict(data).items()]
    shards = []
    for entry in map(as_dict, by_prefix or as_list(data)):
        prefix = str(entry.get("prefix", "-"))
        recorded = progress.get(str(entry.get("bin_sha256"))) or progress.get(prefix) or {}
        values = {"component": prefix, **recorded, **entry}
        numbers = [as_number(values.get(key)) for key in ("weight", "next_document", "epochs")]
        shards.append(Shard(as_text(prefix), as_text(values["component"]), *numbers))
    return shards


def _artefacts(folder: Path, checkpoint: Any) -> dict[str, str]:
    """Return what the stage wrote -> its path relative to the run's folder, where it exists."""
    # a path that the manifest names may lead anywhere
    names = ARTEFACTS
    if isinstance(checkpoint, str) and _is_inside(checkpoint):
        names = {"checkpoint": checkpoint.lstrip("/"), **names}
    return {
        name: f"{folder.name}/{path}" for name, path in names.items() if (folder / path).exists()
    }


def _is_inside(path: str) -> bool:
    """Return whether a path that a file names is plausible and stays in its folder."""
    return path.isprintable() and len(path) < 256 and ".." not in Path(path).parts
