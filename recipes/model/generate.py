"""Generate text from an exported model with transformers, as any user of the export would."""

from pathlib import Path

from recipes.common.chat_template import read_chat_template
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import TokenizerFolder
from recipes.model_folder.config import CONFIG, positions_of
from recipes.model_folder.weights import open_folder


def generate(folder: Path, prompt: str, max_new_tokens: int, chat: bool = False) -> str:
    """Return ``prompt`` and its greedy continuation by the model in ``folder``.

    Args:
        folder: a Hugging Face model folder.
        prompt: the text to continue, or what the user says.
        max_new_tokens: at most; the end of text ends it before.
        chat: put the prompt into the folder's chat template, and return the reply alone.

    Raises:
        UserError: ``folder`` is not a Hugging Face model folder or has no chat template, the prompt
            is empty, or more tokens are asked for than the model has positions.
    """
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder}: no config.json, expected a Hugging Face model folder; make one with "
            "`granite41 export`"
        )
    opened = open_folder(folder)
    positions = positions_of(opened.values, folder / CONFIG)
    _check_length(folder, positions, 1, max_new_tokens)
    if chat:
        # refuses a folder without one
        read_chat_template(folder)

    from recipes.model.transformers_model import load_model, load_tokenizer

    files = TokenizerFolder(folder)
    files.check_library_ids()
    tokenizer = load_tokenizer(files, opened.values.get("vocab_size"))
    text = prompt
    if chat:
        said = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    # the template writes all special tokens itself
    encoding = tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
    num_tokens = encoding["input_ids"].shape[1]
    if not num_tokens:
        raise UserError(
            f"--prompt {prompt!r}: has no tokens, so there is nothing to continue; give some text"
        )
    _check_length(folder, positions, num_tokens, max_new_tokens)

    model = load_model(opened)
    # not what else a tokenizer returns, as the types of segments
    out = model.generate(
        encoding["input_ids"].to(model.device),
        attention_mask=encoding["attention_mask"].to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    shown = out[0][num_tokens:] if chat else out[0]
    return tokenizer.decode(shown, skip_special_tokens=True)


def _check_length(folder: Path, positions: int, prompt: int, tokens: int) -> None:
    if prompt + tokens > positions:
        raise UserError(
            f"--tokens {tokens}: with a prompt of {prompt} tokens or more, this is beyond the "
            f"{positions:,} positions of {folder}; ask for at most {max(0, positions - prompt)}"
        )
