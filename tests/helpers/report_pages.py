"""Pages of the reports as the tests read them, and run folders written by hand."""

import itertools
import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from evaluation.results import Evaluation, Unit, evaluation_name, write_evaluation
from evaluation.suites import units
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.stage_folder import write_recipe
from recipes.runs.stage_manifest import InitialCheckpoint, StageManifest

BATCH = 8192
# first cells of the headers of tables that a test reads by column
HEADERS = ("stage", "task", "unit", "model", "what", "")


class Page(HTMLParser):
    """The tags and attributes of an HTML document, the cells of its tables, its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def cells(self, *first: str) -> dict[str, str]:
        """Return the row whose first cells are ``first``, by the header before it."""
        at = next(at for at, row in enumerate(self.rows) if tuple(row[: len(first)]) == first)
        width = len(self.rows[at])
        before = reversed(self.rows[:at])
        header = next(row for row in before if len(row) == width and row[0] in HEADERS)
        return dict(zip(header, self.rows[at], strict=True))

    def points(self, name: str) -> list[int]:
        """Return the number of points of each curve of a name, those of the legends left out."""
        numbers = []
        for (_, group), (tag, attrs) in itertools.pairwise(self.tags):
            if tag == "path" and group.get("class") == name:
                numbers.append(len(str(attrs["d"]).splitlines()))
        return numbers

    def bands(self, name: str) -> list[int]:
        """Return the number of points of a curve's bands, whose outlines follow both bounds."""
        numbers = []
        for position, (_, group) in enumerate(self.tags):
            if group.get("class") == f"{name} band":
                outline = next(attrs for tag, attrs in self.tags[position:] if tag == "path")
                numbers.append(str(outline["d"]).count("L") // 2)
        return numbers

    def has_curve_in(self, color: str) -> bool:
        """Return whether a curve is drawn in a variable of the style sheet."""
        return any(
            tag == "path" and f"stroke: var(--{color})" in str(attrs.get("style"))
            for tag, attrs in self.tags
        )


def write_stage(
    run: Path, name: str, steps: int, status: str = "finished", **more: object
) -> dict[str, Any]:
    """Write the folder of a stage of tiny after ``steps`` and return its manifest."""
    recipe = resolve_pretraining(name, "tiny")
    (run / name / "metrics").mkdir(parents=True)
    write_recipe(run / name, recipe)
    lines = []
    for step in range(1, steps + 1):
        rate = recipe.schedule.lr((step - 1) * BATCH)
        values = {
            "step": step,
            "tokens": step * BATCH,
            "loss": 8 - step / 100,
            "lr": rate,
            "tokens_per_second": 1000.0,
        }
        lines.append(json.dumps(values))
        if step % 10 == 0:
            lines.append(json.dumps({"step": step, "val_loss": 8.125 - step / 100}))
    (run / name / "metrics/steps.jsonl").write_text("\n".join(lines) + "\n")
    manifest = StageManifest(
        stage=name,
        size="tiny",
        status=status,
        parent=recipe.parent,
        tokens=recipe.steps.value * BATCH,
        tokens_before=0,
        tokenizer_fingerprint="f" * 64,
        initial_state=InitialCheckpoint("random weights"),
        data={},
        seconds=75.0,
        num_starts=2,
        checkpoint="checkpoints/last",
    )
    values = {**asdict(manifest), **more}
    (run / name / "manifest.json").write_text(json.dumps(values))
    return values


def unit(
    task: str, score: float, stderr: float | None = 0.5, length: int | None = None, **more: Any
) -> Unit:
    settings = {"num_fewshot": 5, **more.pop("settings", {})}
    return Unit(task, length, "acc,none", score, stderr, 100, 100, settings=settings, **more)


def write_scores(
    run: Path, stage: str, suite: str, found: list[Unit], label: str = "", **more: Any
) -> Path:
    values: dict[str, Any] = {
        "size": "8b",
        "model": f"run/{stage}/hf",
        "fingerprint": "00",
        "backend": {"name": "hf"},
        "limit": None,
        "expected": [unit.name for unit in found],
        "failures": {},
        "versions": {},
        "finished": "2026-05-01T00:00:00+00:00",
    }
    evaluation = Evaluation(
        suite=suite, stage=stage, label=label, units=found, **{**values, **more}
    )
    folder = run / stage / "eval" / evaluation_name(suite, label)
    write_evaluation(folder, evaluation)
    return folder


def ruler(score: float, lengths: tuple[int, ...], **more: Any) -> list[Unit]:
    more = {"corpus": "published", "fill_min": 0.96, "fill_mean": 0.98, **more}
    return [
        unit(task.name, score, 2.0, length, **more)
        for task, length in units("long-context", "8b", lengths)
    ]
