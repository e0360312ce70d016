"""Programs that a judge must withstand: the rows of sandbox_attacks.txt, each run for real."""

import re
from pathlib import Path

import pytest

from evaluation.sandbox import Trial, judge

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("namespaces")]

TESTS = "assert double(2) == 4"
RIGHT = "def double(x): return 2 * x"
TOO_LATE = "timed out"
ROWS = Path(__file__).with_name("sandbox_attacks.txt")


def read_rows() -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the prelude, and reason and program of every attack."""
    text = re.sub("^---.*\n", "", ROWS.read_text(), flags=re.MULTILINE)
    _, _, prelude, *rows = re.split("^=== (.*)\n", text, flags=re.MULTILINE)
    attacks = {}
    for head, program in zip(rows[::2], rows[1::2], strict=True):
        name, reason = head.split(" => ")
        attacks[name] = (reason, program)
    return prelude, attacks


PRELUDE, ATTACKS = read_rows()


def reasons(programs: list[str], seconds: float) -> list[str]:
    trials = [Trial(f"{PRELUDE}\n{program}", TESTS, ["double"]) for program in programs]
    # the programs of a launcher follow each other: none must harm the next
    trials.append(Trial(RIGHT, TESTS, ["double"]))
    outcomes = judge(trials, 4, seconds=seconds, memory_bytes=2**30)
    assert outcomes.pop().passed
    assert all(outcome.passed == (outcome.reason == "passed") for outcome in outcomes)
    return [outcome.reason for outcome in outcomes]


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """The reason of every attack."""
    late = [name for name, (reason, _) in ATTACKS.items() if reason == TOO_LATE]
    others = [name for name in ATTACKS if name not in late]
    ended = reasons([ATTACKS[name][1] for name in late], 4.0)
    ended += reasons([ATTACKS[name][1] for name in others], 60.0)
    return dict(zip([*late, *others], ended, strict=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, found: dict[str, str]) -> None:
    assert found[name] == ATTACKS[name][0]


@pytest.mark.parametrize("name", ["frames", "all objects", "memory"])
def test_tests_in_memory_would_be_found(name: str) -> None:
    # the attacks that look for them do find what is there
    text = "frame = sys._getframe()\nhidden = 'assert double(2)' + ' == 4'\n"
    assert reasons([text + ATTACKS[name][1]], 60.0) == ["passed"]
