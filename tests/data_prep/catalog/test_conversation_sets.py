"""Public conversation sets: the table, and how rows of each become conversations."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.catalog.catalog import load_catalog
from data_prep.catalog.conversation_sets import BadRow, Columns, get_set, load_sets, to_record
from data_prep.conversations.conversation import parse
from data_prep.conversations.convert import convert
from recipes.common.errors import UserError

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
TOOL = {
    "name": "area",
    "description": "Area of a circle.",
    "parameters": {
        "radius": {"description": "In meters.", "type": "float"},
        "names": {"description": "Whose.", "type": "List[str], optional", "default": ""},
        "box": {"description": "Corners.", "type": "Tuple[int, int]"},
    },
}
CALL = {"name": "area", "arguments": {"radius": 2.0, "box": [1, 2]}}
# a row of each set's form; what the columns do not name is left out
ROWS: dict[str, dict[str, Any]] = {
    "tulu-3-sft-mixture": {"id": "a", "messages": MESSAGES, "source": "b"},
    "smoltalk": {"messages": MESSAGES, "source": "b"},
    "nemotron-chat": {"uuid": "a", "messages": MESSAGES, "metadata": "{}"},
    "numinamath-cot": {"problem": "1 + 1", "solution": "2", "messages": MESSAGES},
    "opencodeinstruct": {"id": "a", "input": "Add.", "output": "a + b"},
    "xlam-function-calling-60k": {
        "id": 0,
        "query": "How large is it?",
        "answers": json.dumps([CALL]),
        "tools": json.dumps([TOOL]),
    },
    "when2call": {
        "messages": MESSAGES,
        "tools": [json.dumps({"name": "f", "parameters": {}})],
    },
    "rag-dataset-12000": {"context": "It is red.", "question": "What color?", "answer": "Red."},
    "aya_dataset": {"inputs": "Hallo?", "targets": "Hallo.", "language_code": "deu"},
}


def test_the_table_is_whole() -> None:
    sets = load_sets()
    assert sum(entry.percent for entry in sets.values()) == 100
    catalog = load_catalog()
    for entry in sets.values():
        assert all((entry.license, entry.why, entry.checked))
        columns = entry.columns
        assert bool(columns.messages) != bool(columns.user)
        assert not columns.user or bool(columns.assistant) != bool(columns.calls)
        if entry.ibm:
            assert "instruct.post_training" in catalog[entry.id].stages


@pytest.mark.parametrize("name", load_sets())
def test_a_row_becomes_a_conversation(name: str) -> None:
    conversation = parse(to_record(ROWS[name], get_set(name).columns))
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_columns_become_documents_calls_tools_and_language() -> None:
    record = to_record(ROWS["rag-dataset-12000"], get_set("rag-dataset-12000").columns)
    assert record["documents"] == [{"text": "It is red."}]
    record = to_record(ROWS["aya_dataset"], get_set("aya_dataset").columns)
    assert record["language"] == "deu"

    name = "xlam-function-calling-60k"
    record = to_record(ROWS[name], get_set(name).columns)
    assert record["messages"][1]["tool_calls"] == [{"type": "function", "function": CALL}]
    (tool,) = record["tools"]
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "radius": {"description": "In meters.", "type": "number"},
            "names": {"description": "Whose.", "type": "array"},
            "box": {"description": "Corners."},
        },
        "required": ["radius", "box"],
    }


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (Columns(messages="m"), {"a": 1, "b": 2}, "has no 'm', but a, b"),
        (Columns(user="a", calls="c"), {"a": "x", "c": "[1"}, "has no JSON in 'c'"),
        (Columns(user="a", calls="c"), {"a": "x", "c": "1"}, "has int in 'c', expected a list"),
        (
            Columns(messages="a", tools="t", python_types=True),
            {"a": [], "t": '[{"name": "f"}]'},
            "has a tool of another form (KeyError('parameters'))",
        ),
    ],
)
def test_what_a_row_lacks_is_said(columns: Columns, row: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRow) as raised:
        to_record(row, columns)
    assert words in str(raised.value)


def test_a_copy_of_a_set_is_converted_and_other_rows_are_counted(tmp_path: Path) -> None:
    source = get_set("aya_dataset")
    rows = [json.dumps(ROWS["aya_dataset"]), '{"inputs": "Hallo?"}', "no json"]
    (tmp_path / "aya.jsonl").write_text("\n".join(rows) + "\n")
    output = tmp_path / "out/chats.jsonl"
    converted = convert(source, output, [str(tmp_path / "aya.jsonl")])
    assert converted.conversations == 1
    assert list(converted.left_out.values()) == [1, 1]
    assert "has no 'targets', but inputs" in converted.left_out
    (line,) = output.read_text().splitlines()
    parse(json.loads(line))
    with pytest.raises(UserError, match="exists already"):
        convert(source, output, [str(tmp_path / "aya.jsonl")])


def test_a_set_without_any_such_row_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"no row is as the catalog says \(has no 'messages'"):
        convert(get_set("smoltalk"), tmp_path / "out.jsonl", [str(tmp_path / "a.jsonl")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
