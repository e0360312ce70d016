"""What a run's files tell for its report; a file that is missing or damaged is named and ends nothing."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.registry.resolve import STAGES, resolve
from recipes.runs.stage_folder import MANIFEST, MERGED, RECIPE
from recipes.spec.origin import Sourced
from recipes.spec.pretraining import PretrainRecipe
from recipes.spec.schedules import Schedule
from recipes.spec.tree import flatten, replace_leaf

METRICS = "metrics/steps.jsonl"
EVALUATIONS = "evaluation.html"
MERGE_MANIFEST = "merge_manifest.json"
# buckets that a curve keeps of millions of steps: a chart is a few hundred pixels wide
MOST_POINTS = 500
# shards that a table names; a full-size stage reads thousands
MOST_SHARDS = 50
# longer lines are damage: a step's line has about 150 bytes
LONGEST_LINE = 1 << 16
# not bool, which is an int; sums of numbers below the bound stay finite
NUMBERS = (float, int)
IMPLAUSIBLE = 1e100


@dataclass(slots=True)
class Bucket:
    """Neighbouring points of a curve: their number, the sums of x and y, and the bounds of y."""

    count: int
    x: float
    y: float
    low: float
    high: float


class Curve:
    """A curve thinned while it is read: at most :data:`MOST_POINTS` buckets of equally many points."""

    def __init__(self) -> None:
        self._buckets: list[Bucket] = []
        self._per_bucket = 1

    def add(self, x: float, y: float) -> None:
        """Add a point; x does not fall."""
        bucket = self._buckets[-1] if self._buckets else None
        if bucket is None or bucket.count == self._per_bucket:
            if len(self._buckets) == MOST_POINTS:
                pairs = zip(self._buckets[::2], self._buckets[1::2], strict=True)
                self._buckets = [_joined(left, right) for left, right in pairs]
                self._per_bucket *= 2
            self._buckets.append(Bucket(1, x, y, y, y))
            return
        bucket.count += 1
        bucket.x += x
        bucket.y += y
        if y < bucket.low:
            bucket.low = y
        elif y > bucket.high:
            bucket.high = y

    def points(self) -> list[tuple[float, float, float, float]]:
        """Return (mean x, mean y, lowest y, highest y) of every bucket."""
        return [(b.x / b.count, b.y / b.count, b.low, b.high) for b in self._buckets]


def _joined(left: Bucket, right: Bucket) -> Bucket:
    return Bucket(
        left.count + right.count,
        left.x + right.x,
        left.y + right.y,
        min(left.low, right.low),
        max(left.high, right.high),
    )


@dataclass
class Metrics:
    """What ``steps.jsonl`` tells: curves over the stage's tokens, and the figures of its last lines.

    Attributes:
        loss, validation: in nats per token.
        lr: the base rate that the optimizer applied, over the tokens seen before the step.
        steps, tokens: of the last step.
        tokens_per_second: mean over the steps.
    """

    loss: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    steps: int = 0
    tokens: int = 0
    tokens_per_second: float | None = None


@dataclass
class StageReport:
    """A stage as its files describe it; what they do not tell is None or empty.

    Attributes:
        tokens: that the stage was to take.
        tokens_done: that it has taken.
        tokens_of_the_run: taken by the run up to and including it.
        schedule: the learning rate that the stage's recipe.yaml sets.
        mixture: percent by component in the recipe.
        shards: of the manifest's ``data``, each with ``prefix``, ``component``, ``weight``, and ``epochs`` and
            ``next_document`` where known.
        merges: merge manifests by their path relative to the run's folder.
        artefacts: what the stage wrote and is there -> path relative to the run's folder.
        checkpoint: the path that the manifest names, there or not, relative to the run's folder.
    """

    name: str
    manifest: dict[str, Any]
    metrics: Metrics
    schedule: Schedule | None
    mixture: dict[str, float]
    tokens: int | None
    tokens_done: int
    tokens_of_the_run: int
    shards: list[dict[str, Any]]
    merges: dict[str, dict[str, Any]]
    artefacts: dict[str, str]
    checkpoint: str | None

    @property
    def title(self) -> str:
        """What the stage is."""
        return STAGES[self.name].title

    def number(self, key: str) -> float | None:
        """Return the manifest's number at ``key``, or None."""
        return number(self.manifest.get(key))

    def cells(self) -> dict[str, str]:
        """Return what an overview can show of the stage, by the name of its column."""
        loss, entropy, seconds = (
            self.number(key) for key in ("validation_loss", "unigram_entropy", "seconds")
        )
        speed = self.metrics.tokens_per_second
        return {
            "stage": self.name,
            "status": text(self.manifest.get("status")),
            "tokens": count(self.tokens),
            "validation loss": "-" if loss is None else f"{loss:.3f}",
            "unigram entropy": "-" if entropy is None else f"{entropy:.3f}",
            "below entropy": f"{1 - loss / entropy:.1%}" if loss is not None and entropy else "-",
            "seconds": "-" if seconds is None else f"{seconds:.0f}",
            "checkpoint": text(self.checkpoint),
            "Hugging Face folder": self.artefacts.get("Hugging Face folder", "-"),
            "wall time": "-" if seconds is None else duration(seconds),
            "steps": count(self.metrics.steps or None),
            "tokens done": count(self.tokens_done or None),
            "tokens of the run": count(self.tokens_of_the_run or None),
            "tokens/s": "-" if speed is None else f"{speed:,.0f}",
        }

    def facts(self) -> dict[str, str]:
        """Return the stage's single facts, an error apart."""
        cells = self.cells()
        again = self.manifest.get("read_again")
        facts = {
            "status": cells["status"],
            "parent stage": text(self.manifest.get("parent")),
            "tokens": f"{cells['tokens done']} of {cells['tokens']}",
            "tokens of the run": cells["tokens of the run"],
            "steps": cells["steps"],
            "starts": count(self.number("starts")),
            "wall time": cells["wall time"],
            "tokens per second": cells["tokens/s"],
            "validation loss": cells["validation loss"],
            "unigram entropy": cells["unigram entropy"],
            "below entropy": cells["below entropy"],
            "tokenizer fingerprint": text(self.manifest.get("tokenizer_fingerprint")),
        }
        if self.checkpoint and "checkpoint" not in self.artefacts:
            facts["checkpoint"] = f"{text(self.checkpoint)} is not there"
        if isinstance(again, dict) and again:
            facts["read more than once"] = ", ".join(
                f"{text(name)} ({text(epochs)} epochs)" for name, epochs in again.items()
            )
        return facts

    @property
    def error(self) -> str | None:
        """Why the stage failed."""
        error = self.manifest.get("error")
        return None if error is None else text(error)

    def tables(self) -> list["Table"]:
        """Return the mixture that was read, its shards, the merges and the artefacts."""
        tables = [
            _mixture_table(self),
            _shard_table(self),
            *(merge_table(*merge) for merge in self.merges.items()),
        ]
        rows = [[what, text(path)] for what, path in self.artefacts.items()]
        return [
            table
            for table in (
                *tables,
                Table("Artefacts", ["what", "path in the run's folder"], rows, links=True),
            )
            if table.rows
        ]


@dataclass
class Table:
    """A table of a report; with ``links`` its last column holds paths relative to the report."""

    title: str
    header: list[str]
    rows: list[list[str]]
    links: bool = False


@dataclass
class RunReport:
    """The stages of a run that have begun, in the chain's order, and what could not be read.

    ``merges`` holds the merge manifests, by relative path, that lie in no stage's folder nor in one named after it;
    ``evaluated`` says whether the report on evaluations stands beside this one.
    """

    name: str
    stages: list[StageReport]
    merges: dict[str, dict[str, Any]]
    problems: list[str]
    evaluated: bool


def read_run(run_folder: Path) -> RunReport:
    """Return what the files under ``run_folder`` tell of the run."""
    problems: list[str] = []
    merges = _read_merges(run_folder, problems)
    stages: list[StageReport] = []
    so_far = 0
    for name in STAGES:
        folder = run_folder / name
        if not folder.is_dir():
            continue
        manifest = _read_json(folder / MANIFEST, run_folder, problems)
        metrics = _read_metrics(folder / METRICS, run_folder, problems)
        schedule, mixture = _read_recipe(folder / RECIPE, run_folder, name, problems)
        tokens = number(manifest.get("tokens"))
        done = tokens if manifest.get("status") == "finished" and tokens else metrics.tokens
        so_far += int(done)
        stages.append(
            StageReport(
                name=name,
                manifest=manifest,
                metrics=metrics,
                schedule=schedule,
                mixture=mixture,
                tokens=None if tokens is None else int(tokens),
                tokens_done=int(done),
                tokens_of_the_run=so_far,
                shards=_shards(manifest),
                merges={path: merges.pop(path) for path in list(merges) if path.startswith(name)},
                artefacts=_artefacts(folder, manifest),
                checkpoint=f"{name}/{manifest['checkpoint']}"
                if manifest.get("checkpoint")
                else None,
            )
        )
    return RunReport(
        run_folder.resolve().name,
        stages,
        merges,
        problems,
        evaluated=(run_folder / EVALUATIONS).exists(),
    )


def number(value: Any) -> float | None:
    """Return ``value`` if it is a number, or None for whatever else a file may hold, NaN and infinity included."""
    if type(value) in NUMBERS and -IMPLAUSIBLE < value < IMPLAUSIBLE:
        return value
    return None


def count(value: float | None) -> str:
    """Return a whole number with commas, a dash for None."""
    return "-" if value is None else f"{value:,.0f}"


def text(value: Any) -> str:
    """Return ``value`` as text without control characters; a dash for None."""
    if value is None:
        return "-"
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )


def _read_json(path: Path, run_folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(_problem(path, run_folder, error))
        return {}
    return content


def _problem(path: Path, run_folder: Path, error: Exception) -> str:
    why = (
        error.strerror
        if isinstance(error, OSError)
        else f"damaged, {type(error).__name__}: {error}"
    )
    return f"{path.relative_to(run_folder)}: {' '.join(str(why).split())[:300]}"


def _read_metrics(path: Path, run_folder: Path, problems: list[str]) -> Metrics:
    import orjson

    metrics, damaged, infinite = Metrics(), 0, 0
    speeds, timed = 0.0, 0
    try:
        with path.open("rb") as file:
            for line in _lines(file):
                try:
                    values = orjson.loads(line)
                except ValueError:
                    # orjson refuses the NaN of a diverged run
                    values = _lenient(line)
                if not isinstance(values, dict):
                    # the last line may be half written
                    damaged += line.endswith(b"\n")
                    continue
                step = number(values.get("step"))
                if step is None or step < 1:
                    damaged += 1
                elif "val_loss" in values:
                    loss = number(values["val_loss"])
                    if loss is None:
                        infinite += 1
                    elif metrics.steps:
                        metrics.validation.add(step * metrics.tokens / metrics.steps, loss)
                else:
                    tokens, loss, lr = (
                        number(values.get("tokens")),
                        number(values.get("loss")),
                        number(values.get("lr")),
                    )
                    if tokens is None:
                        damaged += 1
                        continue
                    metrics.steps, metrics.tokens = int(step), int(tokens)
                    if loss is None:
                        infinite += 1
                    else:
                        metrics.loss.add(tokens, loss)
                    if lr is not None:
                        metrics.lr.add(tokens - tokens / step, lr)
                    speed = number(values.get("tokens_per_second"))
                    if speed is not None:
                        speeds, timed = speeds + speed, timed + 1
    except OSError as error:
        problems.append(_problem(path, run_folder, error))
    if damaged:
        problems.append(f"{path.relative_to(run_folder)}: damaged lines left out: {damaged:,}")
    if infinite:
        problems.append(
            f"{path.relative_to(run_folder)}: losses left out, no finite numbers: {infinite:,}"
        )
    metrics.tokens_per_second = speeds / timed if timed else None
    return metrics


def _lines(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.readline(LONGEST_LINE), b"")


def _lenient(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_recipe(
    path: Path, run_folder: Path, stage: str, problems: list[str]
) -> tuple[Schedule | None, dict[str, float]]:
    """Return the schedule and the mixture that a stage's recipe.yaml holds."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
        values = {name: value["value"] for name, value in content["values"].items()}
        recipe = resolve(stage, str(content["size"]))
        for name in flatten(recipe.schedule, "schedule"):
            value = number(values[name])
            if value is None:
                raise ValueError(f"{name} is no number")
            # a float overflows where a power of whole numbers would take for ever
            recipe = replace_leaf(recipe, name, Sourced(float(value), "override", "as recorded"))
        # a schedule whose numbers do not fit together fails here and not in a chart
        recipe.schedule.lr(0), recipe.schedule.lr(1)
        if not isinstance(recipe, PretrainRecipe):
            return recipe.schedule, {}
        mixture = {name: number(values.get(f"mixture.{name}")) for name in recipe.mixture}
    except (
        OSError,
        UserError,
        yaml.YAMLError,
        RecursionError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        problems.append(_problem(path, run_folder, error))
        return None, {}
    return recipe.schedule, {
        name: percent for name, percent in mixture.items() if percent is not None
    }


def _read_merges(run_folder: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return the merge manifests beside the stages, in them and in their checkpoints, by relative path."""
    patterns = (f"{folders}/{MERGE_MANIFEST}" for folders in ("*", "*/*", "*/checkpoints/*"))
    paths = sorted(path for pattern in patterns for path in run_folder.glob(pattern))
    return {
        str(path.relative_to(run_folder)): _read_json(path, run_folder, problems) for path in paths
    }


def _shards(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the shards of the manifest's ``data``, a list of them or a dict by prefix, with what its ledger adds."""
    data, ledger = manifest.get("data"), manifest.get("ledger")
    if isinstance(data, dict):
        data = [
            {"prefix": prefix, **shard} for prefix, shard in data.items() if isinstance(shard, dict)
        ]
    if not isinstance(data, list):
        return []
    read: dict[str, dict[str, Any]] = {}
    for key, entry in ledger.items() if isinstance(ledger, dict) else ():
        if isinstance(entry, dict):
            read |= {key: entry, str(entry.get("prefix")): entry}
    shards = []
    for shard in data:
        if isinstance(shard, dict):
            prefix = str(shard.get("prefix", "-"))
            known = read.get(str(shard.get("bin_sha256"))) or read.get(prefix) or {}
            component = str(shard.get("component", known.get("component", prefix)))
            shards.append({**known, **shard, "prefix": prefix, "component": component})
    return shards


def _artefacts(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """Return what the stage wrote -> its path relative to the run's folder, for what is there."""
    names = {
        "recipe": RECIPE,
        "manifest": MANIFEST,
        "metrics": METRICS,
        "TensorBoard": "metrics/tensorboard",
        "checkpoints": "checkpoints",
        "merged checkpoint": MERGED,
        "Hugging Face folder": "hf",
        "logs": "logs",
    }
    checkpoint = manifest.get("checkpoint")
    if (
        isinstance(checkpoint, str)
        and checkpoint.isprintable()
        and len(checkpoint) < 256
        and ".." not in Path(checkpoint).parts
    ):
        names = {"checkpoint": checkpoint.lstrip("/"), **names}
    return {
        what: f"{folder.name}/{name}" for what, name in names.items() if (folder / name).exists()
    }


def duration(seconds: float) -> str:
    """Return ``seconds`` as hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:,} h {minutes:02} min"
        if hours
        else f"{minutes} min {seconds:02} s"
        if minutes
        else f"{seconds} s"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f} %"


def _mixture_table(stage: StageReport) -> Table:
    weights = [number(shard.get("weight")) or 0.0 for shard in stage.shards]
    total = sum(weights) or 1.0
    components: dict[str, list[float]] = {}
    for shard, weight in zip(stage.shards, weights, strict=True):
        components.setdefault(shard["component"], []).append(weight)
    rows = [
        [
            text(name),
            str(len(of)),
            _percent(100 * sum(of) / total),
            _percent(stage.mixture.get(name)),
        ]
        for name, of in components.items()
    ]
    rows += [
        [name, "-", "-", _percent(percent)]
        for name, percent in stage.mixture.items()
        if rows and name not in components
    ]
    return Table("Mixture", ["component", "shards", "share of the blend", "in the recipe"], rows)


def _shard_table(stage: StageReport) -> Table:
    def cell(value: Any) -> str:
        found = number(value)
        return "-" if found is None else f"{found:,.10g}"

    rows = [
        [
            text(shard["prefix"]),
            *(cell(shard.get(key)) for key in ("weight", "next_document", "epochs")),
        ]
        for shard in stage.shards[:MOST_SHARDS]
    ]
    if len(stage.shards) > MOST_SHARDS:
        rows.append([f"and {len(stage.shards) - MOST_SHARDS:,} more", "-", "-", "-"])
    return Table("Shards", ["shard", "weight", "next document", "epochs"], rows)


def merge_table(path: str, merge: dict[str, Any]) -> Table:
    """Return the parents of a merge manifest, with the stage and the tokens that they come from, and their weights."""
    parents, weights, base = (merge.get(key) for key in ("parents", "weights", "base"))
    pairs = itertools.zip_longest(
        parents if isinstance(parents, list) else [parents],
        weights if isinstance(weights, list) else [weights],
    )
    rows = []
    for parent, weight in [*pairs, *([(base, "base")] if base else [])]:
        known = parent if isinstance(parent, dict) else {"path": parent}
        rows.append(
            [*(text(known.get(key)) for key in ("path", "stage", "checkpoint")), text(weight)]
        )
        rows[-1].insert(3, count(number(known.get("tokens"))))
    header = ["parent", "stage", "checkpoint", "tokens", "weight"]
    return Table(f"Merge {path}, method {text(merge.get('method'))}", header, rows)
