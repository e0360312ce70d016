"""A model by its name on the Hugging Face Hub."""

from pathlib import Path

from recipes.common.errors import UserError


def is_path(source: str) -> bool:
    """Return whether ``source`` is a folder, or is written like one, and so no name on the Hub."""
    return Path(source).exists() or source.startswith(("/", "."))


def local_folder(source: str) -> Path:
    """Return ``source`` if it is a folder, else download the model that the Hub has under this
    name.

    Raises:
        UserError: neither a folder nor a model that can be reached.
    """
    if is_path(source):
        return Path(source)
    from huggingface_hub import snapshot_download

    # no modules with code, and no second set of weights, as some models have for other programs
    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    others = ["consolidated*.safetensors"]
    try:
        folder = snapshot_download(source, allow_patterns=patterns, ignore_patterns=others)
        return Path(folder)
    except Exception as error:  # the library lets its transports' own exceptions through
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: neither a folder here nor a model that the Hub gives "
            f"({type(error).__name__}: {reason}); check the name and the network"
        ) from error
