"""Workers that hang, die or take too much memory cost one answer, and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from recipes.alignment.rewards.reward import Outcome
from recipes.alignment.rewards.workers import Workers
from recipes.runs.prompts import Prompt

pytestmark = pytest.mark.slow

HANGING = r"\boxed{9^{9^{9^{9}}}x}"


def prompt(reward: str, **gold: Any) -> Prompt:
    question = [{"role": "user", "content": "What is it?"}]
    return Prompt(id="a", domain="any", messages=question, reward=reward, gold=gold)


NUMBER = prompt("math", answer="7")
EXPRESSION = prompt("math", answer="x^2")
WORD = prompt("in_context", answer="seven")


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(1, ["math"], seconds=6) as workers:
        yield workers


def outcomes(workers: Workers, *answers: tuple[Prompt, str]) -> list[str]:
    return [str(reward.outcome) for reward in workers.score(answers)]


def test_a_hanging_answer_costs_itself_and_its_worker(workers: Workers) -> None:
    found = outcomes(workers, (NUMBER, "7"), (EXPRESSION, HANGING), (NUMBER, "7"), (NUMBER, "8"))
    assert found == ["right", "timed_out", "right", "wrong"]
    assert workers.restarts == 1


def test_a_worker_that_was_killed_while_idle_is_replaced(workers: Workers) -> None:
    assert outcomes(workers, (NUMBER, "7")) == ["right"]
    for idle in workers._idle:
        os.kill(idle.process, signal.SIGKILL)
    assert outcomes(workers, (NUMBER, "7"), (NUMBER, "8")) == ["right", "wrong"]
    assert workers.restarts == 1


def test_an_answer_whose_worker_was_killed_is_scored_by_another(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes(workers, (NUMBER, "7"))
    give = workers._give

    def kill_the_first(task: Any) -> Any:
        idle = workers._idle[-1] if not workers.restarts else None
        if idle:
            os.kill(idle.process, signal.SIGSTOP)
        chosen = give(task)
        if idle:
            os.kill(idle.process, signal.SIGKILL)
        return chosen

    monkeypatch.setattr(workers, "_give", kill_the_first)
    assert outcomes(workers, (NUMBER, "7"), (NUMBER, "8")) == ["right", "wrong"]
    assert workers.restarts == 1


def test_an_answer_that_kills_two_workers_is_given_up(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = workers._give

    def kill_if_hanging(task: Any) -> Any:
        chosen = give(task)
        if task[1] == HANGING:
            os.kill(chosen.process, signal.SIGKILL)
        return chosen

    monkeypatch.setattr(workers, "_give", kill_if_hanging)
    rewards = workers.score([(EXPRESSION, HANGING), (NUMBER, "7")])
    assert [reward.outcome for reward in rewards] == [Outcome.TIMED_OUT, Outcome.RIGHT]
    assert rewards[0].reason == "its worker dies of it"
    assert workers.restarts == 2


def test_signals_to_all_processes_are_for_the_one_that_trains(workers: Workers) -> None:
    outcomes(workers, (NUMBER, "7"))
    for idle in workers._idle:
        os.kill(idle.process, signal.SIGTERM)
    os.kill(workers._nursery._process.pid, signal.SIGTERM)
    assert outcomes(workers, (NUMBER, "7"), (EXPRESSION, HANGING)) == ["right", "timed_out"]
    assert workers.restarts == 1


def test_an_answer_that_takes_too_much_memory_costs_itself() -> None:
    object_ = '{"a":1}'
    large = "[" + ",".join([object_] * 8000) + "]"
    schema = prompt("structured_output", schema={"type": "object", "required": ["a"]})
    with Workers(1, ["structured_output"], seconds=60, memory_bytes=2**20) as workers:
        found = outcomes(workers, (schema, object_), (schema, large), (schema, object_))
    assert found == ["right", "timed_out", "right"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_rewards_keep_the_order_of_answers_for_any_number_of_workers(count: int) -> None:
    pairs = []
    for number in range(40):
        pairs.append((prompt("in_context", answer=str(number)), str(number // 2 * 2)))
    with Workers(count, ["in_context"]) as workers:
        rewards = workers.score(pairs)
    assert [reward.value for reward in rewards] == [1.0, 0.0] * 20


def test_a_gold_answer_that_cannot_be_read_is_said(workers: Workers) -> None:
    bad = prompt("math", answer=")(")
    hanging = prompt("math", answer="9^{9^{9^{9}}}x")
    reasons = workers.check([NUMBER, bad, hanging, prompt("math", solution="7")])
    assert reasons == [
        "",
        "its answer ')(' is no expression",
        "it takes more than 6 s",
        "its gold has a key 'solution', which math does not read",
    ]


def test_workers_end_with_the_process_that_started_them() -> None:
    program = """
import sys
from tests.recipes.alignment.rewards.test_workers import EXPRESSION, HANGING, NUMBER, Workers
with Workers(1, ["math"], seconds=600) as workers:
    workers.score([(NUMBER, "7")])
    print(workers._idle[0].process, flush=True)
    workers.score([(EXPRESSION, HANGING)])
"""
    # its workers' output goes to where its errors go
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    worker = int(child.stdout.readline())
    os.kill(worker, 0)
    child.kill()
    # which ends once no process has it
    child.communicate(timeout=60)
