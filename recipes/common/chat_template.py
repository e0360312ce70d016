"""The chat template in a tokenizer's folder."""

import hashlib
from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.json_files import read_json
from recipes.common.tokenizer_files import CONFIG

CHAT_TEMPLATE = "chat_template.jinja"


def read_chat_template(folder: Path) -> tuple[str, Path]:
    """Return the chat template of a tokenizer's folder, and the file that holds it.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    file = folder / CHAT_TEMPLATE
    source: Any = None
    if file.is_file():
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); fetch it again") from error
    elif (folder / CONFIG).is_file():
        # where former versions of transformers wrote it
        file = folder / CONFIG
        source = read_json(file, "fetch the tokenizer again").get("chat_template")
    if not isinstance(source, str):
        raise UserError(
            f"{folder}: holds no {CHAT_TEMPLATE}, expected the template that conversations are "
            f"rendered with; copy that of the model into it"
        )
    return source, file


def template_sha256(source: str) -> str:
    """Return the SHA-256 of a template, in hex, as manifests state it."""
    return hashlib.sha256(source.encode()).hexdigest()
