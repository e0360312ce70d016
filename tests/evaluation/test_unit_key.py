"""A unit is scored again after a change of what its score depends on, and after no other."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import unit_key
from evaluation.backends import SERVER, Backend
from evaluation.plan import Plan, plan_evaluation
from evaluation.results import UNIT, Unit
from evaluation.runner import UNITS, EvaluationRun
from evaluation.suites import OWN_TASKS
from recipes.common.json_files import write_record
from recipes.model_folder.folder import open_model
from recipes.runs.commands import EvaluateOptions
from tests.helpers.model_folders import write_model

pytestmark = pytest.mark.slow

# files of a model that change its answers
MODEL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tools.jinja",
    "model.safetensors",
)
# and others
OTHERS = (
    "README.md",
    "LICENSE",
    ".gitattributes",
    ".git/HEAD",
    ".git/config.json",
    ".cache/huggingface/download.json",
    "runs/events.json",
    "figure.png",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "hf"
    write_model(folder, max_position_embeddings=256)
    for name in MODEL + OTHERS:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text("{}")
    return folder


def _plan(folder: Path, suite: str = "smoke", **more: Any) -> Plan:
    options = EvaluateOptions(suite=suite, model="hf", size="tiny", **more)
    return plan_evaluation(options, open_model(folder))


def _run(folder: Path, output: Path, plan: Plan | None = None, **backend: Any) -> EvaluationRun:
    settings = {"name": "hf", "arguments": {"pretrained": str(folder), "dtype": "auto"}}
    return EvaluationRun(
        plan=plan or _plan(folder),
        model=open_model(folder),
        backend=Backend(**{**settings, "batch_size": "1", "positions": 256, **backend}),
        output=output,
        ruler_samples=output / "ruler",
    )


def _open(run: EvaluationRun) -> list[str]:
    """Return the units that would be scored."""
    return [unit.name for unit in run.open_units(run.keys())]


def _score(run: EvaluationRun) -> None:
    """Write a result of each open unit."""
    keys = run.keys()
    for unit in run.open_units(keys):
        result = Unit(
            task=unit.task.name,
            length=unit.length,
            metric=unit.task.metric,
            score=50.0,
            stderr=None,
            samples=1,
            expected=1,
            settings={"key": keys[unit.name]},
        )
        directory = run.output / UNITS / unit.name
        directory.mkdir(parents=True, exist_ok=True)
        write_record(directory / UNIT, result)


@pytest.mark.parametrize("name", MODEL)
def test_a_changed_file_of_the_model(folder, tmp_path, name) -> None:
    output = tmp_path / "out"
    run = _run(folder, output)
    _score(run)
    assert _open(_run(folder, output)) == []

    # the last number of the weights, or a space after the other ones
    file = folder / name
    before = file.read_bytes()
    is_weights = file.suffix == ".safetensors"
    file.write_bytes(before[:-1] + b"\x01" if is_weights else before + b" ")
    assert _open(_run(folder, output)) == [unit.name for unit in run.plan.units]
    file.write_bytes(before)
    assert _open(_run(folder, output)) == []


def test_a_new_file_of_the_model(folder, tmp_path) -> None:
    (folder / "generation_config.json").unlink()
    _score(_run(folder, tmp_path / "out"))
    (folder / "generation_config.json").write_text("{}")
    assert len(_open(_run(folder, tmp_path / "out"))) == 3


@pytest.mark.parametrize("name", OTHERS)
def test_a_changed_file_that_changes_no_answer(folder, tmp_path, name) -> None:
    _score(_run(folder, tmp_path / "out"))
    (folder / name).write_text("other")
    assert _open(_run(folder, tmp_path / "out")) == []


def test_a_moved_model(folder, tmp_path) -> None:
    _score(_run(folder, tmp_path / "out"))
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert _open(_run(moved, tmp_path / "out")) == []


SERVED = {"id": "m", "max_model_len": 256, "root": "/models/a", "version": "0.32.0"}
SERVER_BACKEND = {
    "name": SERVER,
    "arguments": {"model": "m", "base_url": "http://a/v1/completions", "timeout": 300},
    "served": SERVED,
}


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": {"model": "n", "base_url": "http://a/v1/completions"}},
        {"arguments": {**SERVER_BACKEND["arguments"], "max_gen_toks": 7}},
        {"arguments": {**SERVER_BACKEND["arguments"], "tokenized_requests": False}},
        {"served": {**SERVED, "root": "/models/b"}},
        {"served": {**SERVED, "version": "0.33.0"}},
        {"served": {**SERVED, "max_model_len": 512}},
        {"name": "hf"},
    ],
)
def test_a_changed_server(folder, tmp_path, changed) -> None:
    _score(_run(folder, tmp_path / "out", **SERVER_BACKEND))
    assert _open(_run(folder, tmp_path / "out", **SERVER_BACKEND)) == []
    assert len(_open(_run(folder, tmp_path / "out", **{**SERVER_BACKEND, **changed}))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "http://b/v1/completions"},
        {"timeout": 1},
        {"max_retries": 9, "num_concurrent": 64},
        {"verify_certificate": False, "ca_cert_path": "/ca.pem"},
        {"tokenizer": "/moved"},
    ],
)
def test_another_way_to_the_same_server(folder, tmp_path, arguments) -> None:
    _score(_run(folder, tmp_path / "out", **SERVER_BACKEND))
    changed = {**SERVER_BACKEND["arguments"], **arguments}
    run = _run(folder, tmp_path / "out", **{**SERVER_BACKEND, "arguments": changed})
    assert _open(run) == []


def test_the_number_of_prompts_at_once_changes_no_answer(folder, tmp_path) -> None:
    _score(_run(folder, tmp_path / "out"))
    assert _open(_run(folder, tmp_path / "out", batch_size="64")) == []


Change = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("change", "is_scored_again"),
    [
        (lambda task: replace(task, metric="acc_norm,none"), True),
        (lambda task: replace(task, num_fewshot=3), True),
        (lambda task: replace(task, chat_template=True), True),
        (lambda task: replace(task, max_gen_toks=5), True),
        (lambda task: replace(task, lm_eval="another"), True),
        (lambda task: replace(task, folders=("mmlu",)), True),
        (lambda task: replace(task, percent=False), True),
        (lambda task: replace(task, note="other words"), False),
        (lambda task: replace(task, needs=("a package",)), False),
    ],
)
def test_a_changed_task(folder, tmp_path, change: Change, is_scored_again) -> None:
    plan = _plan(folder, tasks=("smoke_cloze",))
    _score(_run(folder, tmp_path / "out", plan))
    (unit,) = plan.chosen
    changed = replace(unit, task=change(unit.task))
    again = replace(plan, units=(changed,), chosen=(changed,))
    assert bool(_open(_run(folder, tmp_path / "out", again))) == is_scored_again


def test_a_changed_number_of_samples_but_not_of_seconds(folder, tmp_path) -> None:
    _score(_run(folder, tmp_path / "out", _plan(folder, samples=4)))
    assert len(_open(_run(folder, tmp_path / "out", _plan(folder, samples=5)))) == 3
    plan = _plan(folder, samples=4)
    slower = tuple(replace(unit, seconds=9.0) for unit in plan.units)
    patient = replace(plan, units=slower, chosen=slower)
    assert _open(_run(folder, tmp_path / "out", patient)) == []


@pytest.mark.parametrize("library", ["lm-eval", "transformers", "tokenizers", "torch", "datasets"])
def test_another_version_of_a_library(folder, tmp_path, monkeypatch, library) -> None:
    _score(_run(folder, tmp_path / "out"))
    real = unit_key.versions
    monkeypatch.setattr(unit_key, "versions", lambda names: {**real(names), library: "0.0"})
    assert len(_open(_run(folder, tmp_path / "out"))) == 3


def test_vllms_version_matters_where_it_runs_the_model(monkeypatch) -> None:
    monkeypatch.setattr(unit_key, "versions", lambda names: dict.fromkeys(names, "1.0"))
    found = {}
    for name in ("hf", "vllm", SERVER):
        found[name] = unit_key.library_versions(Backend(name, {}, "auto", 256))
    assert "vllm" in found["vllm"]
    assert "vllm" not in found["hf"] | found[SERVER]


def test_a_changed_file_of_the_task(folder, tmp_path, monkeypatch) -> None:
    tasks = shutil.copytree(OWN_TASKS, tmp_path / "room/tasks")
    monkeypatch.setattr(unit_key, "OWN_TASKS", tasks)
    monkeypatch.setattr(unit_key, "_ROOM", tmp_path / "room")
    output = tmp_path / "out"
    _score(_run(folder, output))
    with (tasks / "smoke/cloze.jsonl").open("a") as file:
        file.write("\n")
    assert len(_open(_run(folder, output))) == 3
    _score(_run(folder, output))
    with (tasks / "code/scoring.py").open("a") as file:
        file.write("\n")
    assert _open(_run(folder, output)) == []


def test_a_result_of_an_earlier_form_is_not_taken(folder, tmp_path) -> None:
    run = _run(folder, tmp_path / "out")
    _score(run)
    for file in (tmp_path / "out").rglob(UNIT):
        file.write_text(file.read_text().replace('"key": "', '"key": "0'))
    assert len(_open(run)) == 3
