"""Files in order as documents of a limited number of tokens.

Files are ordered by path, a folder's files before its sub-folders, and numbers within names by
value (page 2 before page 10). So the files of one folder, which mostly belong together, stay
together, and no language needs a parser. IBM's long-context code models ordered files by their
import dependencies (arXiv 2407.13739); what Granite 4.1 did is not published.

Before each file is a line with its path, ``#src/main.c``, the form of DeepSeek-Coder's
repository-level data (arXiv 2401.14196). That is an assumption. StarCoder2's ``<file_sep>`` is a
special token of its own tokenizer; in another's text it would be no more than characters. A path
that is a bare number (a page) gets no such line.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recipes.common.encoder import Encoder

# any one character and end-of-text fit
MINIMUM_TOKENS = 16


@dataclass(frozen=True)
class Packed:
    """A document.

    Attributes:
        text: files with their headers, or a piece of one file.
        files: how many of them.
        tokens: of the whole text with end-of-text, as ``granite41 data tokenize`` counts them.
        cut: whether it is the first piece of a file that was cut.
    """

    text: str
    files: int
    tokens: int
    cut: bool


def pack(files: Iterable[tuple[str, str]], max_tokens: int, encoder: Encoder) -> Iterator[Packed]:
    """Yield a repository's documents: files in order, as many as fit.

    Each document is encoded as a whole to be sure. A file that does not fit into the rest of a
    document starts the next one. One that is too long for any is cut at line ends (within a line
    only where that alone is too long); the header is before its first piece only.

    Args:
        files: path and text of each file, in order.
        max_tokens: of a document, end-of-text included; at least :data:`MINIMUM_TOKENS`.
        encoder: counts the tokens.

    Raises:
        EncoderMismatch: of the encoder.
    """
    # one for end-of-text
    room = max_tokens - 1
    texts = [_with_header(path, text) for path, text in files]
    _, sizes = encoder.encode(texts)
    waiting = deque(map(_Piece, texts, sizes.tolist()))
    while waiting:
        first = waiting[0]
        cut = first.tokens > room and not first.is_rest
        document = _take(waiting, room, encoder)

        # the whole may have more tokens than its files together: another split where they meet
        text = "".join(piece.text for piece in document)
        tokens = _count(text, encoder)
        while tokens > room:
            waiting.appendleft(document.pop())
            text = "".join(piece.text for piece in document)
            tokens = _count(text, encoder)
        yield Packed(text, len(document), tokens + 1, cut)


def _take(waiting: "deque[_Piece]", room: int, encoder: Encoder) -> "list[_Piece]":
    """Take the pieces that fit into ``room`` tokens off ``waiting``, or the start of the first."""
    document: list[_Piece] = []
    left = room
    while waiting and waiting[0].tokens <= left:
        piece = waiting.popleft()
        document.append(piece)
        left -= piece.tokens
    if document:
        return document

    # the first alone is too long: its rest is the first of the next document
    whole = waiting.popleft()
    end = _longest_start(whole.text, room, encoder)
    start = whole.text[:end]
    rest = whole.text[end:]
    rest_tokens = _count(rest, encoder)
    waiting.appendleft(_Piece(rest, rest_tokens, is_rest=True))
    return [_Piece(start, _count(start, encoder))]


@dataclass(frozen=True)
class _Piece:
    """A file with its header, or the rest of one after a cut, and its tokens by itself."""

    text: str
    tokens: int
    is_rest: bool = False


def order(path: str) -> tuple[Any, ...]:
    """Return the key that sorts paths: files before sub-folders, numbers within names by value."""
    *folders, file = path.split("/")
    # 0 before 1: at each level a folder's files come before its sub-folders
    key = [(1, _natural(folder)) for folder in folders]
    key.append((0, _natural(file)))
    # paths that differ only in leading zeros have the same key
    return key, path


def _natural(name: str) -> list[Any]:
    """Return ``page10`` as ``["page", (2, "10"), ""]``: digits compare by number, then value."""
    # split at a group keeps what it matches: the digits are every second piece
    pieces: list[Any] = re.split(r"([0-9]+)", name)
    for position in range(1, len(pieces), 2):
        digits = pieces[position].lstrip("0")
        pieces[position] = (len(digits), digits)
    return pieces


def _with_header(path: str, text: str) -> str:
    if not text.endswith("\n"):
        text += "\n"
    # the page of a book, whose number says nothing
    if re.fullmatch(r"[0-9]+", path):
        return text
    return f"#{path}\n{text}"


def _longest_start(text: str, room: int, encoder: Encoder) -> int:
    """Return where ``text`` is cut: the last line end with at most ``room`` tokens before it.

    If the line after it has more than ``room`` by itself, and so is cut in any case, within that.
    """

    def is_over(end: int) -> bool:
        return _count(text[:end], encoder) > room

    ends = [match.end() for match in re.finditer("\n", text)]
    # bisection has tried the position before the one that it returns, so the start fits for certain
    lines = bisect_left(ends, True, key=is_over)
    start = 0
    if lines:
        start = ends[lines - 1]

    # the first line that does not fit
    end = ends[lines]
    line = text[start:end]
    if _count(line, encoder) <= room:
        return start
    characters = range(start + 1, end + 1)
    return start + bisect_left(characters, True, key=is_over)


def _count(text: str, encoder: Encoder) -> int:
    _, lengths = encoder.encode([text])
    return int(lengths[0])
