"""The check of a judge: a good one, one that likes length, and one that obeys its samples."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from data_prep.conversations.judge.check import Report, check, load_injections, pad, read_labelled
from data_prep.conversations.judge.client import Budget, Endpoint
from data_prep.conversations.judge.rubric import load_rubric
from recipes.common.errors import UserError
from tests.helpers.judge_server import Asked, answers, judge_server

pytestmark = pytest.mark.slow

LABELS = [9, 9, 7, 3, 2, 9]


def write(folder: Path) -> Path:
    file = folder / "labels.jsonl"
    with file.open("w") as stream:
        for number, score in enumerate(LABELS):
            user = {"role": "user", "content": f"question {number}"}
            messages = [user, {"role": "assistant", "content": f"score {score}"}]
            labels = {
                "scores": {"correctness": score},
                "faults": {"hallucination": score < 3},
                "verdict": "accept" if score > 8 else "reject",
            }
            stream.write(json.dumps({"messages": messages, "labels": labels}) + "\n")
    return file


def run(folder: Path, reply, probes: int = 4, **server) -> Report:
    with judge_server(reply=reply, **server) as url:
        endpoint = Endpoint(url, "judge", 8, first_wait=0.01)
        return asyncio.run(
            check(write(folder), folder / "out", load_rubric(), endpoint, Budget(), probes)
        )


def honest(asked: Asked) -> str:
    """Give the labels' scores, and a two where none is stated."""
    found = re.search(r"score (\d+)", asked.reply)
    score = int(found[1]) if found else 2
    return json.dumps(asked.verdict(score, hallucination=score < 3))


def likes_length(asked: Asked) -> str:
    return json.dumps(asked.verdict(9 if len(asked.reply) > 10 else 5))


def likes_order(asked: Asked) -> str:
    first = asked.system.index("- instruction_following")
    return json.dumps(asked.verdict(9 if first < asked.system.index("- calibration") else 5))


def obeys(asked: Asked) -> str:
    """Answer with the verdict that stands in the sample, with the request's own token."""
    found = re.search(r'\{"token".*\}\}', asked.reply)
    if found is None:
        return json.dumps(asked.verdict(2, hallucination=True))
    return json.dumps(json.loads(found[0]) | {"token": asked.token})


def parrots(asked: Asked) -> str:
    """Answer with the verdict that stands in the sample, as it stands there."""
    found = re.search(r'\{"token".*\}\}', asked.reply)
    return found[0] if found else json.dumps(asked.verdict(2))


def test_an_honest_judge(tmp_path: Path) -> None:
    report = run(tmp_path, honest)
    assert report.buckets == {"accept": 3, "borderline": 1, "reject": 2, "undecided": 0}
    assert report.agreement["correctness"].accuracy.value == 1
    assert report.agreement["correctness"].kappa.value == 1
    assert report.agreement["hallucination"].kappa.value == 1
    # the borderline one is labelled reject
    assert report.agreement["verdict"].accuracy.value == pytest.approx(5 / 6)
    assert report.differences["correctness"].value == 0
    assert [(probe.samples, probe.better, probe.worse) for probe in report.probes] == [
        (4, 0, 0),
        (4, 0, 0),
    ]
    assert report.flips == 0
    assert all(moved.samples == 4 for moved in report.injections)
    assert json.loads((tmp_path / "out/judge_check.json").read_text())["model"] == "judge"


def test_a_judge_that_likes_length(tmp_path: Path) -> None:
    padded, reordered = run(tmp_path, likes_length).probes
    assert (padded.better, padded.worse) == (4, 0)
    assert padded.score.value == pytest.approx(4)
    assert (reordered.better, reordered.worse) == (0, 0)


def test_a_judge_that_likes_an_order(tmp_path: Path) -> None:
    padded, reordered = run(tmp_path, likes_order).probes
    assert (padded.better, padded.worse) == (0, 0)
    assert (reordered.better, reordered.worse) == (0, 4)
    assert reordered.score.value == pytest.approx(-4)


def test_a_judge_that_obeys_its_samples_flips(tmp_path: Path) -> None:
    report = run(tmp_path, obeys)
    flips = {moved.name: moved.better for moved in report.injections}
    assert flips["verdict_as_json"] == flips["judge_turn_granite"] == 4
    assert flips["praise"] == flips["asks_for_ten"] == 0
    assert report.flips > 0


def test_a_verdict_that_is_repeated_from_a_sample_is_no_verdict(tmp_path: Path) -> None:
    report = run(tmp_path, parrots)
    assert report.flips == 0
    samples = {moved.name: moved.samples for moved in report.injections}
    # undecided, all of them
    assert samples["verdict_as_json"] == samples["verdict_in_a_fence"] == 0
    assert samples["praise"] == 4


def test_a_second_check_asks_for_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = run(tmp_path, honest, log=log)
    paid = sum(answers(log).values())
    second = run(tmp_path, honest, log=log)
    assert sum(answers(log).values()) == paid
    assert second.agreement == first.agreement
    assert (first.requests, second.requests) == (paid + 1, 0)


def test_padding_says_the_last_reply_twice() -> None:
    messages = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    messages.append({"role": "assistant", "content": "c"})
    padded = pad({"messages": messages, "language": "de"})
    assert [message["content"] for message in padded["messages"]] == ["a", "b", "c\n\nc"]
    assert padded["language"] == "de"
    # a reply that only calls a tool
    call = {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}
    assert pad(call) == call


def test_injections_are_of_every_category() -> None:
    bad, injected = load_injections()
    assert len(bad) == 4
    assert len(injected) >= 12
    for conversations in injected.values():
        assert len(conversations) == len(bad)
        for plain, conversation in zip(bad, conversations, strict=True):
            start = plain["messages"][-1]["content"]
            assert conversation["messages"][-1]["content"].startswith(start)
            assert conversation["messages"][:-1] == plain["messages"][:-1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, "labels: None is not of type 'object'"),
        ({}, "labels: .*non-empty|labels: {} "),
        ({"tone": 9}, "labels: Additional properties"),
        ({"scores": {"tone": 9}}, "labels/scores: Additional properties"),
        ({"scores": {"correctness": 11}}, "labels/scores/correctness: 11 is not one of"),
        ({"scores": {"correctness": True}}, "labels/scores/correctness: True is not"),
        ({"faults": {"ungrounded": True}}, "labels/faults: Additional properties"),
        ({"faults": {"hallucination": "yes"}}, "labels/faults/hallucination: 'yes' is not"),
        ({"verdict": "undecided"}, "labels/verdict: 'undecided' is not one of"),
    ],
)
def test_labels_that_are_refused(labels: object, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    record = {"messages": messages, "labels": labels}
    file.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"record 1: {sentence}"):
        read_labelled(file)
