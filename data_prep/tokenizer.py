"""Train a small byte-level BPE tokenizer in the Hugging Face format."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.common.errors import UserError
from recipes.common.json_files import write_json

END_OF_TEXT = "<|end_of_text|>"  # id 0; begin and end of text are one token, as in Granite 4.1
PAD = "<|pad|>"  # id 1
# around the role of a conversation's turn, whose end is END_OF_TEXT
START_OF_ROLE = "<|start_of_role|>"
END_OF_ROLE = "<|end_of_role|>"
SPECIAL_TOKENS = [END_OF_TEXT, PAD, START_OF_ROLE, END_OF_ROLE]
MINIMUM_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte has an entry, so no text is unknown

CHAT_TEMPLATE = Path(__file__).parent / "conversations" / "chat_template.jinja"

# Granite 4.1's tokenizer.json splits by cl100k's expression; its tokenizer_config.json names the
# class of GPT-2, whose own expression differs. Pinned here: cl100k's, written into tokenizer.json,
# and a class that adds no rule of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> Tokenizer:
    """Train byte-level BPE on ``texts``; save it in ``folder`` for ``transformers.AutoTokenizer``.

    Args:
        texts: documents to learn the merges from.
        vocab_size: exact number of entries, the special tokens included.
        folder: created; receives tokenizer.json, tokenizer_config.json, special_tokens_map.json and
            chat_template.jinja.

    Raises:
        UserError: ``vocab_size`` is too small for bytes and special tokens, or too large for the
            text.
    """
    check_vocab_size(vocab_size)
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    # its own expression is GPT-2's
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise UserError(
            f"vocab_size: the text yields only {reached} of {vocab_size} tokenizer entries; "
            f"give more text or ask for at most {reached}"
        )

    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
    # clean-up would drop spaces before punctuation, so that decoding would not give back the text
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # without token types, which this class would pass to a model that has none
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)
    shutil.copyfile(CHAT_TEMPLATE, folder / CHAT_TEMPLATE.name)
    return tokenizer


def check_vocab_size(vocab_size: int) -> None:
    """Raise :class:`UserError` when ``vocab_size`` has no room for bytes and special tokens."""
    if vocab_size < MINIMUM_VOCAB_SIZE:
        raise UserError(
            f"vocab_size: {vocab_size} is too small, expected at least {MINIMUM_VOCAB_SIZE} "
            f"(256 bytes and {len(SPECIAL_TOKENS)} special tokens); give a larger one"
        )
