"""The state of a job from what Slurm and the run's folder know of it."""

import json
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from slurm.status import Attempt, Event, JobHistory, JobState, _read_events


def _history(
    events: list[str],
    attempts: list[Attempt] | None = None,
    queued: JobState | None = None,
    steps: Path = Path("none"),
) -> JobHistory:
    accounting = {"7": attempts} if attempts else {}
    return JobHistory("7", queued, accounting, [Event("7", name) for name in events], steps)


def test_the_queue_comes_before_the_accounting_and_that_before_events() -> None:
    attempts = [Attempt("7", JobState("NODE_FAIL", ""), 60)]
    queued = JobState("PENDING", "BeginTime")
    assert _history(["started"], attempts, queued).state() == "PENDING"
    assert _history(["started"], attempts, queued).reason() == "BeginTime"
    assert _history(["started"], attempts).state() == "NODE_FAIL"
    assert _history(["started"]).state() == "RUNNING"
    assert _history([]).state() == "UNKNOWN"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("finished", "COMPLETED"),
        ("stopped", "PENDING"),
        ("crashed", "PENDING"),
        ("failed", "FAILED"),
        ("given up", "FAILED"),
    ],
)
def test_the_last_event_is_the_state_without_slurm(event, state) -> None:
    assert _history(["started", event]).state() == state


def test_a_job_that_is_given_up_says_so() -> None:
    attempts = [Attempt("7", JobState("FAILED", "exit status 1"), 60)]
    history = _history(["started", "crashed", "given up"], attempts)
    assert history.reason().startswith("as many starts as the cluster file allows")
    assert history.num_starts() == 1


def test_an_array_counts_the_members_that_failed() -> None:
    completed = JobState("COMPLETED", "")
    failed = JobState("FAILED", "exit status 2")
    attempts = [
        Attempt("7_0", failed, 1),
        Attempt("7_0", completed, 1),
        Attempt("7_1", failed, 1),
        Attempt("7_2", completed, 1),
    ]
    history = _history([], attempts)
    assert (history.state(), history.reason()) == ("FAILED", "1 of 3 shards")
    assert _history([], attempts[1:2] + attempts[3:]).state() == "COMPLETED"


def test_goodput_is_seconds_of_steps_over_those_of_all_jobs(tmp_path) -> None:
    steps = tmp_path / "steps.jsonl"
    lines = [
        {"step": number, "tokens": 100 * number, "tokens_per_second": 50} for number in (1, 2, 3)
    ]
    validation = {"step": 3, "val_loss": 1.0}
    steps.write_text("".join(json.dumps(line) + "\n" for line in [*lines, validation]))
    earlier = [Attempt("6", JobState("CANCELLED", ""), 4)]
    current = [Attempt("7", JobState("COMPLETED", ""), 8)]
    events = [Event("6", "started"), Event("7", "started")]
    history = JobHistory("7", None, {"6": earlier, "7": current}, events, steps)
    assert history.goodput() == 0.5
    assert _history(["started"], current).goodput() is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"tokens_per_second": 5}\n', "a step's 'tokens' or 'tokens_per_second' is missing"),
        (b'{"tokens": 1, "tokens_per_second": "5"}\n', "'tokens_per_second' is missing or no"),
        (b'{"tokens": 1, "tokens_per_second": 0}\n', "'tokens_per_second' is missing or no"),
        (b'{"tokens": 1, "tok\n', "line 1 holds no JSON object"),
        (b'{"tokens": "\xff"}\n', "line 1 holds no JSON object"),
        (b"[]\n", "line 1 holds no JSON object"),
    ],
)
def test_damaged_steps_are_one_sentence(tmp_path, line, message) -> None:
    steps = tmp_path / "steps.jsonl"
    steps.write_bytes(line * 2)
    history = _history(["started"], [Attempt("7", JobState("COMPLETED", ""), 8)], steps=steps)
    with pytest.raises(UserError, match=message) as refused:
        history.goodput()
    assert str(steps) in str(refused.value)


def test_a_step_that_is_still_being_written_does_not_count(tmp_path) -> None:
    steps = tmp_path / "steps.jsonl"
    steps.write_text('{"tokens": 1, "tokens_per_second": 1}\n' * 2 + '{"tokens": 3, "tok')
    history = _history(["started"], [Attempt("7", JobState("COMPLETED", ""), 8)], steps=steps)
    assert history.goodput() is None


def test_events_skip_half_a_line_of_a_lost_node(tmp_path) -> None:
    lines = [
        '{"event": "started", "job": 7}',
        '{"event": "sta{"event": "started", "job": 7}',
        '{"event": "started", "job": "7; reboot"}',
        '{"event": "finished", "job": 7}',
        '{"event": "unfinished line',
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert _read_events(tmp_path) == [Event("7", "started"), Event("7", "finished")]
