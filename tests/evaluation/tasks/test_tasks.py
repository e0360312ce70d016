"""The tasks in evaluation/tasks, through lm-eval with models whose answers are known."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evaluation import sandbox, suites
from evaluation.tasks.code import scoring
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

TASKS = Path(sandbox.__file__).parent / "tasks"
ENTRIES = [
    "chat_arithmetic",
    "chat_look_up",
    "chat_string",
    "chat_tool_call",
    "humaneval",
    "humaneval_plus",
    "mbpp",
    "mbpp_plus",
    "smoke_cloze",
    "smoke_recall",
    "smoke_text",
]


class Canned(LM):
    """Generates ``answers``, request by request; finds every text likely by ``loglikelihoods``."""

    def __init__(
        self, answers: Sequence[str] = (), loglikelihoods: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        self.answers = list(answers)
        self.loglikelihoods = loglikelihoods or {}
        self.requests: list[tuple] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.requests = [request.args for request in requests]
        return self.answers[: len(requests)]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self.requests = [request.args for request in requests]
        return [
            (self.loglikelihoods.get(continuation, -9.0), False)
            for _, continuation in self.requests
        ]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        self.requests = [request.args for request in requests]
        return [-math.log(2) * len(text.encode()) for (text,) in self.requests]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's description of the environment asks pip and takes 1.5 seconds a call."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def evaluate(
    task: str, model: LM, *folders: Path, limit: int | None = None
) -> tuple[dict[str, Any], list[dict]]:
    """Return the row and the samples of ``task``."""
    manager = TaskManager(include_defaults=False, include_path=[TASKS, *folders])
    results = lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=100
    )
    return results["results"][task], results["samples"][task]


def documents(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASKS / "smoke" / name).read_text().splitlines()]


def test_every_task_is_found() -> None:
    assert set(ENTRIES) <= set(TaskManager(include_defaults=False, include_path=TASKS).all_tasks)


def members(name: str, manager: TaskManager) -> list[str]:
    """Return the tasks of a group, a tag or a task by lm-eval's own index.

    Raises:
        KeyError: one of them is not in it.
    """
    entry = manager.task_index[name]
    children = sorted(entry.tags - {name})
    if entry.yaml_path:
        listed = load_yaml(entry.yaml_path, resolve_func=False).get("task")
        children = (
            [child if isinstance(child, str) else child["task"] for child in listed]
            if listed != name
            else []
        )
    return [task for child in children for task in members(child, manager)] or [name]


def test_the_folders_of_every_benchmark_hold_all_of_its_tasks() -> None:
    expected = {"mmlu": 57, "mmlu_pro": 14, "bbh": 27, "agi_eval": 10, "mmmlu": 11 * 57, "mgsm": 5}
    for suite in ("base", "instruct", "smoke"):
        for task in suites.get_suite(suite, "8b").tasks.values():
            if not task.unavailable:
                manager = TaskManager(
                    include_defaults=False, include_path=list(suites.task_folders(task))
                )
                found = members(task.lm_eval, manager)
                assert len(found) == len(set(found))
                assert len(found) == expected.get(task.name, 66 if task.name == "include" else 1), (
                    task.name
                )


def test_cloze_is_decided_by_the_line_that_continues() -> None:
    items = documents("cloze.jsonl")
    lines = {item["choices"][item["answer"]]: -1.0 for item in items}
    # as a model without context: every right line is likely in any place
    model = Canned(loglikelihoods=lines)
    results, samples = evaluate("smoke_cloze", model)
    assert len(samples) == len(items) == 64
    assert results["acc,none"] == sum(item["answer"] == 0 for item in items) / 64 == 0.25
    assert results["acc_stderr,none"] == pytest.approx(math.sqrt(0.25 * 0.75 / 63))
    assert model.requests[0] == (items[0]["context"], items[0]["choices"][0])


def test_cloze_items_are_sound() -> None:
    for item in documents("cloze.jsonl"):
        assert len(set(item["choices"])) == 4
        assert len(item["context"]) + max(map(len, item["choices"])) < 400


def test_recall_strips_what_surrounds_the_word() -> None:
    items = documents("recall.jsonl")
    assert len(items) == 32
    assert all(
        f"{item['answer']}" in item["prompt"] and len(item["prompt"]) < 400 for item in items
    )
    right = [f"  {item['answer']} " for item in items[:24]]
    wrong = [item["answer"] + "x" for item in items[24:]]
    model = Canned([*right, *wrong])
    results, _ = evaluate("smoke_recall", model)
    assert results["exact_match,none"] == 0.75
    assert results["exact_match_stderr,none"] == pytest.approx(math.sqrt(0.75 * 0.25 / 31))
    prompt, settings = model.requests[0]
    assert prompt == items[0]["prompt"]
    assert settings["until"] == ["\n"]
    assert (settings["max_gen_toks"], settings["do_sample"]) == (8, False)


class Chat(Canned):
    """Has a chat template: the messages, as JSON."""

    tokenizer_name = "json"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        assert add_generation_prompt
        return json.dumps(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "json"


@pytest.mark.parametrize("task", ["chat_arithmetic", "chat_tool_call"])
def test_a_question_goes_through_the_chat_template_with_its_system_turn(task: str) -> None:
    items = documents(f"{task}.jsonl")
    answers = [item["answer"] for item in items]
    model = Chat([f"{answers[0]}.", f" {answers[1]}", *answers[2:]])
    manager = TaskManager(include_defaults=False, include_path=[TASKS])
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager,
        apply_chat_template=True,
        bootstrap_iters=100,
    )
    # a reply is right as a whole or not at all
    assert results["results"][task]["exact_match,none"] == 14 / 16
    for item, (prompt, settings) in zip(items, model.requests, strict=True):
        expected = [{"role": "user", "content": item["question"]}]
        if item["system"]:
            expected.insert(0, {"role": "system", "content": item["system"]})
        assert json.loads(prompt) == expected
        assert (settings["until"], settings["max_gen_toks"]) == ([], 48)


def test_text_of_one_bit_per_byte() -> None:
    model = Canned()
    results, samples = evaluate("smoke_text", model)
    assert len(samples) == 16
    assert all(500 < len(text) < 900 for (text,) in model.requests)
    assert results["bits_per_byte,none"] == pytest.approx(1.0)
    assert results["byte_perplexity,none"] == pytest.approx(2.0)
    assert results["word_perplexity,none"] > 2.0


def test_limit_and_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, samples = evaluate("smoke_text", Canned(), limit=3)
    assert len(samples) == 3
    assert not any(tmp_path.iterdir())


HUMANEVAL = [
    {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def plus_{number}(x):\n    """Return x + {number}."""\n',
        "canonical_solution": f"    return x + {number}\n",
        "test": f"\n\ndef check(candidate):\n    assert candidate(1) == {1 + number}\n",
        "entry_point": f"plus_{number}",
    }
    for number in range(3)
]
MBPP = [
    {
        "task_id": 11 + number,
        "text": f"Write a function to add {number}.",
        "prompt": f"Write a python function to add {number}.",
        "code": f"def plus(x):\n    return x + {number}",
        "test_list": [f"assert plus({x}) == {x + number}" for x in range(3)],
        "test_imports": [],
        "test": f"import numpy as np\nassert np.all([plus(x) == x + {number} for x in range(100)])",
    }
    for number in range(3)
]
# right, wrong, endless
BODIES = ["    return x + 0\n", "    return x + 2\n", "    while True: pass\n"]
PROGRAMS = [f"def plus(x):\n{body}" for body in BODIES]


def local(folder: Path, task: str, data: list[dict]) -> Path:
    """A task of the name ``task`` that differs from the project's in where its documents are."""
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    settings = {
        "include": str(TASKS / "code" / f"{task}.yaml"),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "data.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
    }
    (folder / "task.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is allowed, and endless programs cost 2 seconds."""
    judge = sandbox.judge
    monkeypatch.setenv("GRANITE41_ALLOW_CODE", "1")
    monkeypatch.setattr(
        sandbox, "judge", lambda *args, **limits: judge(*args, **{**limits, "seconds": 2.0})
    )


@pytest.mark.usefixtures("short")
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    ("task", "data", "answers"),
    [
        ("humaneval", HUMANEVAL, BODIES),
        ("humaneval_plus", HUMANEVAL, BODIES),
        ("mbpp", MBPP, PROGRAMS),
        ("mbpp_plus", MBPP, PROGRAMS),
    ],
)
def test_code_is_scored_by_its_tests(
    tmp_path: Path, task: str, data: list[dict], answers: list[str]
) -> None:
    results, samples = evaluate(task, Canned(answers), local(tmp_path, task, data))
    assert results["pass@1,none"] == pytest.approx(1 / 3)
    assert results["pass@1_stderr,none"] == pytest.approx(1 / 3)
    reasons = [sample["filtered_resps"][0] for sample in samples]
    assert reasons == ["passed", "failed: AssertionError", "timed out"]
    assert [sample["pass@1"] for sample in samples] == [1.0, 0.0, 0.0]


def test_trials_call_what_the_reference_defines(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = []
    monkeypatch.setenv("GRANITE41_ALLOW_CODE", "1")
    monkeypatch.setattr(sandbox, "judge", lambda given, *_, **__: trials.extend(given) or [])
    document = {
        "code": "import sys\nfrom math import inf\ndef near(x): pass\ndef size(x): pass",
        "test_imports": ["import math"],
        "test_list": ["assert size(1) == sys.getsizeof(1)", "assert math.isclose(size(1), inf)"],
    }
    scoring.run_mbpp([["def size(x): return 1"]], [document])
    assert trials == [
        sandbox.Trial(
            program="def size(x): return 1",
            setup="import math\nimport sys\nfrom math import inf",
            tests="\n".join(document["test_list"]),
            functions=["near", "size"],
        )
    ]


@pytest.mark.usefixtures("namespaces")
def test_helpers_of_a_prompt_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRANITE41_ALLOW_CODE", "1")
    document = {
        "prompt": ('def twice(x):\n    return 2 * x\n\n\ndef half(x):\n    """Undo twice."""\n'),
        "test": "def check(candidate):\n    assert candidate(twice(3)) == half(6) == 3\n",
        "entry_point": "half",
    }
    right = "    return x // 2\n"
    helper_replaced = "    return 3\n\ndef twice(x):\n    return None\n"
    constant = "    return x\n\ndef twice(x):\n    return 3\n"
    responses = [[right], [helper_replaced], [constant]]
    reasons = scoring.run_humaneval(responses, [document] * 3)
    assert reasons == ["passed", "passed", "failed: AssertionError"]


@pytest.mark.usefixtures("short")
@pytest.mark.usefixtures("namespaces")
def test_mbpp_plus_holds_more_than_the_tests_in_the_prompt(tmp_path: Path) -> None:
    narrow = "def plus(x):\n    return x if x < 3 else 0\n"
    for task, score in {"mbpp": 1.0, "mbpp_plus": 0.0}.items():
        folder = tmp_path / task
        folder.mkdir()
        results, _ = evaluate(task, Canned([narrow]), local(folder, task, MBPP[:1]))
        assert results["pass@1,none"] == score


@pytest.mark.usefixtures("short")
@pytest.mark.usefixtures("namespaces")
def test_prompts_of_the_code_tasks(tmp_path: Path) -> None:
    model = Canned(BODIES)
    evaluate("humaneval", model, local(tmp_path, "humaneval", HUMANEVAL), limit=1)
    prompt, settings = model.requests[0]
    assert prompt == HUMANEVAL[0]["prompt"]
    assert settings["until"] == ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
    assert (settings["max_gen_toks"], settings["do_sample"]) == (1024, False)

    model = Canned(PROGRAMS)
    evaluate("mbpp", model, local(tmp_path, "mbpp", MBPP), limit=1)
    prompt, settings = model.requests[0]
    examples = prompt.split("\n\nYou are an expert")
    assert len(examples) == 4
    assert examples[0].startswith(
        "You are an expert Python programmer, and here is your task: Write a function to find"
    )
    assert examples[0].endswith("\r\n  return (res) \n[DONE]")
    assert examples[3] == (
        " Python programmer, and here is your task: Write a python function to add 0. "
        "Your code should pass these tests:\n\n"
        "assert plus(0) == 0\nassert plus(1) == 1\nassert plus(2) == 2\n[BEGIN]\n"
    )
    assert (settings["until"], settings["do_sample"]) == (["[DONE]"], False)


def test_code_is_not_run_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRANITE41_ALLOW_CODE", raising=False)
    monkeypatch.setattr(sandbox, "judge", lambda *_, **__: pytest.fail("code was run"))
    with pytest.raises(UserError, match="GRANITE41_ALLOW_CODE=1"):
        evaluate("humaneval", Canned(BODIES), local(tmp_path, "humaneval", HUMANEVAL))
