"""The client of a server: what is served, refusals, waits, keys and what counts as an answer."""

import json

import pytest
from hypothesis import given, strategies

from evaluation import server as module
from evaluation.server import (
    Server,
    ServerRefused,
    ServerStopped,
    count_log_probabilities,
)
from recipes.common.errors import UserError
from tests.bad_inputs.edits import edited_json
from tests.helpers.completions_server import (
    after,
    completions,
    log_probabilities,
    requests_of,
)

pytestmark = pytest.mark.slow

PAYLOAD = {"model": "tiny", "prompt": "a", "max_tokens": 1}


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that the client would have waited."""
    seconds: list[float] = []
    monkeypatch.setattr(module, "sleep", seconds.append)
    return seconds


def test_an_answer() -> None:
    with completions() as url:
        assert [choice["text"] for choice in Server(url).complete(PAYLOAD)["choices"]] == [" w"]
        several = {**PAYLOAD, "prompt": ["a", "b"]}
        assert len(Server(url).complete(several)["choices"]) == 2


def test_what_is_served_is_the_same_each_time() -> None:
    with completions(models=("m1", "m2"), positions=512) as url:
        first, second = Server(url).models()
        assert (first.name, first.positions) == ("m1", 512)
        assert first.entry == {"id": "m1", "max_model_len": 512}
        assert Server(url).models() == [first, second]
        assert Server(url).version() is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "maximum context length is 256"}}, "400: maximum context length"),
        ({"object": "error", "message": "no such model"}, "400: no such model"),
        ({"detail": [{"loc": ["body", "prompt"]}]}, '400: [{"loc"'),
        (b"<html>bad\r\n gateway", "400: <html>bad gateway"),
        (b"\x1b[2Jgone\xff", "400: ?[2Jgone"),
        (b"", "400: Bad Request"),
        (b"[" * 100_000, "400: [[["),
    ],
)
def test_a_refusal_has_the_servers_words_and_is_not_repeated(tmp_path, waits, body, words) -> None:
    log = tmp_path / "log"
    with (
        completions(fault=after(0, 400, body), log=log) as url,
        pytest.raises(ServerRefused) as found,
    ):
        Server(url).complete(PAYLOAD)
    assert words in str(found.value)
    assert url in str(found.value)
    assert len(requests_of(log)) == 1
    assert waits == []


def test_a_server_that_fails_for_a_while(waits) -> None:
    def fault(number: int, body: dict):
        return (503, {}, b"loading") if number < 4 else None

    with completions(fault=fault) as url:
        assert Server(url).complete(PAYLOAD)["choices"]
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [408, 500, 503])
def test_a_server_that_has_stopped(waits, tmp_path, status) -> None:
    log = tmp_path / "log"
    with completions(fault=after(0, status), log=log) as url, pytest.raises(ServerStopped) as found:
        Server(url, tries=3).complete(PAYLOAD)
    assert f"{status}: out of memory" in str(found.value)
    assert len(requests_of(log)) == 3
    assert waits == [1, 2]


def test_a_server_that_is_not_there(waits) -> None:
    with completions() as url:
        pass
    with pytest.raises(ServerStopped, match="ConnectionError"):
        Server(url, tries=2).complete(PAYLOAD)
    assert waits == [1]


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(waits) -> None:
    # one that is over, two in seconds, one without a number; they are no failures
    headers = ["Wed, 21 Oct 2015 07:28:00 GMT", "7", "0.5", None]

    def fault(number: int, body: dict):
        if number > len(headers):
            return None
        header = headers[number - 1]
        return 429, {"Retry-After": header} if header else {}, {"error": "slow down"}

    with completions(fault=fault) as url:
        assert Server(url, tries=1).complete(PAYLOAD)["choices"]
    assert waits == [0, 7, 0.5, 8]


@pytest.mark.parametrize(("header", "most"), [("86400", 0), ("200", 3), (None, 20)])
def test_the_wait_for_a_rate_limit_is_bounded(waits, header, most) -> None:
    headers = {"Retry-After": header} if header else {}
    fault = lambda number, body: (429, headers, {"error": "the day's tokens are used"})  # noqa: E731
    with completions(fault=fault) as url, pytest.raises(ServerStopped) as found:
        Server(url).complete(PAYLOAD)
    assert "429: the day's tokens are used" in str(found.value)
    assert len(waits) <= most
    assert sum(waits) <= module.PATIENCE_SECONDS


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [{"index": 0}]},
        {"choices": [{"index": 0, "text": None}]},
        {"choices": [{"index": 1, "text": "a"}]},
        {"choices": [{"text": "a"}]},
        {"choices": ["a"]},
        {"choices": [{"index": 0, "text": "a"}, {"index": "b", "text": "b"}]},
        {"choices": [{"index": 0, "text": "a"}, {"index": 0, "text": "b"}]},
        [],
        "text",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_none_is_a_refusal(body) -> None:
    with completions(fault=after(0, 200, body)) as url, pytest.raises(ServerRefused) as found:
        Server(url).complete(PAYLOAD)
    assert "answers with what is no" in str(found.value)
    assert "\n" not in str(found.value)


def test_the_answers_to_a_request_come_in_its_order() -> None:
    body = {"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}
    with completions(fault=after(0, 200, body)) as url:
        answer = Server(url).complete({**PAYLOAD, "prompt": ["x", "y"]})
    assert [choice["text"] for choice in answer["choices"]] == ["a", "b"]


def test_the_key_is_sent_and_never_shown(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right\n")
    # of which requests would rather take the password
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with completions(key="sk-right") as url:
        assert Server(url).complete(PAYLOAD)["choices"]
        assert len(Server(url).models()) == 1
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(ServerRefused, match="401: Incorrect API key") as found:
            Server(url).complete(PAYLOAD)
    assert "sk-wrong" not in str(found.value)
    # a server that repeats it where an answer should be
    with (
        completions(fault=after(0, 200, {"key": "sk-wrong"})) as url,
        pytest.raises(ServerRefused, match="OPENAI_API_KEY") as found,
    ):
        Server(url).complete(PAYLOAD)
    assert "sk-wrong" not in str(found.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-“quoted”")
    with pytest.raises(UserError, match="OPENAI_API_KEY: holds characters that no key has"):
        Server(url).models()


def test_the_key_does_not_follow_to_another_server(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    log = tmp_path / "log"
    with completions(log=log) as other:
        move = (307, {"Location": other}, {})
        with completions(key="sk-right", fault=lambda number, body: move) as url:
            assert Server(url).complete(PAYLOAD)["choices"]
    (request,) = requests_of(log)
    assert "Authorization" not in request["headers"]


@pytest.mark.parametrize("host", ["a" * 80, ".host", "host:99999999", "host:port", "%", "\x00"])
def test_an_address_without_a_server(waits, host) -> None:
    with pytest.raises(ServerStopped):
        Server(f"http://{host}/v1/completions", tries=1).complete(PAYLOAD)


def test_log_probabilities_of_a_prompt_are_counted() -> None:
    def count(**changes) -> int:
        return count_log_probabilities({"logprobs": {**log_probabilities([5, 6, 7]), **changes}})

    assert count() == 3
    # its own token's only, as of a server that ignores echo
    assert count_log_probabilities({"logprobs": log_probabilities([])}) == 0
    assert count_log_probabilities({"logprobs": None}) == 0
    assert count_log_probabilities({}) == 0
    assert count(token_logprobs=[None, -1.0, float("nan"), -1.0]) == 0
    assert count(token_logprobs=[None, -1.0, None, -1.0]) == 0
    assert count(top_logprobs=None) == 0
    assert count(top_logprobs=[None, {"a": -1.0}, {}, {"a": -1.0}]) == 0
    assert count(top_logprobs=[None]) == 0


MODELS = json.dumps({"data": [{"id": "tiny", "max_model_len": 256, "created": 7}]}).encode()
CHOICE = {"index": 0, "text": "a", "logprobs": log_probabilities([5, 6, 7])}
ANSWER = json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 3}}).encode()


@given(edited_json(MODELS) | edited_json(ANSWER), strategies.sampled_from([200, 400]))
def test_any_answer_is_read_or_refused(content: bytes, status: int) -> None:
    _read_or_refuse(_response(status, content))


def _read_or_refuse(response) -> None:
    server = Server("http://host/v1/completions")
    server._session.request = lambda *_, **__: response

    def complete() -> None:
        for choice in server.complete(PAYLOAD)["choices"]:
            assert count_log_probabilities(choice) >= 0

    for read in (server.models, complete, server.version):
        try:
            read()
        except ServerRefused as error:
            assert str(error).startswith("http://host/")
            assert str(error).isprintable()


def _response(status: int, content: bytes):
    import requests

    response = requests.Response()
    response.status_code = status
    response._content = content
    response.reason = "Reason"
    return response
