"""The client against a server process: waits, refusals, keys, budgets."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from data_prep.conversations.judge.client import Budget, Client, Endpoint, Refused
from data_prep.conversations.judge.rubric import Sampling
from data_prep.conversations.judge.verdict import schema
from recipes.common.errors import UserError
from tests.helpers.judge_server import HANG, entries, judge_server

pytestmark = pytest.mark.slow

MESSAGES = [
    {"role": "system", "content": "Judge."},
    {"role": "user", "content": 'BEGIN t\n{"messages": []}\nEND t\n'},
]
KEY = "sk-0123456789"


def ask(url: str, times: int = 1, budget: Budget | None = None, **settings: object) -> list:
    """Return the answers, or errors, of requests that are sent together."""
    wanted = {"model": "judge", "in_flight": 8, "first_wait": 0.01, **settings}

    async def run() -> list:
        endpoint = Endpoint(url, **wanted)
        async with Client(endpoint, Sampling(0.0, 100), budget or Budget()) as client:
            calls = [client.ask(MESSAGES, schema("multi_turn")) for _ in range(times)]
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def first(number: int, *fault: object):
    """Answer the first requests with a fault."""
    return lambda count: fault if count <= number else None


def reply(asked: object) -> str:
    return "a reply"


@pytest.mark.parametrize(
    "fault",
    [
        (500, {}, "out of memory"),
        (503, {}, {"error": {"message": "loading"}}),
        (408, {}, ""),
        (429, {"Retry-After": "0"}, ""),
        (200, {}, "<html>"),
        (200, {}, '{"choices": [{"mess'),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": None}]}),
        (200, {}, "[" * 100_000),
    ],
)
def test_what_fails_is_asked_again(fault: tuple, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with judge_server(reply=reply, fault=first(2, *fault), log=log) as url:
        (answer,) = ask(url)
    assert answer.text == "a reply"
    # the probe, two faults and the answer
    assert len(entries(log, "asked")) == 4


def test_a_limit_is_waited_for_longer_than_a_failure_is_tried() -> None:
    limit = first(9, 429, {"Retry-After": "0.01"}, "")
    with judge_server(reply=reply, fault=limit) as url:
        (answer,) = ask(url, tries=2)
    assert answer.text == "a reply"


def test_a_limit_without_an_end_ends() -> None:
    limit = first(99, 429, {"Retry-After": "3600"}, "slow down")
    with judge_server(fault=limit) as url:
        (error,) = ask(url)
    assert isinstance(error, UserError)
    assert "429: slow down" in str(error)


def test_a_request_that_waits_ends_with_the_others() -> None:
    def fault(number: int):
        # the first one waits for longer than any test may take
        return (429, {"Retry-After": "599"}, "") if number == 1 else None

    with judge_server(reply=reply, fault=fault) as url:
        answers = ask(url, times=5, budget=Budget(max_requests=4), in_flight=2)
    assert "--max-requests 4: the budget is spent" in str(answers[0])


def test_a_server_that_stopped_ends_every_request(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with judge_server(fault=first(10**6, 500, {}, "dead"), log=log) as url:
        errors = ask(url, times=100, tries=3)
    assert {str(error) for error in errors} == {str(errors[0])}
    assert "gives no answer (500: dead)" in str(errors[0])
    # not three each
    assert len(entries(log, "asked")) < 40


def test_a_judge_that_never_answers() -> None:
    with judge_server(fault=lambda number: HANG) as url:
        (error,) = ask(url, tries=2, timeout=0.2)
    assert isinstance(error, UserError)
    assert "TimeoutError" in str(error)


def test_one_request_is_refused_and_the_others_are_not() -> None:
    def fault(number: int):
        return (400, {}, {"error": {"message": "too long"}}) if number == 2 else None

    with judge_server(reply=reply, fault=fault) as url:
        answers = ask(url, times=3, in_flight=1)
    assert isinstance(answers[1], Refused)
    assert str(answers[1]) == "400: too long"
    assert answers[2].text == "a reply"


@pytest.mark.parametrize(
    ("server", "settings", "sentence"),
    [
        ({"key": KEY}, {}, "401: Incorrect API key provided: Bearer $OPENAI_API_KEY; set the key"),
        ({}, {"model": "other"}, "The model `other` does not exist"),
    ],
)
def test_a_wrong_key_or_model_costs_one_request(
    server: dict, settings: dict, sentence: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    log = tmp_path / "log"
    with judge_server(log=log, **server) as url:
        errors = ask(url, times=20, **settings)
    assert all(sentence in str(error) for error in errors)
    (probe,) = entries(log, "asked")
    assert probe["sample"] is None
    assert "sk-wrong" not in str(errors[0])


def test_a_wrong_address_costs_one_request(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with judge_server(log=log) as url:
        (error,) = ask(url.replace("/v1/", "/v2/"))
    assert "answers 404" in str(error)
    assert not log.exists()


def test_a_redirect_is_refused_with_the_key_kept(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    log = tmp_path / "log"
    # an address where nothing may arrive
    with judge_server(log=log) as other:
        move = first(9, 307, {"Location": other}, "")
        with judge_server(key=KEY, fault=move) as url:
            (error,) = ask(url)
    assert "answers 307" in str(error)
    assert not log.exists()


def test_the_key_is_sent_and_logged_nowhere(monkeypatch, caplog) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG, logger="data_prep")
    with judge_server(reply=reply, key=KEY, fault=first(1, 500, {}, f"no {KEY}")) as url:
        (answer,) = ask(url)
    assert answer.text == "a reply"
    assert "500" in caplog.text
    assert KEY not in caplog.text


def test_a_server_without_structured_output_is_asked_in_words(tmp_path: Path, caplog) -> None:
    log = tmp_path / "log"
    with judge_server(reply=reply, is_structured=False, log=log) as url:
        answers = ask(url, times=3)
    assert [answer.text for answer in answers] == ["a reply"] * 3
    asked = ["response_format" in entry["body"] for entry in entries(log, "asked")]
    assert asked == [True, False, False, False, False]
    assert "has no structured output" in caplog.text


def test_structured_output_has_the_schema(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with judge_server(reply=reply, log=log) as url:
        ask(url)
    for entry in entries(log, "asked"):
        wanted = entry["body"]["response_format"]
        assert wanted["type"] == "json_schema"
        assert wanted["json_schema"]["schema"] == json.loads(json.dumps(schema("multi_turn")))


@pytest.mark.parametrize("in_flight", [1, 8])
def test_a_budget_of_requests_is_kept_to(in_flight: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    budget = Budget(max_requests=6)
    with judge_server(reply=reply, log=log) as url:
        answers = ask(url, times=20, budget=budget, in_flight=in_flight)
    assert len(entries(log, "asked")) == 6
    # all but the probe, and what was in flight at the end is among them
    assert sum(not isinstance(answer, Exception) for answer in answers) == 5
    assert "--max-requests 6: the budget is spent" in str(answers[-1])


def test_a_budget_of_tokens_stops_within_what_is_in_flight() -> None:
    budget = Budget(max_tokens=500)
    with judge_server(reply=reply) as url:
        answers = ask(url, times=50, budget=budget, in_flight=4)
    # 100 each
    assert 500 <= budget.tokens <= 500 + 4 * 100
    assert "--max-tokens 500: the budget is spent" in str(answers[-1])
