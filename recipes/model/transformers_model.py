"""A Hugging Face folder in transformers: its tokenizer and its model. Code in it is never run."""

from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.common.tokenizer_files import CONFIG, TokenizerFolder
from recipes.model_folder.view import transformers_view
from recipes.model_folder.weights import OpenedFolder


def load_tokenizer(
    files: TokenizerFolder, vocab_size: int | None = None, given: Path | None = None
) -> Any:
    """Load a tokenizer by the class that its tokenizer_config.json names.

    Args:
        files: its folder, whose damage is named by file and key before transformers meets it.
        vocab_size: of the model, which has a row for each id; None where it is not known.
        given: the folder that the user named, where ``files`` are a copy of its own.

    Raises:
        UserError: it has ids from ``vocab_size`` up, or a class that transformers does not have.
    """
    if vocab_size is not None:
        files.check_rows(vocab_size)
    # takes three seconds to import
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise anything for what they refuse
        given = given or files.folder
        reason = " ".join(str(error).split()).replace(str(files.folder), str(given))
        raise UserError(
            f"{given}: transformers cannot load this tokenizer, whose own code is never "
            f"run ({reason:.200}); {CONFIG} must name a class of transformers, such as "
            f"PreTrainedTokenizerFast"
        ) from error


def load_model(opened: OpenedFolder) -> Any:
    """Load the model in the type that its config names, on the GPU where there is one.

    Raises:
        UserError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with transformers_view(opened) as view:
            model = AutoModelForCausalLM.from_pretrained(
                view, torch_dtype="auto", local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{opened.folder}: transformers cannot load this model ({reason:.300}); name another"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device)
