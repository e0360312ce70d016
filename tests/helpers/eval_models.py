"""A small Granite model with a real tokenizer, and `granite41` within this process."""

import contextlib
import io
import sys
from pathlib import Path

POSITIONS = 256


def write_model(
    folder: Path,
    positions: int = POSITIONS,
    seed: int = 0,
    *,
    hidden_size: int = 32,
    layers: int = 1,
) -> None:
    """Write a model with random weights and a byte-level BPE tokenizer of 2,048 entries."""
    import torch
    from transformers import GraniteConfig, GraniteForCausalLM

    from data_prep import tokenizer

    sources = Path(tokenizer.__file__).parents[1]
    files = [*sorted(sources.glob("recipes/**/*.py")), *sorted(sources.glob("evaluation/**/*.py"))]
    tokenizer.train([path.read_text() for path in files], 2048, folder)
    torch.manual_seed(seed)
    config = GraniteConfig(
        vocab_size=2048,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    GraniteForCausalLM(config).save_pretrained(folder)


def granite41(*words: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of ``granite41 WORDS``."""
    from recipes.cli import main as cli

    sys.argv = ["granite41", *words]
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()
