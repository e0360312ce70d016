"""The screen of a chain on this machine: its plan, a line for each task, and what is next."""

import time
from pathlib import Path

import pytest

from recipes.launch import display
from recipes.launch.chain import build_chain, resolve_recipes, select_stages
from recipes.launch.display import ChainDisplay, next_steps, plan_lines
from recipes.launch.durations import IMPORTS, expected_seconds, training_flops
from recipes.registry.resolve import resolve_pretraining
from recipes.runs.chain_request import ChainRequest
from recipes.runs.task import Task

CHAIN = [Task("one", ("list",)), Task("two", ("list",)), Task("three", ("list",))]


def request(stages: str, size: str = "tiny") -> ChainRequest:
    return ChainRequest(select_stages(stages, size), size, [], None, None, None, True)


def test_the_plan_has_a_line_for_each_stage_and_every_task_once(tmp_path: Path) -> None:
    wanted = request("phase4..lce_32k")
    chain = build_chain(wanted, tmp_path / "run")
    lines = plan_lines(chain, [*wanted.stages, "lce_128k"])
    assert [line.split()[0] for line in lines] == ["phase4", "lce_32k", "lce_128k", "run"]
    assert lines[0].split()[1:3] == ["train,", "export,"]
    assert "merge" in lines[1]
    assert lines[2].endswith("finished already")
    tasks = [word.strip(",") for line in (*lines[:2], lines[3]) for word in line.split()[1:]]
    assert len(tasks) == len(chain)


def test_a_task_costs_what_it_trains() -> None:
    wanted = request("phase1..lce_512k")
    chain = build_chain(wanted, Path("run"))
    seconds = expected_seconds(chain, resolve_recipes(wanted))
    assert seconds.keys() == {task.name for task in chain}
    assert all(value > 0 for value in seconds.values())
    # the first task waits for the imports of all
    assert seconds[chain[0].name] > IMPORTS
    assert seconds["phase1"] > 3 * seconds["phase4"]


def test_flops_are_six_per_parameter_and_token_and_those_of_attention() -> None:
    recipe = resolve_pretraining("phase1", "tiny")
    model = recipe.model
    trained = recipe.steps.value * 8192
    # ten validations of four batches, a third of the work of a training step's
    validated = 11 * 4 * 8192 / 3
    per_token = 6 * (model.parameter_count.value + 4 * 64 * 256)
    assert training_flops(recipe) == pytest.approx(per_token * (trained + validated), rel=0.01)


def test_a_finished_task_has_a_line_with_the_time_left(tmp_path: Path, capsys) -> None:
    seconds = {"one": 1.0, "two": 3.0, "three": 6.0}
    with ChainDisplay(CHAIN, seconds, tmp_path) as screen:
        for name in ("one", "two", "three"):
            screen.start(name)
            screen.finish([name])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["[1/3]", "one"],
        ["[2/3]", "two"],
        ["[3/3]", "three"],
    ]
    assert "left" in lines[0]
    assert "left" not in lines[2]


def test_the_time_left_weighs_tasks_by_their_cost(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen = ChainDisplay(CHAIN, {"one": 10.0, "two": 10.0, "three": 80.0}, tmp_path)
    assert screen._time_left() == "about 2 min left"
    screen.start("one")
    # twice as slow as expected: so is the rest
    now[0] = 20.0
    screen.finish(["one"])
    assert screen._time_left() == "about 3 min left"
    # what a running task has taken is not added to the rest
    screen.start("two")
    now[0] = 38.0
    assert screen._time_left() == "about 3 min left"
    now[0] = 400.0
    assert screen._time_left() == "about 3 min left"
    screen.start("three")
    now[0] = 500.0
    assert screen._time_left() == "about 60 s left"


def test_tasks_side_by_side_are_counted_together(tmp_path: Path, monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen = ChainDisplay(CHAIN, {"one": 10.0, "two": 90.0, "three": 100.0}, tmp_path)
    screen.start("one")
    screen.start("two")
    now[0] = 100.0
    # the short one is seen to end only with the long one
    screen.finish(["one", "two"])
    assert [line.split("about ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "2 min left",
        "2 min left",
    ]


def test_a_warning_of_a_task_is_shown_and_its_latest_line_now_and_then(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    # only the test looks
    monkeypatch.setattr(display, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    log = tmp_path / "one.log"
    log.write_text("2026-01-01 10:00:00 INFO of an earlier start\n")
    with ChainDisplay(CHAIN, {"one": 1.0, "two": 1.0, "three": 1.0}, tmp_path) as screen:
        screen.start("one")
        with log.open("a") as file:
            file.write("2026-01-01 10:00:01 WARNING a shard is short\n")
            file.write("2026-01-01 10:00:02 INFO step 3/9\n2026-01-01 10:00:03 INFO not whole")
        screen._poll()
    shown = capsys.readouterr().out
    assert "step 3/9" in shown
    assert "a shard is short" in shown
    assert "earlier" not in shown
    assert "not whole" not in shown


def test_next_steps_name_pages_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    lines = next_steps(tmp_path, "phase2", "tiny")
    assert f"open  {tmp_path / 'report.html'}" in lines
    assert any(str(tmp_path / "phase2/hf") in line for line in lines)


def test_a_model_that_answers_is_asked_in_its_chat_format(tmp_path: Path) -> None:
    (tried,) = [line for line in next_steps(tmp_path, "sft", "tiny") if "try" in line]
    assert tried.endswith("sft/hf --chat --prompt 'What is 2 + 3?'")
    (tried,) = [line for line in next_steps(tmp_path, "phase2", "tiny") if "try" in line]
    assert tried.endswith("phase2/hf --prompt 'import '")
