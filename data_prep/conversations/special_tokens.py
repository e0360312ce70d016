"""Special tokens that are spelled out in a conversation, where they would become such."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from data_prep.conversations.conversation import Conversation


class SpecialTokens:
    """The special tokens of a tokenizer.

    A user's text that spells ``<|end_of_text|>`` and a role would end its turn and begin another.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = []
        for token in tokenizer.get_added_tokens_decoder().values():
            if token.special:
                tokens.append(re.escape(token.content))
        # the longest first, where one is the start of another
        tokens.sort(key=len, reverse=True)
        # without any, what matches nowhere
        self._pattern = re.compile("|".join(tokens) or r"(?!)")

    def escape(self, conversation: Conversation) -> tuple[Conversation, Counter[str]]:
        """Return the conversation with a space after the first character of each, and their counts.

        In everything that a template may render: texts, calls, tools and documents, keys included.
        """
        found = Counter[str]()
        escaped = replace(
            conversation,
            messages=self._escaped(conversation.messages, found),
            tools=self._escaped(conversation.tools, found),
            documents=self._escaped(conversation.documents, found),
        )
        return escaped, found

    def _escaped(self, value: Any, found: Counter[str]) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(lambda match: _break(match[0], found), value)
        if isinstance(value, dict):
            items = {}
            for key, item in value.items():
                items[self._escaped(key, found)] = self._escaped(item, found)
            return items
        if isinstance(value, list):
            return [self._escaped(item, found) for item in value]
        return value


def _break(token: str, found: Counter[str]) -> str:
    found[token] += 1
    return f"{token[0]} {token[1:]}"
