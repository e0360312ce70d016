"""Megatron's .bin/.idx files: writing them without loading torch, and reading documents' lengths.

The format is that of ``megatron/core/datasets/indexed_dataset.py`` in megatron-core 0.13.1, whose
builder takes 7 seconds to import and a Python call a document. Tests compare the files with that
builder's, byte for byte.
"""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.tokenizer import END_OF_TEXT
from recipes.common.errors import UserError
from recipes.common.tokenizer_files import vocab_size

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_CODES = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
# magic, version, code of the token type, sequences, documents + 1
_HEADER = struct.Struct("<9sQBQQ")
# after the header: each sequence's length (int32) and first byte in .bin (int64), then the first
# sequence of each document and the end (int64)
_BYTES_PER_SEQUENCE = 4 + 8
_BYTES_PER_BOUNDARY = 8
_BATCH = 256  # documents encoded at a time, by all cores; bounds the memory


def token_type(ids: int) -> np.dtype:
    """Return Megatron's type of tokens: uint16 where all ids are below 65,499, else int32."""
    if ids < 65500:
        return np.dtype(np.uint16)
    return np.dtype(np.int32)


def index_bytes(documents: int) -> int:
    """Return the size of an .idx file of documents of one sequence each."""
    return _HEADER.size + _body_bytes(documents, documents + 1)


def _body_bytes(sequences: int, boundaries: int) -> int:
    return _BYTES_PER_SEQUENCE * sequences + _BYTES_PER_BOUNDARY * boundaries


class Writer:
    """Writes ``prefix``.bin while documents come in, and ``prefix``.idx at the end.

    A document is one sequence. Used in a ``with`` block; the files are complete once :meth:`finish`
    has returned.
    """

    def __init__(self, prefix: Path, ids: int) -> None:
        """Begin the files of tokens whose ids are below ``ids``."""
        self.prefix = prefix
        self.dtype = token_type(ids)
        self._lengths: list[np.ndarray] = []
        self._sha256 = hashlib.sha256()
        self._bin = Path(f"{prefix}.bin").open("wb")  # noqa: SIM115 closed by __exit__

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._bin.close()

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents: their tokens end to end, shape (sum of lengths,), and their lengths."""
        # the array's own memory, without a copy
        data = np.ascontiguousarray(tokens, dtype=self.dtype).data
        self._bin.write(data)
        self._sha256.update(data)
        self._lengths.append(np.asarray(lengths, dtype=np.int32))

    def finish(self) -> tuple[str, str]:
        """Write the index; return the SHA-256 (hex) of .bin and .idx."""
        self._bin.close()
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        count = len(lengths)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            _CODES[self.dtype],
            count,
            count + 1,
        )
        # where each sequence starts in .bin, in bytes
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        first_bytes = starts * self.dtype.itemsize
        # a document is one sequence
        boundaries = np.arange(count + 1, dtype=np.int64)

        pieces = [
            header,
            lengths.data,
            first_bytes.data,
            boundaries.data,
        ]
        sha256 = hashlib.sha256()
        with Path(f"{self.prefix}.idx").open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
                sha256.update(piece)
        return self._sha256.hexdigest(), sha256.hexdigest()


def lengths(prefix: Path) -> np.ndarray:
    """Return the tokens of each document of ``prefix``.idx, shape (documents,), int64.

    Raises:
        UserError: the file is missing, not Megatron's, or truncated.
    """
    file = Path(f"{prefix}.idx")
    if not file.is_file():
        raise UserError(
            f"{file}: no such file, expected Megatron's index; check the path or write it again"
        )
    with file.open("rb") as stream:
        # a file that is shorter than a header has another magic
        header = stream.read(_HEADER.size)
        header = header.ljust(_HEADER.size, b"\x00")
        magic, version, _, sequences, boundaries = _HEADER.unpack(header)
        if magic != _MAGIC or version != _VERSION:
            raise UserError(f"{file}: is not Megatron's index (version {_VERSION}); write it again")
        size = _HEADER.size + _body_bytes(sequences, boundaries)
        if file.stat().st_size < size:
            raise UserError(
                f"{file}: is truncated, expected {sequences:,} documents; write it again"
            )
        sequence_lengths = np.fromfile(stream, np.int32, sequences)
        # skip where they start in .bin
        stream.seek(8 * sequences, 1)
        # the first sequence of each document, and the end of the last
        starts = np.fromfile(stream, np.int64, boundaries)

    # they start at 0, end at the last sequence and never fall
    is_valid = (
        boundaries > 0
        and starts[0] == 0
        and starts[-1] == sequences
        and np.all(np.diff(starts) >= 0)
        and np.all(sequence_lengths >= 0)
    )
    if not is_valid:
        raise UserError(
            f"{file}: is damaged, its documents do not follow each other; write it again"
        )
    # tokens before each sequence, and all tokens
    ends = np.cumsum(sequence_lengths, dtype=np.int64)
    tokens_before = np.concatenate([[0], ends])
    return np.diff(tokens_before[starts])


def write(
    prefix: Path,
    texts: Sequence[str],
    tokenizer: Tokenizer,
) -> np.ndarray:
    """Encode ``texts`` and write ``prefix``.bin and .idx: a document a text, then end-of-text.

    A special token spelled out in a text is encoded as plain characters, so that end-of-text only
    ever ends a document.

    Returns:
        How often each token id was written, shape (vocabulary size,).
    """
    ids = vocab_size(tokenizer.get_vocab())
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.encode_special_tokens = True
    counts = np.zeros(ids, dtype=np.int64)
    with Writer(prefix, ids) as writer:
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            documents = [[*encoding.ids, end_of_text] for encoding in encodings]
            sizes = [len(document) for document in documents]
            tokens = np.concatenate(documents)
            writer.add(tokens, np.array(sizes))
            counts += np.bincount(tokens, minlength=ids)
        writer.finish()
    return counts
