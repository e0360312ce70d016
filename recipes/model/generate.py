"""Generate text from an exported model with transformers, as any user of the export would."""

from pathlib import Path

from recipes.common.errors import UserError


def generate(folder: Path, prompt: str, max_new_tokens: int) -> str:
    """Return ``prompt`` and its greedy continuation by the model in ``folder``.

    Raises:
        UserError: ``folder`` is not a Hugging Face model folder.
    """
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder}: no config.json, expected a Hugging Face model folder; make one with "
            "`granite41 export`"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.decode(out[0], skip_special_tokens=True)
