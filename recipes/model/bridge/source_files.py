"""Files of a Hugging Face folder that NeMo has no place for, kept in the checkpoint's context.

A round trip of import and export keeps what they say: the ids of special tokens, the settings of
sampling, further chat templates.
"""

from pathlib import Path
from typing import Any

from recipes.common.json_files import write_json
from recipes.model_folder.config import CONFIG, read_values
from recipes.model_folder.files import GENERATION_CONFIG, copy_files, settings_files

_FOLDER = "hf_source"


def nemo_tokenizer_files(source: Path) -> list[str]:
    """Return the tokenizer's files that NeMo copies into a checkpoint: those in no folder."""
    return [name for name in settings_files(source) if not _is_kept(name)]


def keep_source_files(source: Path, checkpoint: Path, dtype: str | None) -> None:
    """Copy the config and all other files that NeMo does not copy into ``checkpoint``.

    Args:
        dtype: the type of all tensors where the import converts them.
    """
    folder = checkpoint / "context" / _FOLDER
    folder.mkdir()
    copy_files(source, [name for name in settings_files(source) if _is_kept(name)], folder)
    values = read_values(source)
    if dtype:
        values["torch_dtype"] = dtype
    write_json(folder / CONFIG, values)


def _is_kept(name: str) -> bool:
    return name in (CONFIG, GENERATION_CONFIG) or "/" in name


def source_values(context: Path) -> dict[str, Any] | None:
    """Return the config of the folder that a checkpoint was imported from; None of other ones.

    Raises:
        UserError: it is damaged.
    """
    folder = context / _FOLDER
    return read_values(folder) if folder.is_dir() else None


def copy_kept_files(context: Path, target: Path) -> None:
    """Copy all files but the config that an import kept, if it kept any."""
    folder = context / _FOLDER
    copy_files(folder, [name for name in settings_files(folder) if name != CONFIG], target)
