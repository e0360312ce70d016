"""Conversations and chat templates: ``data pack``."""

from typing import Any

from tests.bad_inputs import inputs
from tests.bad_inputs.row import Row

PACK = "data pack --input a.jsonl --tokenizer tokenizer --output out"
CONFIG = "tokenizer/tokenizer_config.json"
TEMPLATE = "tokenizer/chat_template.jinja"

_USER = {"role": "user", "content": "1 + 1?"}
_ASSISTANT = {"role": "assistant", "content": "2"}
_TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def _calling(name: str, arguments: Any) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    call = {"type": "function", "function": function}
    return [_USER, {"role": "assistant", "tool_calls": [call]}]


# what is wrong, the record, what the sentence says after the record's place
_RECORDS: tuple[tuple[str, Any, str], ...] = (
    ("without messages", {"text": "a"}, "field 'messages' holds null, expected a list"),
    ("of no message", {"messages": []}, "field 'messages' holds an empty list, expected a list"),
    ("that is a number", 3, "holds int, expected an object"),
    ("of words", {"messages": ["hello"]}, "message 1 is str, expected an object with role"),
    (
        "with an unknown role",
        {"messages": [{"role": "developer", "content": "Be short."}, _USER, _ASSISTANT]},
        "message 1 has the role 'developer', expected one of system, user, assistant, tool",
    ),
    (
        "with an assistant's turn that is empty",
        {"messages": [_USER, {"role": "assistant", "content": " \n"}]},
        "message 2 is an assistant's without content or calls",
    ),
    (
        "without an assistant's turn",
        {"messages": [_USER]},
        "its last message is of the role user, expected the assistant's",
    ),
    (
        "that the assistant begins",
        {"messages": [_ASSISTANT, _USER, _ASSISTANT]},
        "message 1 is the assistant's, expected what it answers",
    ),
    (
        "with an answer without a call",
        {"messages": [_USER, {"role": "tool", "content": "3"}, _ASSISTANT]},
        "message 2 is a tool's answer that no call comes before",
    ),
    (
        "with a user's call",
        {"messages": [{**_calling("add", {})[1], "role": "user"}, _ASSISTANT], "tools": _TOOLS},
        "message 1 is of the role user and has tool_calls",
    ),
    (
        "with a call of a tool that was not declared",
        {"messages": _calling("sub", {}), "tools": _TOOLS},
        "message 2 calls 'sub', which is no tool that the conversation declares (add)",
    ),
    (
        "with a call and no tools",
        {"messages": _calling("add", {})},
        "message 2 calls 'add', which is no tool that the conversation declares (none)",
    ),
    (
        "with arguments that are no JSON",
        {"messages": _calling("add", '{"a": 1'), "tools": _TOOLS},
        "message 2 has a string of arguments of add that is no JSON",
    ),
    (
        "with arguments that are NaN",
        {"messages": _calling("add", '{"a": NaN}'), "tools": _TOOLS},
        "message 2 has a string of arguments of add that is no JSON (NaN is no value of JSON)",
    ),
    (
        "with arguments that are a list",
        {"messages": _calling("add", "[1]"), "tools": _TOOLS},
        "message 2 has arguments of add that are list, expected an object",
    ),
    (
        "with a tool without a name",
        {"messages": [_USER, _ASSISTANT], "tools": [{"type": "function"}]},
        "tool 1 has the name None, expected text that needs no escape",
    ),
    (
        "with a tool whose name ends the call",
        {"messages": [_USER, _ASSISTANT], "tools": [{"name": 'a", "b": "'}]},
        'tool 1 has the name \'a", "b": "\', expected text that needs no escape',
    ),
    (
        "with documents that are texts",
        {"messages": [_USER, _ASSISTANT], "documents": ["a"]},
        "field 'documents' is no JSON",
    ),
    (
        "with a picture",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, _ASSISTANT]},
        "message 1 has a part of the type 'image_url', expected text",
    ),
    (
        "that spells out a special token",
        {"messages": [{"role": "user", "content": "a<|end_of_text|>"}, _ASSISTANT]},
        "spells out <|end_of_text|>, which would be read as such",
    ),
)

# what is wrong, the template, what the sentence says
_TEMPLATES = (
    ("that ends within a tag", "{% if", "is no template of jinja2"),
    (
        "that cannot be masked",
        "{% for message in messages %}{{ message.content }}{% endfor %}",
        "has no generation tags, and no assistant's turn of Granite's form",
    ),
    (
        "with tags around what the user says",
        "{% generation %}{% for message in messages %}{{ message.content }}<|end_of_text|>"
        "{% endfor %}{% endgeneration %}",
        "a.jsonl, record 1: what is trained differs between the tags in tokenizer/chat",
    ),
    (
        "that counts the messages",
        "{{ messages | length }}{% for message in messages %}{% generation %}"
        "{{ message.content }}<|end_of_text|>{% endgeneration %}{% endfor %}",
        "a.jsonl, record 1: message 2 is rendered otherwise within the whole",
    ),
    (
        "that renders the day",
        "{{ strftime_now('%Y') }}{% generation %}{% endgeneration %}",
        "'strftime_now' is undefined",
    ),
    (
        "that breaks out of the sandbox",
        "{{ messages.__class__.__mro__ }}{% generation %}{% endgeneration %}",
        "access to attribute '__class__' of 'list' object is unsafe",
    ),
    (
        "that refuses every conversation",
        "{{ raise_exception('never') }}{% generation %}{% endgeneration %}",
        "cannot be rendered by tokenizer/chat_template.jinja (never)",
    ),
    ("in Latin 1", b"\xe4", "cannot be read"),
)


ROWS = [
    *(
        Row(
            f"a conversation {name}",
            PACK,
            input=[inputs.tokenizer, inputs.json_file("a.jsonl", record)],
            says=[f"a.jsonl, record 1: {says}"],
        )
        for name, record, says in _RECORDS
    ),
    *(
        Row(
            f"a chat template {name}",
            PACK,
            input=[inputs.tokenizer, inputs.conversations, inputs.text(TEMPLATE, template)],
            says=[says],
        )
        for name, template, says in _TEMPLATES
    ),
    Row(
        "a tokenizer without a chat template",
        PACK,
        input=[inputs.tokenizer, inputs.conversations, inputs.removed(TEMPLATE)],
        says=["tokenizer: holds no chat_template.jinja, expected the template"],
    ),
    Row(
        "a tokenizer for conversations that names no end-of-text",
        PACK,
        input=[inputs.tokenizer, inputs.conversations, inputs.json_file(CONFIG, {})],
        says=["tokenizer/tokenizer_config.json: names no eos_token"],
    ),
    Row(
        "a conversation that is no JSON",
        PACK,
        input=[inputs.tokenizer, inputs.text("a.jsonl", '{"messages": [\n')],
        says=["a.jsonl, record 1: is not JSON"],
    ),
    Row(
        "conversations that are all longer than a sequence",
        f"{PACK} --sequence-length 8",
        input=[inputs.tokenizer, inputs.conversations],
        says=["a.jsonl: no conversation is left to pack (1 longer than a sequence)"],
    ),
    Row(
        "conversations that are all bad",
        f"{PACK} --skip-bad-records",
        input=[inputs.tokenizer, inputs.documents],
        says=["a.jsonl: no conversation is left to pack (3 no conversation)"],
    ),
    Row(
        "conversations in an empty file",
        PACK,
        input=[inputs.tokenizer, inputs.text("a.jsonl", "")],
        says=["a.jsonl: no conversation is left to pack (there is none)"],
    ),
    Row(
        "a set of conversations that is not there",
        "data conversations --source tulu --output out.jsonl",
        ["tulu: no such set", "`granite41 data conversations` lists them"],
    ),
    Row(
        "a set of conversations without an output",
        "data conversations --source smoltalk",
        ["--source smoltalk: expected with --output"],
    ),
    Row(
        "an output without a set of conversations",
        "data conversations --output out.jsonl",
        ["--output and --input: expected with --source"],
    ),
    Row(
        "a copy of a set of conversations that has other columns",
        "data conversations --source smoltalk --input a.jsonl --output out.jsonl",
        ["smoltalk: no row is as the catalog says (has no 'messages', but text)"],
        [inputs.text("a.jsonl", '{"text": "a"}')],
    ),
    Row(
        "made-up conversations in a folder that holds something",
        "data made-up --conversations 10 --output out",
        input=[inputs.text("out/cat.jpg", "")],
        says=["out: exists already and would be overwritten"],
    ),
    Row(
        "no made-up conversation",
        "data made-up --conversations 0 --output out",
        ["Invalid value for '--conversations'"],
    ),
    Row(
        "packing into a folder that holds something",
        PACK,
        input=[inputs.tokenizer, inputs.conversations, inputs.text("out/cat.jpg", "")],
        says=["out: exists already and would be overwritten"],
    ),
    Row(
        "packing with another word for special tokens",
        f"{PACK} --special-tokens keep",
        input=[inputs.tokenizer, inputs.conversations],
        says=["--special-tokens keep: expected refuse or escape"],
    ),
    Row(
        "packing into sequences of one token",
        f"{PACK} --sequence-length 1",
        ["Invalid value for '--sequence-length'"],
    ),
]
