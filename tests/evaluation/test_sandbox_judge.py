"""Values that pass between the judge and the program, and messages that a program may forge."""

import json
import os
import random
from typing import Any

import pytest

from evaluation.sandbox_judge import Opaque, decode, encode, receive, send

VALUES = [
    *(None, True, False, 0, -1, 2**64, -(2**64), 7**9_999, 0.1, -0.0, float("-inf"), 1e-320, 2j),
    *("", "é\0\ud800\U0001f600", '{"object": 1}', b"", b"\xff\0", [], (), set(), frozenset(), {}),
    [[1, (2,)], ({3}, {"a": {None: frozenset({b"4"})}})],
    {1: "one", "1": 1, (1,): [True], 2.5: None},
    {"tuple": [1], "object": "x"},
    *(range(0), range(9, 0, -2)),
]
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(iter([])), Opaque)


def exact(value: Any) -> str:
    """Types and values: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, int | float | str):
        # of huge numbers the text would take minutes
        text = f"{value:x}" if isinstance(value, int) else repr(value)
        return f"{type(value)}{text}"
    if isinstance(value, dict):
        return f"{type(value)}{[(exact(key), exact(held)) for key, held in value.items()]}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value)}{[exact(part) for part in value]}"
    return repr(value)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_values_come_back_as_they_are(value: Any) -> None:
    assert decode(encode(value)) == value
    assert exact(decode(encode(value))) == exact(value)


def test_iterators_end_and_objects_are_opaque() -> None:
    assert list(decode(encode(map(str, range(3))))) == ["0", "1", "2"]
    assert len(list(decode(encode(iter(int, 1))))) == 2**16
    opaque = decode(encode(object()))
    assert opaque.kind == "object"
    assert opaque == opaque
    assert opaque != decode(encode(object()))
    assert opaque
    assert decode(encode(opaque)).kind == "object"


def assert_plain(value: Any) -> None:
    if type(value) is dict:
        value = [*value.keys(), *value.values()]
    if type(value) in (list, tuple, set, frozenset):
        for part in value:
            assert_plain(part)
    else:
        assert type(value) in PLAIN


def forged(random: random.Random, depth: int) -> Any:
    """A JSON value whose tags are those of messages and whose contents fit them or do not."""
    kinds = ["int", "bytes", "complex", "range", "tuple", "set", "frozenset", "dict"]
    kinds += ["iterator", "object", "eval"]
    leaves = [None, True, 3, -0.0, 1e999, "", "ff", "0x1f", "__class__", 10**30]
    if depth == 0 or random.random() < 0.2:
        return random.choice(leaves)
    parts = [forged(random, depth - 1) for _ in range(random.randrange(4))]
    if random.random() < 0.4:
        return parts
    if random.random() < 0.5:
        return {random.choice(kinds): parts}
    return {random.choice(kinds): forged(random, depth - 1)}


def test_whatever_a_program_sends_becomes_plain_values_or_an_exception() -> None:
    source = random.Random(1)
    accepted = 0
    for _ in range(20_000):
        message = json.dumps(forged(source, 4)).encode()
        try:
            value = decode(message)
        except Exception:
            continue
        accepted += 1
        assert_plain(value)
    assert accepted > 2_000


def test_messages_are_whole_and_bounded() -> None:
    read_end, write_end = os.pipe()
    send(write_end, b"x" * 1000)
    send(write_end, b"")
    assert receive(read_end) == b"x" * 1000
    assert receive(read_end, 0) == b""
    send(write_end, b"four")
    with pytest.raises(ValueError, match="4 bytes, more than 3"):
        receive(read_end, 3)
    os.close(write_end)
    with pytest.raises(EOFError):
        receive(read_end, 3)
        receive(read_end, 3)
    os.close(read_end)
