"""Megatron's .bin/.idx files, written with megatron-core's own builder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.tokenizer import END_OF_TEXT

_BATCH = 256  # documents encoded at a time, by all cores; bounds the memory


def write(prefix: Path, texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Encode ``texts`` and write ``prefix``.bin and ``prefix``.idx: one document a text, each closed by end-of-text.

    The token type is Megatron's choice for the vocabulary's size. A special token spelled out in a text is encoded as
    plain characters, so that end-of-text only ever ends a document.

    Returns:
        How often each token id was written, shape (vocabulary size,).
    """
    # imports torch, which takes seconds
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder, get_bin_path, get_idx_path

    vocab_size = tokenizer.get_vocab_size()
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    counts = np.zeros(vocab_size, dtype=np.int64)
    tokenizer.encode_special_tokens = True
    builder = IndexedDatasetBuilder(get_bin_path(str(prefix)), dtype=DType.optimal_dtype(vocab_size))
    try:
        for start in range(0, len(texts), _BATCH):
            for encoding in tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
                ids = np.array([*encoding.ids, end_of_text])
                builder.add_document(ids, [len(ids)])
                counts += np.bincount(ids, minlength=vocab_size)
        builder.finalize(get_idx_path(str(prefix)))
    finally:
        builder.data_file.close()
    return counts
