"""Conversations as token ids and the mask of what is trained, by two methods that must agree."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from data_prep.conversations.conversation import BadConversation, Conversation
from data_prep.conversations.special_tokens import SpecialTokens
from data_prep.conversations.template import Rendering, load_template
from recipes.common.encoder import Encoder
from recipes.common.tokenizer_files import TokenizerFolder

Result = TypeVar("Result")


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

    def __init__(self, folder: Path, *, fast: bool = False) -> None:
        """Read a tokenizer's folder.

        Args:
            folder: holds the tokenizer and its template.
            fast: encode by gigatoken, within :meth:`run`.

        Raises:
            UserError: it holds no tokenizer, names no end-of-text, or has no template that can be
                used.
        """
        files = TokenizerFolder(folder)
        self.identity = files.identity
        self.template = load_template(folder, files.special_tokens)
        self.special_tokens = SpecialTokens(files.tokenizer)
        self._tokenizer = files.tokenizer
        self._encoder = Encoder(folder, reference_only=not fast)
        self._token_bytes = _token_bytes(files.tokenizer, self.identity.vocab_size)
        self._token_lengths = np.array([len(token) for token in self._token_bytes])

    @property
    def differing(self) -> int:
        """The texts of the sample that gigatoken gave other ids than Hugging Face's library."""
        return self._encoder.differing

    def run(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which is called again where gigatoken's ids are other ones."""
        return self._encoder.run(work)

    def encode(self, conversation: Conversation) -> EncodedConversation:
        """Return the ids of a conversation and which of them are trained.

        By the tags the mask follows from the characters that each token covers; by the prefixes
        from the number of tokens of each piece of the text, encoded by itself.

        Raises:
            BadConversation: it cannot be rendered, the methods differ, or all or none is trained.
            EncoderMismatch: of :meth:`run`, with the fast encoder.
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

    def encode_prompt(self, conversation: Conversation) -> np.ndarray:
        """Return the ids up to where the assistant begins to answer: int32, shape (tokens,).

        Args:
            conversation: whose last message is not the assistant's.

        Raises:
            BadConversation: it cannot be rendered.
        """
        text = self.template.render_prompt(conversation)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, dtype=np.int32)

    def _mask_by_characters(self, rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
        ids, _ = self._encoder.encode([rendering.text])
        starts = self._starts(rendering.text, ids)
        trained = np.zeros(len(ids), dtype=bool)
        for span in rendering.spans:
            start, end = (len(rendering.text[:character].encode()) for character in span)
            first, last = np.searchsorted(starts, [start, end])
            trained[first:last] = True
        return ids.astype(np.int32), trained

    def _starts(self, text: str, ids: np.ndarray) -> np.ndarray:
        """Return the byte of the text that each token begins at."""
        if b"".join(map(self._token_bytes.__getitem__, ids.tolist())) == text.encode():
            lengths = self._token_lengths[ids]
            return np.cumsum(lengths) - lengths
        # a tokenizer that is not of bytes, or changes the text
        ends = np.cumsum([0] + [len(character.encode()) for character in text])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return ends[[start for start, _ in encoding.offsets]]

    def _mask_by_pieces(self, rendering: Rendering) -> tuple[np.ndarray, np.ndarray]:
        # every second piece is trained
        bounds = [0]
        for span in rendering.spans:
            bounds += span
        bounds.append(len(rendering.text))

        pieces = [rendering.text[start:end] for start, end in pairwise(bounds)]
        ids, lengths = self._encoder.encode(pieces)
        is_trained = np.arange(len(pieces)) % 2 == 1
        return ids.astype(np.int32), is_trained.repeat(lengths)


def _token_bytes(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """Return the bytes that each id of a byte-level tokenizer stands for.

    Its vocabulary spells every byte as one character: itself where it can be seen, else one of
    those from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    bytes_of = {chr(byte): byte for byte in visible}
    bytes_of |= {chr(256 + number): byte for number, byte in enumerate(hidden)}

    found = [b""] * vocab_size
    for token, number in tokenizer.get_vocab(with_added_tokens=False).items():
        if bytes_of.keys() >= set(token):
            found[number] = bytes(bytes_of[character] for character in token)
    for number, added in tokenizer.get_added_tokens_decoder().items():
        found[number] = added.content.encode()
    return found
