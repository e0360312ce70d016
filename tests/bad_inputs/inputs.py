"""Functions that write the inputs of rows: each takes the folder in which the command will run."""

import json
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recipes.registry.resolve import resolve_pretraining
from recipes.runs.packed_folder import PackedSequence
from recipes.runs.prompts import Prompt, PromptSource, write_prompts
from recipes.runs.stage_folder import write_recipe
from tests.bad_inputs.row import Input
from tests.helpers.manifests import data_manifest, write_stage_manifest
from tests.helpers.packed_folders import write_packed
from tests.helpers.report_pages import unit, write_scores

Damage = Callable[[bytes], bytes]


def text(path: str, content: str | bytes) -> Input:
    """Write a file."""
    if isinstance(content, str):
        content = content.encode()

    def write(folder: Path) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    return write


def json_file(path: str, value: Any) -> Input:
    """Write a value as JSON."""
    return text(path, json.dumps(value))


def empty_folder(path: str) -> Input:
    """Create a folder."""
    return lambda folder: (folder / path).mkdir(parents=True)


def link(path: str, target: str) -> Input:
    """Create a symbolic link."""
    return lambda folder: (folder / path).symlink_to(target)


def removed(path: str) -> Input:
    """Remove a file that an input before this one wrote."""
    return lambda folder: (folder / path).unlink()


def damaged(path: str, damage: Damage) -> Input:
    """Change the content of a file that an input before this one wrote."""

    def change(folder: Path) -> None:
        file = folder / path
        file.write_bytes(damage(file.read_bytes()))

    return change


def changed_json(path: str, change: Callable[[Any], object]) -> Input:
    """Change the value in a JSON file that an input before this one wrote."""

    def damage(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return damaged(path, damage)


def with_values(path: str, **values: Any) -> Input:
    """Set keys of a JSON file that an input before this one wrote."""
    return changed_json(path, lambda content: content.update(values))


def put(value: Any, keys: Sequence[str | int], new: Any) -> None:
    """Set what some keys lead to in a JSON value; ``...`` removes it."""
    *parents, last = keys
    for key in parents:
        value = value[key]
    if new is ...:
        del value[last]
    else:
        value[last] = new


def cut(content: bytes) -> bytes:
    """Leave out the last 20 bytes, as an interrupted copy does."""
    return content[:-20]


def latin_1(content: bytes) -> bytes:
    """Put a byte before the content that is no UTF-8."""
    return b"\xe4" + content


def a_list(content: bytes) -> bytes:
    """Replace a JSON object by a list."""
    return b'["a list"]'


def no_keys(content: bytes) -> bytes:
    """Replace a JSON object by one without keys."""
    return b"{}"


def tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer into ``tokenizer/``."""
    for name, content in _tokenizer_files().items():
        text(f"tokenizer/{name}", content)(folder)


@cache
def _tokenizer_files() -> dict[str, str]:
    # not at import, as the tokenizers library is read by some rows only
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from data_prep.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, PAD, SPECIAL_TOKENS

    vocabulary = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokens = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(SPECIAL_TOKENS)

    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PAD}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    return {
        "tokenizer.json": tokens.to_str(),
        "tokenizer_config.json": json.dumps(config),
        CHAT_TEMPLATE.name: CHAT_TEMPLATE.read_text(encoding="utf-8"),
    }


def documents(folder: Path) -> None:
    """Write three documents into ``a.jsonl``."""
    lines = [json.dumps({"text": f"document {number}"}) for number in range(3)]
    text("a.jsonl", "\n".join(lines) + "\n")(folder)


def conversations(folder: Path) -> None:
    """Write a conversation into ``a.jsonl``."""
    messages = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    json_file("a.jsonl", {"messages": messages})(folder)


def packed(folder: Path) -> None:
    """Write two sequences of three conversations into ``packed/``."""
    ids = np.arange(12, dtype=np.int32)
    both = [
        PackedSequence(ids[:8], ids[:8] % 2 == 1, np.array([0, 3, 8])),
        PackedSequence(ids[8:], ids[8:] % 2 == 1, np.array([0, 4])),
    ]
    write_packed(folder / "packed", both)


def prompts(folder: Path) -> None:
    """Write two prompts for reinforcement learning into ``prompts/``."""
    (folder / "prompts").mkdir()
    both = [
        Prompt("a", "math", [{"role": "user", "content": "2 + 2?"}], "math", {"answer": "4"}),
        Prompt("b", "math", [{"role": "user", "content": "2 + 3?"}], "math", {"answer": "5"}),
    ]
    sources = {"arithmetic": PromptSource(2, "Apache-2.0", {"no prompt": 1})}
    write_prompts(folder / "prompts", both, sources, seed=7)


def run(folder: Path) -> None:
    """Write the records of a finished phase1 of size tiny into ``run/``."""
    stage = folder / "run" / "phase1"
    write_recipe(stage, resolve_pretraining("phase1", "tiny"))
    write_stage_manifest(stage)


def prepared_data(folder: Path) -> None:
    """Write the manifest of prepared data into ``data/``."""
    (folder / "data").mkdir()
    data_manifest(text={"text": 5}).write(folder / "data")


def index(lengths: Sequence[int]) -> bytes:
    """Return Megatron's index of documents of one sequence each."""
    count = len(lengths)
    header = struct.pack("<9sQBQQ", b"MMIDIDX", 1, 8, count, count + 1)
    # where a sequence begins in .bin, and which one begins a document
    pointers = struct.pack(f"<{count}q", *range(count))
    documents = struct.pack(f"<{count + 1}q", *range(count + 1))
    return header + struct.pack(f"<{count}i", *lengths) + pointers + documents


def tokenized(folder: Path) -> None:
    """Write the manifest of a tokenized component into ``tokenized/``."""
    shard = {"prefix": "shard-00000", "documents": 1, "tokens": 5, "bytes": 9}
    hashes = {"bin_sha256": "0" * 64, "idx_sha256": "1" * 64}
    manifest = {
        "documents": 1,
        "tokens": 5,
        "bytes": 9,
        "left_out": {"no text": 2},
        "licenses": {"CC0-1.0": 1},
        "sources": {"a.jsonl": 1},
        "tokenizer": {"fingerprint": "2" * 64, "vocab_size": 260, "end_of_text": 0},
        "shards": [shard | hashes],
    }
    json_file("tokenized/manifest.json", manifest)(folder)


def evaluation(folder: Path) -> None:
    """Write an evaluation of phase1 by the suite base into ``run/phase1/eval/base``."""
    write_scores(folder / "run", "phase1", "base", [unit("mmlu", 60.0), unit("bbh", 50.0, None)])
