"""Prompts as the ids that ask for an answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.conversations.conversation import ASSISTANT, BadConversation, parse
from data_prep.conversations.encoder import ChatEncoder
from recipes.common.errors import UserError
from recipes.runs.prompts import Prompt


class PromptEncoder:
    """Encodes prompts with a tokenizer and its chat template, as conversations are packed.

    Args:
        folder: of the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        self._chat = ChatEncoder(folder)

    def __call__(self, prompt: Prompt) -> np.ndarray:
        """Return the ids of a prompt up to where the assistant begins: int32, shape (tokens,).

        Raises:
            UserError: it is no conversation, or cannot be rendered.
        """
        answer = {"role": ASSISTANT, "content": "."}
        record = {
            "messages": [*prompt.messages, answer],
            "tools": prompt.tools,
            "documents": prompt.documents,
        }
        try:
            answered, _ = self._chat.special_tokens.escape(parse(record))
            asked = replace(answered, messages=answered.messages[:-1])
            return self._chat.encode_prompt(asked)
        except BadConversation as error:
            raise UserError(
                f"prompt {prompt.id}: {error}; prepare the prompts again without it"
            ) from error
