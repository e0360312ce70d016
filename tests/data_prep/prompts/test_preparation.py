"""Folders of prompts: what is left out and why, the difficulty filter, and continuing."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from data_prep.conversations.judge.client import Endpoint
from data_prep.conversations.judge.rubric import Sampling
from data_prep.prompts import public_sets
from data_prep.prompts.difficulty import ANSWERS, Trial
from data_prep.prompts.made_up.generators import GENERATORS, make_up
from data_prep.prompts.preparation import LEFT_OUT, Settings, prepare
from data_prep.prompts.sources import Source
from data_prep.prompts.tiny import SOURCES, tiny_sources
from data_prep.records import BadRow
from recipes.alignment.rewards.workers import Workers
from recipes.common.errors import UserError
from recipes.common.json_files import read_json_lines
from recipes.registry.resolve import resolve_rl
from recipes.runs.prompts import PROMPTS, Prompt, PromptFolder

pytestmark = pytest.mark.slow

LONG = "the quick brown fox jumps over the lazy dog near the old river bank today"


def ask(question: str, **others: Any) -> dict[str, Any]:
    record = {
        "messages": [{"role": "user", "content": question}],
        "domain": "math",
        "reward": "math",
        "gold": {"answer": "7"},
    }
    return record | others


def write(file: Path, *records: dict[str, Any]) -> Source:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return Source(str(file), None)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps({"text": LONG}) + "\n")
    answered = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "7"}]
    source = write(
        tmp_path / "own.jsonl",
        ask("What is 3 + 4?", id="a"),
        ask("What is 3 + 4?", id="b"),
        ask("What is 5 + 2?", id="a"),
        ask("What is x?", gold={"answer": ")("}),
        ask("What is y?", gold={"value": "7"}),
        ask("<|end_of_text|>What is z?"),
        ask(f"Count the words: {LONG}"),
        ask("Count the words.", documents=[{"text": LONG}]),
        ask("", messages=answered),
        ask("", messages=[{"role": "developer", "content": "?"}]),
        {"text": "no prompt"},
        ask("What is 6 + 1?"),
    )
    settings = Settings(decontaminate=(str(suite),))
    manifest = prepare([source], tmp_path / "out", settings, workers=1)

    folder = PromptFolder(tmp_path / "out")
    assert folder.manifest == manifest
    questions = [prompt.messages[0]["content"] for prompt in folder]
    assert questions == ["What is 3 + 4?", "What is 6 + 1?"]
    assert manifest.sources[source.name].left_out == {
        "another prompt asks the same": 1,
        "its gold answer cannot be used": 2,
        "it spells out a special token": 1,
        "an evaluation text shares words with it": 2,
        "no prompt": 4,
    }
    lines = list(read_json_lines(tmp_path / "out" / LEFT_OUT))
    details = " / ".join(str(line["detail"]) for line in lines)
    assert "its answer ')(' is no expression" in details
    assert "which math does not read" in details
    assert "its last message is the assistant's" in details


def test_gold_answers_that_are_made_up_are_right_by_their_rewards() -> None:
    prompts: list[Prompt] = []
    for name in GENERATORS:
        prompts += make_up(name, 30, 7, is_easy=True)
        prompts += make_up(name, 30, 7, is_easy=False)
    with Workers(2, {prompt.reward for prompt in prompts}, seconds=60) as workers:
        assert set(workers.check(prompts)) == {""}


def test_workers_and_runs_change_nothing(tmp_path: Path) -> None:
    sources = [Source("arithmetic", 60), Source("temporal", 30)]
    for name, workers in (("one", 1), ("two", 2)):
        prepare(sources, tmp_path / name, Settings(), workers)
    one = (tmp_path / "one" / PROMPTS).read_bytes()
    assert one == (tmp_path / "two" / PROMPTS).read_bytes()
    with pytest.raises(UserError, match="one: holds prompts already"):
        prepare(sources, tmp_path / "one", Settings(), 1)


def test_a_count_draws_from_a_file_by_the_seed(tmp_path: Path) -> None:
    records = [ask(f"What is {number} - {number - 7}?") for number in range(10, 40)]
    source = replace(write(tmp_path / "own.jsonl", *records), count=5)
    found = []
    for seed in (1, 1, 2):
        output = tmp_path / str(len(found))
        prepare([source], output, Settings(seed=seed), 1)
        found.append([prompt.id for prompt in PromptFolder(output)])
    assert len(found[0]) == 5
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("stage", SOURCES)
def test_tiny_has_prompts_of_each_stage(stage: str, tmp_path: Path) -> None:
    recipe = resolve_rl(stage, "tiny")
    counts = tiny_sources(stage, recipe.prompts.value)
    sources = [Source(name, count) for name, count in counts.items()]
    manifest = prepare(sources, tmp_path / stage, Settings(is_easy=True), workers=1)
    assert manifest.prompts == recipe.prompts.value
    assert set(manifest.domains) <= set(recipe.domains.value)
    made = [source.prompts for source in manifest.sources.values()]
    assert max(made) - min(made) <= 1


# --- Public sets

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 1,007"},
    "hendrycks_math": {"problem": "Which?", "solution": r"So it is $\boxed{\frac{1}{2}}$."},
    "big_math": {"problem": "Which x?", "answer": "x^2 + 1"},
    "arc_challenge": {
        "question": "Which one?",
        "choices": {"text": ["a rock", "a tree"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "sciq": {
        "question": "Which one?",
        "correct_answer": "water",
        **{"distractor1": "air", "distractor2": "fire", "distractor3": "earth"},
    },
    "knights_and_knaves": {
        "quiz": "Who is what?",
        "names": ["Zoey", "Ann"],
        "solution": [True, False],
        "knight_knave": {"knight": "hero", "knave": "villain"},
    },
    "ifeval_like": {
        "prompt": "Write of rain without commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": "[{}]",
    },
    "synthetic_text_to_sql": {
        "sql_prompt": "How many?",
        "sql_context": "CREATE TABLE a (n INT); INSERT INTO a VALUES (1), (2);",
        "sql": "SELECT COUNT(*) FROM a",
    },
    "squad_v2": {
        "context": "Paris lies on the Seine.",
        "question": "Which river?",
        "answers": {"text": ["Seine", "the Seine", "Seine"]},
    },
    "aya": {"inputs": "Wie geht es dir?"},
}
ANSWERS_OF_ROWS = {
    "gsm8k": {"answer": "1,007"},
    "hendrycks_math": {"answer": r"\frac{1}{2}"},
    "arc_challenge": {"answers": ["B"], "choices": ["a rock", "a tree"]},
    "sciq": {"answers": ["D"], "choices": ["air", "earth", "fire", "water"]},
    "knights_and_knaves": {"kinds": {"Zoey": "hero", "Ann": "villain"}},
    "squad_v2": {"answers": ["Seine", "the Seine"]},
}


@contextmanager
def set_of(
    name: str, row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Let a public set be a file of this row."""
    file = tmp_path / f"{name}.jsonl"
    file.write_text(json.dumps(row) + "\n")
    entry = replace(public_sets.public_sets()[name], inputs=[str(file)])
    with monkeypatch.context() as context:
        context.setitem(public_sets.public_sets(), name, entry)
        yield


def test_rows_of_public_sets_become_prompts_with_usable_golds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(ROWS) == set(public_sets.public_sets())
    prompts = []
    for name, row in ROWS.items():
        with set_of(name, row, tmp_path, monkeypatch):
            (prompt,) = public_sets.read_public_set(name)
        assert isinstance(prompt, Prompt)
        assert prompt.gold == ANSWERS_OF_ROWS.get(name, prompt.gold)
        prompts.append(prompt)
    with Workers(1, {prompt.reward for prompt in prompts}, seconds=60) as workers:
        assert set(workers.check(prompts)) == {""}


def test_a_row_without_an_answer_is_left_out_and_other_columns_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"problem": "Which?", "solution": "It is one half."}
    with set_of("hendrycks_math", row, tmp_path, monkeypatch):
        (found,) = public_sets.read_public_set("hendrycks_math")
    assert isinstance(found, BadRow)
    says = "record 1: has no column 'answer', expected it in gsm8k"
    with set_of("gsm8k", row, tmp_path, monkeypatch), pytest.raises(UserError, match=says):
        list(public_sets.read_public_set("gsm8k"))


# --- Difficulty


class Solver:
    """A server whose model adds two numbers below ten: right, wrong, or right every other time."""

    def __init__(self) -> None:
        self.requests = 0
        self.fails_after: int | None = None
        self._lock = Lock()
        self._asked: dict[str, int] = {}

    def answer(self, body: dict[str, Any]) -> tuple[int, str]:
        with self._lock:
            self.requests += 1
            if self.fails_after is not None and self.requests > self.fails_after:
                return 401, "the key has expired"
            question = body["messages"][-1]["content"]
            count = self._asked[question] = self._asked.get(question, 0) + 1
        numbers = re.findall(r"\d+", question)
        if len(numbers) != 2:
            return 200, "ready"
        first, second = map(int, numbers)
        right = {0: True, 1: False, 2: count % 2 == 0}[first % 3]
        return 200, str(first + second + (not right))


@contextmanager
def serving(solver: Solver) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = solver.answer(body)
            content = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/v1/chat/completions"
        finally:
            running.shutdown()
            thread.join()


def test_what_a_model_always_or_never_solves_is_left_out_and_no_answer_is_paid_twice(
    tmp_path: Path,
) -> None:
    solver = Solver()
    sources = [Source("arithmetic", 30)]
    with serving(solver) as url:
        trial = Trial(Endpoint(url, "sft", 4, first_wait=0), 4, Sampling(1.0, 16))
        settings = Settings(is_easy=True, trial=trial)
        solver.fails_after = 50
        with pytest.raises(UserError, match="401"):
            prepare(sources, tmp_path, settings, 1)
        assert {file.name for file in tmp_path.iterdir()} == {ANSWERS}
        kept = solver.requests

        solver.fails_after = None
        manifest = prepare(sources, tmp_path, settings, 1)
    # 30 prompts x 4, a probe a run, and the requests that were refused
    assert 30 * 4 < solver.requests <= 30 * 4 + 2 + kept - 50
    firsts = set()
    for prompt in PromptFolder(tmp_path):
        firsts.add(int(prompt.messages[0]["content"].split()[2]) % 3)
    assert firsts == {2}
    left_out = manifest.sources["arithmetic"].left_out
    assert set(left_out) == {"the model always solves it", "the model never solves it"}
    assert sum(left_out.values()) + manifest.prompts == 30
