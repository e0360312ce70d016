"""Text of a conversation: blocks of code in it, and normalization of what is outside of them."""

import re

from data_prep.quality import steps

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
# from the first of several backticks only, or a long row of them would take for ever
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)[^\n]+?(?<!`)\1(?!`)")


def normalize(text: str) -> str:
    r"""Return ``text`` with ``\n`` line ends, without control characters and in Unicode NFC.

    Of code, in fences or between backticks, only CR LF is changed: an escape or a decomposed letter
    may be what the code is about.
    """
    text = text.replace("\r\n", "\n")
    if "`" not in text and "~~~" not in text:
        return steps.clean(text)

    pieces = []
    position = 0
    blocks, opened = _code_blocks(text)
    if opened is not None:
        blocks.append((opened, len(text)))
    for start, end in blocks:
        prose = text[position:start]
        pieces.append(_normalize_prose(prose))
        pieces.append(text[start:end])
        position = end
    rest = text[position:]
    pieces.append(_normalize_prose(rest))
    return "".join(pieces)


def _normalize_prose(text: str) -> str:
    pieces = []
    position = 0
    for code in _INLINE_CODE.finditer(text):
        prose = text[position : code.start()]
        pieces.append(steps.clean(prose))
        pieces.append(code[0])
        position = code.end()
    rest = text[position:]
    pieces.append(steps.clean(rest))
    return "".join(pieces)


def is_cut_off(text: str) -> bool:
    """Whether a text ends within a fenced block, as one that was cut at a number of tokens."""
    if "```" not in text and "~~~" not in text:
        return False
    _, opened = _code_blocks(text)
    if opened is None:
        return False
    # a bare fence as the last line may close the outer one of two blocks
    last_line = text.rstrip().rfind("\n") + 1
    fence = _FENCE.match(text, last_line)
    return fence is None or bool(fence[2].strip())


def _code_blocks(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Return start and end of each fenced block, and the start of one that is not closed."""
    blocks = []
    start = None
    opened = ""
    for fence in _FENCE.finditer(text):
        marks, words = fence.groups()
        if start is None:
            # backticks behind backticks are code within a line
            if "`" not in words:
                start = fence.start()
                opened = marks
        elif marks.startswith(opened) and not words.strip():
            blocks.append((start, fence.end()))
            start = None
    return blocks, start
