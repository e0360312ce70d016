"""What supervised fine-tuning of a small model needs: a base model, and packed conversations."""

import json
import random
from pathlib import Path
from typing import Any

from tests.bad_inputs import inputs

LENGTH = 128
# 8 steps of 4 sequences; a checkpoint and a validation after every second one
STEPS, SEQUENCES = 8, 4
SETTINGS = [
    "model.vocab_size=384",
    "model.num_layers=2",
    f"sequence_length={LENGTH}",
    f"steps={STEPS}",
    f"global_batch_size={SEQUENCES}",
    "parallelism.micro_batch_size=2",
    "validate_every_steps=2",
    "checkpoint_every_steps=2",
    "validation_share=0.2",
]


def write_base(folder: Path) -> Path:
    """Write a Hugging Face folder of the model that :data:`SETTINGS` describe."""
    from recipes.registry.resolve import resolve
    from tests.helpers.bridge_folders import write_granite

    recipe = resolve("sft", "tiny", SETTINGS)
    size = recipe.model
    write_granite(
        folder,
        vocab_size=size.vocab_size.value,
        hidden_size=size.hidden_size.value,
        intermediate_size=size.ffn_hidden_size.value,
        num_hidden_layers=size.num_layers.value,
        num_attention_heads=size.num_attention_heads.value,
        num_key_value_heads=size.num_query_groups.value,
        attention_multiplier=size.attention_multiplier.value,
        embedding_multiplier=size.embedding_multiplier.value,
        residual_multiplier=size.residual_multiplier.value,
        logits_scaling=size.logits_scaling.value,
        rms_norm_eps=size.rms_norm_eps.value,
        rope_theta=recipe.rope_theta.value,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    for path in folder.glob("*token*"):
        path.unlink()
    inputs.tokenizer(folder)
    for path in (folder / "tokenizer").iterdir():
        path.rename(folder / path.name)
    (folder / "tokenizer").rmdir()
    return folder


def write_packed(folder: Path, tokenizer: Path, count: int = 100, seed: int = 1) -> Path:
    """Pack sums and their answers, some in two turns."""
    from data_prep.conversations.pack import Settings, pack

    draw = random.Random(seed)
    records = folder.with_suffix(".jsonl")
    lines = []
    for _ in range(count):
        messages: list[dict[str, Any]] = []
        for _ in range(draw.randint(1, 2)):
            one, other = draw.randint(0, 99), draw.randint(0, 9999)
            messages.append({"role": "user", "content": f"{one} + {other}?"})
            messages.append({"role": "assistant", "content": f"It is {one + other}."})
        lines.append(json.dumps({"messages": messages}))
    records.write_text("\n".join(lines) + "\n")
    pack([str(records)], folder, Settings(tokenizer, LENGTH))
    return folder


def command(run_folder: Path, packed: Path, base: Path, *overrides: str) -> list[str]:
    """The words of the command line that fine-tunes."""
    where = ["--run-dir", str(run_folder), "--packed", str(packed), "--init", str(base)]
    return ["granite41", "train", "sft", "--size", "tiny", *where, *SETTINGS, *overrides]
