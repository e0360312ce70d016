"""The other files of a model's folder that change what it answers: config, tokenizer, templates."""

import shutil
from pathlib import Path

from recipes.model_folder.config import CONFIG

GENERATION_CONFIG = "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names, in the folder, of the tokenizer's files and the chat templates.

    A module with code is none of them.
    """
    names = set()
    for pattern in _TOKENIZER_FILES:
        for file in folder.glob(pattern):
            if file.is_file() and file.suffix != ".py":
                names.add(str(file.relative_to(folder)))
    return sorted(names)


def settings_files(folder: Path) -> list[str]:
    """Return the names of all files that change what the model answers, but the weights."""
    names = [CONFIG, GENERATION_CONFIG, *tokenizer_files(folder)]
    return [name for name in names if (folder / name).is_file()]


def copy_files(source: Path, names: list[str], target: Path) -> None:
    """Copy files as they are; saving a loaded tokenizer would rewrite them."""
    for name in names:
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, file)
