"""A metrics file is continued without what is done again; a damaged one is named."""

import json

import pytest

from recipes.common.errors import UserError
from recipes.training.metrics import open_metrics, read_metrics

STEPS = [
    {"step": 1, "loss": 6.0},
    {"step": 2, "loss": 5.0},
    {"step": 2, "val_loss": 5.5},
    {"step": 3, "loss": float("inf")},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in STEPS))
    return path


def test_a_last_line_that_was_cut_short_is_left_out(path) -> None:
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert read_metrics(path) == STEPS
    open_metrics(path, 3).close()
    assert read_metrics(path) == STEPS


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 1), (2, 2), (3, 4)])
def test_a_stage_continues_without_the_lines_of_what_it_does_again(path, step, kept) -> None:
    with open_metrics(path, step) as file:
        file.write('{"step": 9}\n')
    assert read_metrics(path) == [*STEPS[:kept], {"step": 9}]


def test_a_new_file(tmp_path) -> None:
    path = tmp_path / "metrics" / "steps.jsonl"
    open_metrics(path, 0).close()
    assert read_metrics(path) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"step": 4', "line 5 holds no JSON object"),
        (b"\xff\xfe", "line 5 holds no JSON object"),
        (b"[4, 5.0]", "line 5 holds no JSON object"),
        (b'{"loss": 5.0}', "line 5 has step None, expected a whole number"),
        (b'{"step": "4"}', "line 5 has step '4', expected a whole number"),
        (b'{"step": true}', "line 5 has step True, expected a whole number"),
    ],
)
def test_a_damaged_line_is_named(path, line, sentence) -> None:
    content = path.read_bytes() + line + b"\n"
    path.write_bytes(content)
    for read in (read_metrics, lambda path: open_metrics(path, 1)):
        with pytest.raises(UserError, match=rf"steps\.jsonl: {sentence}; remove the line"):
            read(path)
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_the_file(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path)
