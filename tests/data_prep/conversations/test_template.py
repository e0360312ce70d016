import json
import os
from pathlib import Path

import pytest

from data_prep.conversations.conversation import parse
from data_prep.conversations.encoder import ChatEncoder
from data_prep.conversations.template import ChatTemplate, load_template
from data_prep.tokenizer import CHAT_TEMPLATE
from tests.helpers.conversations import conversations

PUBLISHED = os.environ.get("GRANITE41_TEMPLATE")
TOKENS = {"eos_token": "<|end_of_text|>"}


def expected(role: str, content: str) -> str:
    return f"<|start_of_role|>{role}<|end_of_role|>{content}<|end_of_text|>\n"


def test_a_conversation_in_granites_format(encoder: ChatEncoder) -> None:
    function = {"name": "add", "arguments": '{"a": "größer", "b": [1, null]}'}
    record = {
        "messages": [
            {"role": "system", "content": "Be <short>."},
            {"role": "user", "content": [{"type": "text", "text": "Add"}]},
            {"role": "assistant", "content": "Yes.", "tool_calls": [{"function": function}] * 2},
            {"role": "tool", "content": "3"},
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": "3, 4"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "documents": [{"doc_id": 1, "text": "<b>"}],
    }
    rendering = encoder.template.render(parse(record))
    system, rest = rendering.text.split("<|end_of_text|>\n", 1)
    assert system.startswith("<|start_of_role|>system<|end_of_role|>Be <short>.\n\nYou are")
    assert '<tools>\n{"type": "function", "function": {"name": "add"}}\n</tools>' in system
    assert '<documents>\n{"doc_id": 1, "text": "<b>"}\n</documents>' in system

    call = (
        '<tool_call>\n{"name": "add", "arguments": {"a": "größer", "b": [1, null]}}\n</tool_call>'
    )
    said = f"Yes.\n{call}\n{call}"
    answers = "\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response>"
    assert rest == (
        expected("user", "Add")
        + expected("assistant", said)
        + expected("user", answers)
        + expected("assistant", "3, 4")
    )
    trained = [rendering.text[start:end] for start, end in rendering.spans]
    assert trained == [f"{said}<|end_of_text|>", "3, 4<|end_of_text|>"]


@pytest.mark.skipif(PUBLISHED is None, reason="GRANITE41_TEMPLATE names no published template")
@pytest.mark.slow
def test_the_demos_template_renders_what_the_published_one_does() -> None:
    demo = ChatTemplate(CHAT_TEMPLATE.read_text(encoding="utf-8"), "demo", TOKENS)
    published = ChatTemplate(Path(str(PUBLISHED)).read_text(encoding="utf-8"), "published", TOKENS)
    for record in conversations(1000):
        conversation = parse(record)
        assert demo.render(conversation) == published.render(conversation)
        # as it comes, and before an answer
        for options in ({}, {"add_generation_prompt": True}):
            texts = [
                template._original.render(
                    messages=record["messages"],
                    tools=record.get("tools"),
                    documents=record.get("documents"),
                    **options,
                )
                for template in (demo, published)
            ]
            assert texts[0] == texts[1]


@pytest.mark.slow
def test_transformers_renders_and_masks_the_same(
    encoder: ChatEncoder, tokenizer_folder: Path
) -> None:
    from transformers import AutoTokenizer

    from data_prep.conversations.template import _with_tags

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    assert tokenizer.chat_template == CHAT_TEMPLATE.read_text(encoding="utf-8")
    tagged = _with_tags(tokenizer.chat_template, "demo")
    for record in conversations(100):
        conversation = parse(record)
        given = {"tools": conversation.tools or None, "documents": conversation.documents or None}
        text = tokenizer.apply_chat_template(conversation.messages, tokenize=False, **given)
        assert text == encoder.template.render(conversation).text

        theirs = tokenizer.apply_chat_template(
            conversation.messages,
            chat_template=tagged,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **given,
        )
        ours = encoder.encode(conversation)
        assert ours.ids.tolist() == theirs["input_ids"]
        assert ours.trained.tolist() == [bool(mask) for mask in theirs["assistant_masks"]]


def test_a_template_in_the_settings_of_the_tokenizer(
    tmp_path: Path, encoder: ChatEncoder, tokenizer_folder: Path
) -> None:
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    config["chat_template"] = CHAT_TEMPLATE.read_text(encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_template(tmp_path, TOKENS).sha256 == encoder.template.sha256
