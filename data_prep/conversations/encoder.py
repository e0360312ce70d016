"""Conversations as token ids and the mask of what is trained, by two methods that must agree."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.conversations.conversation import BadConversation, Conversation
from data_prep.conversations.special_tokens import SpecialTokens
from data_prep.conversations.template import Rendering, load_template
from recipes.common.tokenizer_files import TokenizerFolder


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation's tokens.

    Attributes:
        ids: int32, shape (tokens,).
        trained: bool, shape (tokens,): whether a token is one that the model learns to predict.
    """

    ids: np.ndarray
    trained: np.ndarray


class ChatEncoder:
    """Encodes conversations with a tokenizer and its chat template.

    Attributes:
        identity: of the tokenizer.
        template: the chat template.
        special_tokens: those of the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        """Read a tokenizer's folder.

        Raises:
            UserError: it holds no tokenizer, names no end-of-text, or has no template that can be
                used.
        """
        files = TokenizerFolder(folder)
        self.identity = files.identity
        self.template = load_template(folder, files.special_tokens)
        self.special_tokens = SpecialTokens(files.tokenizer)
        self._tokenizer = files.tokenizer

    def encode(self, conversation: Conversation) -> EncodedConversation:
        """Return the ids of a conversation and which of them are trained.

        By the tags the mask follows from the characters that each token covers; by the prefixes
        from the number of tokens of each piece of the text, encoded by itself.

        Raises:
            BadConversation: it cannot be rendered, the methods differ, or all or none is trained.
        """
        tagged = self.template.render(conversation)
        by_prefixes = self.template.render_by_prefixes(conversation)
        ids, trained = self._mask_by_characters(tagged)
        piece_ids, piece_trained = self._mask_by_pieces(by_prefixes)
        same_ids = tagged.text == by_prefixes.text and np.array_equal(ids, piece_ids)
        if not (same_ids and np.array_equal(trained, piece_trained)):
            raise BadConversation(
                f"what is trained differs between the tags in {self.template.name} and what each "
                f"message adds to the text; put the tags around what the assistant says"
            )
        if trained.all() or not trained.any():
            share = "all" if trained.any() else "none"
            raise BadConversation(
                f"{share} of its tokens would be trained by {self.template.name}, expected those "
                f"of the assistant alone; use another template"
            )
        return EncodedConversation(ids, trained)

    def _mask_by_characters(self, rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
        encoding = self._tokenizer.encode(rendering.text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
        trained = np.zeros(len(ids), dtype=bool)
        for start, end in rendering.spans:
            trained |= (starts >= start) & (starts < end)
        return ids, trained

    def _mask_by_pieces(self, rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
        # every second piece is trained
        bounds = [0]
        for span in rendering.spans:
            bounds += span
        bounds.append(len(rendering.text))

        ids = []
        trained = []
        for number in range(len(bounds) - 1):
            piece = rendering.text[bounds[number] : bounds[number + 1]]
            piece_ids = self._tokenizer.encode(piece, add_special_tokens=False).ids
            ids += piece_ids
            trained += [number % 2 == 1] * len(piece_ids)
        return np.array(ids, dtype=np.int32), np.array(trained, dtype=bool)
