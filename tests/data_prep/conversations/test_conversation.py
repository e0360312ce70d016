"""What is refused is in tests/bad_inputs/conversations.py."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import documents
from data_prep.conversations.conversation import Conversation, parse, without_nulls

USER = {"role": "user", "content": "a"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {"q": {"type": "string", "enum": ["x", "y"]}},
                "required": ["q"],
            },
        },
    },
]


def calling(**function: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_arguments_become_objects_and_content_beside_a_call_text() -> None:
    expected = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "add", "arguments": {"a": 1}},
            }
        ],
    }
    for arguments in ({"a": 1}, '{"a": 1}'):
        record = {"messages": [USER, calling(name="add", arguments=arguments)], "tools": TOOLS}
        assert parse(record).messages == [USER, expected]


def test_a_call_without_the_object_around_it_or_without_arguments() -> None:
    message = {"role": "assistant", "tool_calls": [{"name": "add"}]}
    [call] = parse({"messages": [USER, message], "tools": TOOLS}).messages[1]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "add", "arguments": {}}}


def test_parts_of_text_are_joined_as_granites_template_does() -> None:
    for texts, joined in ((["a", "b"], "a\nb"), (["", "a", "", "b"], "a\n\nb"), ([], "")):
        parts = [{"type": "text", "text": text} for text in texts]
        record = {"messages": [{"role": "user", "content": parts}, {**USER, "role": "assistant"}]}
        assert parse(record).messages[0]["content"] == joined


def test_keys_that_no_template_reads_are_counted() -> None:
    answer = {"role": "assistant", "content": "b", "weight": 1, "refusal": None}
    assert parse({"messages": [USER, answer, USER, answer]}).unread == {"weight": 2}


def read(file: Path) -> list[Conversation]:
    [part] = documents.split_inputs([str(file)], 2**20)
    records = documents.read_records(part, "messages", ("tools", "documents"))
    found = []
    for _, record in records:
        assert isinstance(record, dict)
        if file.suffix == ".parquet":
            record = without_nulls(record)
        found.append(parse(record))
    return found


def test_tools_and_arguments_survive_json_lines_and_parquet(tmp_path: Path) -> None:
    calls = [calling(name="add", arguments={"a": 1}), calling(name="find", arguments={"q": "x"})]
    records: list[dict[str, Any]] = []
    for call, tool in zip(calls, TOOLS, strict=True):
        records.append({"messages": [USER, call], "tools": [tool], "documents": [{"text": "t"}]})
    records.append({"messages": [USER, {"role": "assistant", "content": "b"}]})

    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(records), table)
    # the objects of a column have all keys of each other
    [tool] = pq.read_table(table)["tools"].to_pylist()[0]
    assert tool["function"]["parameters"]["properties"]["q"] is None
    assert read(table) == read(lines)

    as_text = [{**record, "tools": json.dumps(record.get("tools"))} for record in records]
    pq.write_table(pa.Table.from_pylist(as_text), table)
    assert read(table) == read(lines)
