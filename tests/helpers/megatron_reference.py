"""Output of Megatron-LM's preprocess_data.py, for documents and a tokenizer that never change."""

import json
from pathlib import Path
from unittest import mock

import numpy as np

from data_prep import tokenizer

VOCABULARY_TEXT = [
    "It's one text, größer: 日本語 123456 🙂\r\n\r\n  x = f(y)  # why ?\n" * 4,
    "other things. " * 9,
]

DOCUMENTS = [
    *(
        f"document {n}: " + "größer, 日本語, x = f(y)  # why ?\r\n" * (n * 7 % 13)
        for n in range(50)
    ),
    "a special token <|end_of_text|> spelled out, and <|pad|> too",
    "combining e\u0301, ligature ﬁ, Ⅷ, 𝔘, NUL \x00, zero width \u200b, line \u2028, "
    "wide space \u3000 and 👩‍💻",
    " ",
    "\n",
    "x" * 5000,
    "12345678901234567890\t\t  \r\n\r\n   ",
]

# SHA-256 of small_text_document.bin and .idx, made with Megatron-LM core_v0.13.1 and transformers
# 4.51.3 by
#   python tools/preprocess_data.py --input small.jsonl --output-prefix small --append-eod \
#       --workers 2 --tokenizer-type HuggingFaceTokenizer --tokenizer-model TOKENIZER_FOLDER
# from the two functions below
SHA256 = {
    "bin": "3d70edab072e4b401de609f10eeedcd154865d1c9482367fa13899b4e6129cd5",
    "idx": "0ac29c3e8065a5bca30bc55a96a7a9c2cba5a7c400ea04cc1972a8a14f8e782d",
}


def make_tokenizer(folder: Path) -> Path:
    """Train a tokenizer of 300 entries, without the role tokens, which came later."""
    without_roles = [tokenizer.END_OF_TEXT, tokenizer.PAD]
    with mock.patch.object(tokenizer, "SPECIAL_TOKENS", without_roles):
        tokenizer.train(VOCABULARY_TEXT, 300, folder)
    return folder


def write_documents(path: Path, documents: list[str] = DOCUMENTS) -> Path:
    """Write the documents as JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def with_builder(folder: Path, prefix: Path, documents: list[str]) -> None:
    """Write the same with AutoTokenizer and megatron-core's builder, as preprocess_data.py does."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(folder)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(auto)))
    for text in documents:
        ids = [*auto(text).input_ids, auto.eos_token_id]
        builder.add_document(np.array(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")
