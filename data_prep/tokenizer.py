"""A small byte-level BPE tokenizer in the Hugging Face format, and a fingerprint that tells tokenizers apart."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.encoder import load
from recipes.spec.errors import UserError

END_OF_TEXT = "<|end_of_text|>"  # id 0; begin and end of text are one token, as in Granite 4.1
PAD = "<|pad|>"  # id 1
SPECIAL_TOKENS = [END_OF_TEXT, PAD]
MINIMUM_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte has an entry, so no text is unknown

# Granite 4.1's tokenizer.json splits by cl100k's expression, its tokenizer_config.json names GPT-2's class, whose own
# expression differs. Pinned here: cl100k's, written into tokenizer.json and with a class that adds no rule of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The languages that Granite 4.1 names, code, digits and white space: where split expressions and loaders differ.
FINGERPRINT_TEXT = (
    "It's 2026; WE'LL count 1234567890 tokens at 3.14 each.\n\n"
    "Straße, größer · el niño comió 12 piñas · l'été à Noël · coração, são · příliš žluťoučký kůň · perché no?\n"
    "één ijsje · 日本語のテキスト、百二十三 · 中文分词测试2026年 · 한국어 문장입니다 · السلام عليكم ١٢٣ · 🙂👩‍💻\r\n"
    "def f(x: int) -> float:\n    if x != 0x1F:\n\t\treturn x ** -0.5  # trailing   \n\n\n    raise Error(f'{x!r}')\n"
)


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> Tokenizer:
    """Train byte-level BPE on ``texts`` and save it in ``folder``, ready for ``transformers.AutoTokenizer``.

    Args:
        texts: documents to learn the merges from.
        vocab_size: exact number of entries, the two special tokens included.
        folder: created; receives tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Raises:
        UserError: ``vocab_size`` is too small for bytes and special tokens, or too large for the text.
    """
    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
    # clean-up would drop spaces before punctuation, so that decoding would not give back the text
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # without token types, which this class would hand to a model that has none
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    return tokenizer


def check_vocab_size(vocab_size: int) -> None:
    """Raise :class:`UserError` when ``vocab_size`` has no room for the 256 bytes and the special tokens."""
    if vocab_size < MINIMUM_VOCAB_SIZE:
        raise UserError(
            f"vocab_size: {vocab_size} is too small, expected at least {MINIMUM_VOCAB_SIZE} "
            f"(256 bytes and {len(SPECIAL_TOKENS)} special tokens); give a larger one"
        )


def end_of_text(folder: Path) -> int:
    """Return the id of the end-of-sequence token that ``folder``'s tokenizer_config.json names.

    Raises:
        UserError: the file is missing or damaged, or names none that the tokenizer has.
    """
    file = folder / "tokenizer_config.json"
    try:
        token = json.loads(file.read_text(encoding="utf-8"))["eos_token"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: names no eos_token, expected the one that ends a document; add it") from error
    content = token["content"] if isinstance(token, dict) else token
    found = load(folder).token_to_id(content)
    if found is None:
        raise UserError(
            f"{file}: eos_token {content!r} is no entry of tokenizer.json; the two files do not belong together"
        )
    return found


def vocab_size(folder: Path) -> int:
    """Return the number of entries of the tokenizer in ``folder``, added tokens included."""
    return load(folder).get_vocab_size()


def fingerprint(tokenizer_folder: Path) -> str:
    """Return :func:`fingerprint_ids` of :data:`FINGERPRINT_TEXT` as ``tokenizer_folder``'s tokenizer encodes it."""
    return fingerprint_ids(load(tokenizer_folder).encode(FINGERPRINT_TEXT, add_special_tokens=False).ids)


def fingerprint_ids(ids: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of ``ids`` written as decimal numbers with commas.

    Another loader agrees with :func:`fingerprint` when its ids of :data:`FINGERPRINT_TEXT`, without special tokens
    added, have the same SHA-256.
    """
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
