"""Conversations of every form that the chat format has, from a seeded generator."""

import json
import random
from collections.abc import Iterator
from typing import Any

WORDS = (
    "granite",
    "a  b",
    "größer",
    "日本語",
    "🙂👩‍💻",
    "السلام",
    "e\u0301",
    "<b>&amp;'\"",
    "\\n",
    "x = 1\n\ty",
    "  ",
    "\r\n",
    "</tool_call>",
    "{% raw %}",
    "\u2028",
)


def conversations(count: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yield records of conversations: OpenAI's messages, and often tools and documents."""
    draw = random.Random(seed)
    for _ in range(count):
        yield _record(draw)


def _record(draw: random.Random) -> dict[str, Any]:
    record: dict[str, Any] = {"messages": []}
    names = []
    if draw.random() < 0.5:
        names = ["get_weather", "add", "späte_suche"][: draw.randint(1, 3)]
        record["tools"] = [_tool(draw, name) for name in names]
    if draw.random() < 0.4:
        documents = []
        for number in range(draw.randint(1, 3)):
            documents.append({"doc_id": number, "title": _text(draw), "text": _text(draw)})
        record["documents"] = documents
    if draw.random() < 0.5:
        record["messages"].append({"role": "system", "content": _content(draw)})
    for _ in range(draw.randint(1, 4)):
        record["messages"] += _turns(draw, names)
    return record


def _turns(draw: random.Random, names: list[str]) -> list[dict[str, Any]]:
    """Return a question and an answer, which may call tools before."""
    messages = [{"role": "user", "content": _content(draw)}]
    while names and draw.random() < 0.5:
        calls = [_call(draw, draw.choice(names)) for _ in range(draw.randint(1, 3))]
        content = draw.choice([None, "", _content(draw)])
        messages.append({"role": "assistant", "content": content, "tool_calls": calls})
        for call in calls:
            answer = {"role": "tool", "content": _content(draw)}
            if "id" in call:
                answer["tool_call_id"] = call["id"]
            messages.append(answer)
    if draw.random() < 0.1:
        messages.append({"role": "system", "content": _text(draw)})
    answer = _content(draw)
    # an answer that says nothing is refused
    if isinstance(answer, list):
        answer.append({"type": "text", "text": "end"})
    else:
        answer += "end"
    messages.append({"role": "assistant", "content": answer})
    return messages


def _tool(draw: random.Random, name: str) -> dict[str, Any]:
    properties = {"q": {"type": "string", "description": _text(draw), "enum": ["a", None]}}
    parameters = {"type": "object", "properties": properties, "required": ["q"]}
    function = {"name": name, "description": _text(draw), "parameters": parameters}
    return draw.choice([{"type": "function", "function": function}, function])


def _call(draw: random.Random, name: str) -> dict[str, Any]:
    arguments: Any = {"q": _text(draw), "n": draw.choice([1, 2.5, None, True, [1, {"a": {}}]])}
    if draw.random() < 0.2:
        arguments = {}
    if draw.random() < 0.5:
        arguments = json.dumps(arguments, ensure_ascii=draw.random() < 0.5)
    function = {"name": name, "arguments": arguments}
    return draw.choice(
        [function, {"id": f"call_{draw.randint(0, 9)}", "type": "function", "function": function}]
    )


def _content(draw: random.Random) -> Any:
    if draw.random() < 0.8:
        return _text(draw)
    return [{"type": "text", "text": _text(draw)} for _ in range(draw.randint(1, 3))]


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 12)))
