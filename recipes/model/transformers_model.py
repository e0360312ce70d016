"""A Hugging Face folder in transformers: its tokenizer and its model. Code in it is never run."""

from pathlib import Path
from typing import Any

from recipes.common.errors import UserError
from recipes.model_folder.view import transformers_view
from recipes.model_folder.weights import OpenedFolder


def load_tokenizer(folder: Path, vocab_size: int | None) -> Any:
    """Load the tokenizer and see that the model has a row for each of its tokens, if it is known.

    Raises:
        UserError: there is none, or it has tokens from ``vocab_size`` up.
    """
    # takes three seconds to import
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        tokens = max(tokenizer.get_vocab().values()) + 1
    except Exception as error:  # transformers and tokenizers raise anything for broken files
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder}: no tokenizer that transformers can load ({reason}); put its files there"
        ) from error
    if vocab_size is not None and tokens > vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens but the model {vocab_size}; use its own "
            "tokenizer"
        )
    return tokenizer


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
