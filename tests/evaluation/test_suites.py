"""The suites against IBM's tables and against lm-eval's own task files."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation import suites
from recipes.common.errors import UserError
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES
from recipes.spec.sizes import SIZES

FACTS = yaml.safe_load((Path(__file__).parents[2] / "recipes/facts.yaml").read_text())
THEIRS = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"  # type: ignore[union-attr, arg-type]
TASKS = [
    (suite, task)
    for suite in suites.suite_names()
    for task in suites.get_suite(suite, "8b").tasks.values()
]
AVAILABLE = [
    pytest.param(suite, task, id=f"{suite}-{task.name}")
    for suite, task in TASKS
    if not task.unavailable
]
FROM_LM_EVAL = [param for param in AVAILABLE if param.values[1].folders]
OWN = [param for param in AVAILABLE if param.values[1].own and not param.values[1].folders]
CODE = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")


class Loader(yaml.SafeLoader):
    """lm-eval's YAML, in which ``!function`` names code that this test leaves alone."""


Loader.add_constructor("!function", lambda loader, node: f"code {node.value}")


@cache
def content(folder: Path) -> dict[Path, str]:
    """Return the text of every task file below ``folder``."""
    return {file: file.read_text() for file in folder.rglob("*.yaml")}


def defining(name: str, folders: list[Path]) -> Path:
    """Return the file that defines the task or group ``name``."""
    pattern = re.compile(rf"^(task|group): *{re.escape(name)} *$", re.MULTILINE)
    files = [
        file for folder in folders for file, text in content(folder).items() if pattern.search(text)
    ]
    assert len(files) == 1, f"{name}: {files}"
    return files[0]


def read(file: Path) -> dict[str, Any]:
    own = yaml.load(file.read_text(), Loader)
    return {**(read(file.parent / own["include"]) if "include" in own else {}), **own}


def keys(config: dict[str, Any]) -> set[str]:
    """Return the keys ``metric,filter`` that a task or group reports."""
    if "group" in config:
        pairs = [
            (row["metric"], row.get("filter_list") or "none")
            for row in config["aggregate_metric_list"]
        ]
    else:
        filters = [row["name"] for row in config.get("filter_list", [{"name": "none"}])]
        pairs = [(row["metric"], name) for row in config["metric_list"] for name in filters]
    return {f"{metric},{name}" for metric, name in pairs}


@pytest.mark.parametrize(
    ("suite", "table"), [("base", "benchmarks_base"), ("instruct", "benchmarks_instruct")]
)
def test_every_benchmark_of_ibms_table_is_in_its_suite_once(suite: str, table: str) -> None:
    assert list(suites.get_suite(suite, "3b").tasks) == list(FACTS[table])
    for name, row in FACTS[table].items():
        assert [suites.reference(suite, name, size) for size in ("3b", "8b", "30b")] == row[
            "scores"
        ]
        assert suites.setting(suite, name) == row["setting"]


@pytest.mark.parametrize(("suite", "task"), FROM_LM_EVAL)
def test_lm_eval_has_the_task_in_its_folder_with_the_metric(
    suite: str, task: suites.Benchmark
) -> None:
    folders = [THEIRS / folder for folder in task.folders]
    assert all(folder.is_dir() for folder in folders)
    file = suites.OWN_TASKS / task.own if task.own else defining(str(task.lm_eval), folders)
    config = read(file)
    assert task.lm_eval in (config.get("group"), config.get("task"))
    assert set(task.metric.split(suites.MEAN)) <= keys(config)
    if task.own:
        # a group of the project over lm-eval's tasks
        assert len(config["task"]) == len(set(config["task"]))
        members = [read(defining(name, folders)) for name in config["task"]]
        assert all(
            task.metric.split(",")[0] in {key.split(",")[0] for key in keys(member)}
            for member in members
        )
        assert task.lm_eval.startswith("granite_")  # type: ignore[union-attr]


@pytest.mark.parametrize(("suite", "task"), OWN)
def test_the_projects_own_tasks_have_the_metric(suite: str, task: suites.Benchmark) -> None:
    config = read(suites.OWN_TASKS / str(task.own))
    assert config["task"] == task.lm_eval
    assert task.metric in keys(config)


@pytest.mark.parametrize(("suite", "task"), FROM_LM_EVAL)
def test_examples_in_the_prompt_are_what_ibm_says_and_lm_eval_lets_them_be(
    suite: str, task: suites.Benchmark
) -> None:
    said = re.match(r"(\d+)-shot", suites.setting(suite, task.name) or "")
    if said:
        assert task.num_fewshot == int(said[1])
    if not task.own:
        config = read(defining(str(task.lm_eval), [THEIRS / folder for folder in task.folders]))
        # lm-eval leaves a task at 0 examples whatever it is asked for
        assert config.get("num_fewshot") != 0 or task.num_fewshot == 0


@pytest.mark.parametrize(("suite", "task"), AVAILABLE)
def test_a_task_is_found_in_one_way(suite: str, task: suites.Benchmark) -> None:
    assert task.metric
    assert all(key.count(",") == 1 for key in task.metric.split(suites.MEAN))
    assert (task.lm_eval is None) == (suite == suites.LONG_CONTEXT)
    assert bool(task.own or task.folders) == (suite != suites.LONG_CONTEXT)
    assert task.unsafe_code == (task.name in CODE)
    assert task.percent == (task.name != "smoke_text")
    is_chat = suite in ("instruct", "chat")
    assert task.chat_template == (is_chat and task.name not in CODE)


def test_what_is_unavailable_says_why_and_is_no_unit() -> None:
    reasons = suites.unavailable("instruct", "8b")
    assert {"minerva_math", "simpleqa", "arena_hard", "bfcl_v3", "salad_bench"} <= reasons.keys()
    assert all(len(reason) > 20 for reason in reasons.values())
    assert not {task.name for task, _ in suites.units("instruct", "8b")} & reasons.keys()
    with pytest.raises(
        UserError, match=r"task arena_hard: cannot be run, lm-eval 0\.4\.13 does not have it"
    ):
        suites.units("instruct", "8b", tasks=["arena_hard"])


def test_ruler_has_thirteen_tasks_and_ibms_means() -> None:
    tasks = suites.get_suite("long-context", "8b").tasks
    assert len(tasks) == 13
    assert {name for name, task in tasks.items() if task.metric == "match_any,none"} == {
        "qa_1",
        "qa_2",
    }
    for size, row in FACTS["ruler_base"].items():
        assert suites.ruler_references(str(size)) == row
    assert suites.ruler_references("tiny") == {}


def test_lengths_double_up_to_the_stages_own() -> None:
    assert suites.lengths("3b", 131072) == [4096, 8192, 16384, 32768, 65536, 131072]
    assert suites.lengths("30b", 524288)[-2:] == [262144, 524288]
    assert suites.lengths("8b", 5000) == [4096, 5000]
    assert suites.lengths("8b", 2048) == [2048]
    assert suites.lengths("tiny", 32768) == [256, 8192]
    assert suites.lengths("tiny", 2048) == [256, 2048]
    with pytest.raises(UserError, match="sequence length 0"):
        suites.lengths("8b", 0)


def test_samples_and_settings_by_size() -> None:
    assert [suites.samples(suite, "8b") for suite in suites.suite_names()] == [
        None,
        None,
        500,
        None,
        None,
    ]
    assert [suites.samples(suite, "tiny") for suite in ("long-context", "smoke")] == [32, 16]
    assert (
        suites.get_suite("long-context", "tiny").seconds
        < suites.get_suite("long-context", "8b").seconds
    )
    assert suites.get_suite("long-context", "30b").batch_size == "1"


def test_units_are_tasks_by_length() -> None:
    found = suites.units("long-context", "8b", [256, 2048], ["vt", "qa_1"])
    assert [(task.name, length) for task, length in found] == [
        ("vt", 256),
        ("qa_1", 256),
        ("vt", 2048),
        ("qa_1", 2048),
    ]
    assert len(suites.units("long-context", "8b", suites.lengths("8b", 131072))) == 13 * 6
    smoke = [(task.name, length) for task, length in suites.units("smoke", "tiny")]
    assert smoke == [("smoke_cloze", None), ("smoke_recall", None), ("smoke_text", None)]


def test_every_stage_is_followed_by_suites() -> None:
    for stage in STAGES:
        for size in SIZES:
            assert suites.stage_suites(stage, size)
    assert suites.stage_suites("phase3", "8b") == ("base",)
    assert suites.stage_suites("lce_128k", "30b") == ("long-context", "base")
    assert suites.stage_suites("sft", "3b") == ("instruct",)
    assert suites.stage_suites("lce_128k", "tiny") == ("long-context", "smoke")
    assert suites.stage_suites("phase1", "tiny") == ("smoke",)
    assert suites.stage_suites("sft", "tiny") == suites.stage_suites("rl_math", "tiny") == ("chat",)
    assert suites.lengths("tiny", resolve("lce_32k", "tiny").sequence_length.value) == [256, 2048]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: suites.get_suite("bse", "8b"), "did you mean 'base'"),
        (lambda: suites.get_suite("base", "9b"), "unknown size '9b'"),
        (lambda: suites.get_suite("tiny", "8b"), "unknown suite 'tiny'"),
        (lambda: suites.units("base", "8b", tasks=["mmul"]), "did you mean 'mmlu'"),
        (lambda: suites.reference("base", "gsm9k", "8b"), "did you mean 'gsm8k'"),
        (lambda: suites.units("base", "8b", [4096]), "lengths belong to long-context"),
        (lambda: suites.units("long-context", "8b"), "lengths belong to long-context"),
        (lambda: suites.stage_suites("phase9", "8b"), "did you mean 'phase"),
    ],
)
def test_unknown_names_are_said(call: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_a_size_without_published_scores_has_none() -> None:
    assert suites.reference("base", "mmlu", "tiny") is None
    assert suites.reference("smoke", "smoke_text", "8b") is None
    assert suites.setting("smoke", "smoke_text") is None


def test_folders_to_index_exist() -> None:
    task = suites.get_suite("base", "8b").tasks["mmmlu"]
    folders = [Path(folder) for folder in suites.task_folders(task)]
    assert folders == [
        THEIRS / "openai-mmmlu/default",
        THEIRS / "mmlu/default",
        suites.OWN_TASKS / "multilingual",
    ]
    assert suites.task_folders(suites.get_suite("long-context", "8b").tasks["vt"]) == ()


def test_a_score_may_be_the_mean_of_metrics() -> None:
    row = {"a,none": 0.5, "a_stderr,none": 0.02, "b,none": 0.7, "b_stderr,none": 0.04}
    assert suites.read_score("a,none", row) == (0.5, 0.02)
    assert suites.read_score("a,none + b,none", row) == (pytest.approx(0.6), pytest.approx(0.03))
    assert suites.read_score("a,none + b,none", {**row, "b_stderr,none": "N/A"}) == (
        pytest.approx(0.6),
        None,
    )
    with pytest.raises(KeyError):
        suites.read_score("c,none", row)


def test_tiny_grades_a_few_needle_tasks() -> None:
    tiny = suites.get_suite("long-context", "tiny")
    full = suites.get_suite("long-context", "8b")
    assert list(tiny.tasks) == ["niah_single_1", "niah_single_2", "niah_multikey_1"]
    assert tiny.tasks.keys() < full.tasks.keys()
    assert {task.metric for task in tiny.tasks.values()} == {"answer_bits_per_byte,none"}
    assert not any(task.percent for task in tiny.tasks.values())
    assert all("graded" in str(task.note) for task in tiny.tasks.values())
    assert full.unit_tokens is None


def test_mbpps_note_names_the_problems_of_its_task_file() -> None:
    note = str(suites.get_suite("instruct", "8b").tasks["mbpp"].note)
    assert "378 problems" in note
    assert "378 problems" in (suites.OWN_TASKS / "code/mbpp.yaml").read_text()
    assert "500" not in note
