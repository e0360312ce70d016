"""Every row of the table: exit status 2, one sentence, and nothing written."""

from collections import Counter
from pathlib import Path

import pytest

from tests.bad_inputs import conversations, data, inputs, mixtures, runs, table
from tests.bad_inputs.row import Input, Row, listing, run

ROWS = table.rows()
PARAMETERS = [
    pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else []) for row in ROWS
]


@pytest.mark.parametrize("row", PARAMETERS)
def test_a_bad_input_is_refused(row: Row, tmp_path: Path, request) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for write in row.input:
        write(folder)
    before = listing(folder)

    if row.slow:
        forked = request.getfixturevalue("forked")
        outcome = forked(run, row.command, folder, row.environment)
    else:
        outcome = run(row.command, folder, row.environment)

    assert (outcome.status, outcome.stdout) == (2, ""), outcome
    assert outcome.sentence.count("\n") == 1, outcome
    missing = [words for words in row.says if words not in outcome.sentence]
    assert not missing, outcome.sentence
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (runs.RUN, [inputs.run]),
        (mixtures.PLAN, [inputs.text("mine.yaml", mixtures.GOOD_FILE)]),
        (data.TOKENIZE, [inputs.tokenizer, inputs.documents]),
        (conversations.PACK, [inputs.tokenizer, inputs.conversations]),
    ],
)
def test_the_same_inputs_are_accepted_before_they_are_damaged(
    command: str, files: list[Input], tmp_path: Path
) -> None:
    for write in files:
        write(tmp_path)
    assert run(command, tmp_path, {}).status == 0


def test_every_command_occurs() -> None:
    missing = {
        command
        for command in table.commands()
        if not any(row.command.startswith(f"{command} ") for row in ROWS)
    }
    assert not missing


def test_no_two_rows_have_a_name_or_a_case() -> None:
    names = Counter(row.name for row in ROWS)
    assert not [name for name, count in names.items() if count > 1]
