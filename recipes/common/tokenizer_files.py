"""A tokenizer's folder in the Hugging Face format: end-of-text, size and fingerprint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from recipes.common.encoder import load
from recipes.common.errors import UserError
from recipes.common.json_files import read_json

# The languages that Granite 4.1 names, code, digits and white space: where split expressions and
# loaders differ.
FINGERPRINT_TEXT = (
    "It's 2026; WE'LL count 1234567890 tokens at 3.14 each.\n\n"
    "Straße, größer · el niño comió 12 piñas · l'été à Noël · coração, são · "
    "příliš žluťoučký kůň · perché no?\n"
    "één ijsje · 日本語のテキスト、百二十三 · 中文分词测试2026年 · 한국어 문장입니다 · "
    "السلام عليكم ١٢٣ · 🙂👩‍💻\r\n"
    "def f(x: int) -> float:\n    if x != 0x1F:\n\t\treturn x ** -0.5  # trailing   \n\n\n"
    "    raise Error(f'{x!r}')\n"
)


def end_of_text(folder: Path) -> int:
    """Return the id of the end-of-sequence token that ``folder``'s tokenizer_config.json names.

    Raises:
        UserError: the file is missing or damaged, or names none that the tokenizer has.
    """
    file = folder / "tokenizer_config.json"
    settings = read_json(file, "fetch the tokenizer again")
    content = settings.get("eos_token")
    # an added token's settings, the text among them
    if isinstance(content, dict):
        content = content.get("content")
    if not isinstance(content, str):
        raise UserError(
            f"{file}: names no eos_token, expected the one that ends a document; add it"
        )
    token_id = load(folder).token_to_id(content)
    if token_id is None:
        raise UserError(
            f"{file}: eos_token {content!r} is no entry of tokenizer.json; "
            f"the two files do not belong together"
        )
    return token_id


def vocab_size(folder: Path) -> int:
    """Return the number of entries of the tokenizer in ``folder``, added tokens included."""
    return load(folder).get_vocab_size()


def fingerprint(tokenizer_folder: Path) -> str:
    """Return :func:`fingerprint_ids` of :data:`FINGERPRINT_TEXT` by the folder's tokenizer."""
    encoding = load(tokenizer_folder).encode(FINGERPRINT_TEXT, add_special_tokens=False)
    return fingerprint_ids(encoding.ids)


def fingerprint_ids(ids: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of ``ids`` written as decimal numbers with commas.

    Another loader agrees with :func:`fingerprint` when its ids of :data:`FINGERPRINT_TEXT`, without
    special tokens added, have the same SHA-256.
    """
    numbers = ",".join(map(str, ids))
    return hashlib.sha256(numbers.encode()).hexdigest()
